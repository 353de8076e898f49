# SPDX-License-Identifier: MIT
"""Repeats the reference report's comparison and writes docs/report.md: `make report`.

    REPORT=--quick    short runs, within 5 minutes
    (nothing)         within 20 minutes on two emulated processors
    REPORT=--full     the report's 15,000 calls a fiber; many hours where the processor is emulated
    REPORT=--here     on this machine, where the module is loaded, and not in a virtual machine
    REPORT=--page     measures nothing; makes page and pictures again from docs/report/data.json

With --quick and --here the result goes to build/report, with the others to docs/, unless --output
names a folder. What cannot be measured is left out, and the page says why.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from kfiber_bench import charts, data, greenlets, native, page, peers, reference, steps
from kfiber_bench.data import ROOT, Data, Record

SIZES = (128, 256, 512, 1024, 2048, 4096)
SECOND = "7.3"
# Seconds between two lines about steps, where there is no terminal.
TELL = 20.0
# The repeat belongs to a sample only until samples of one kind become a Series.
TIMES = {"matrix": ("init", "work", "active"), "switching": ("ns",)}


class Mode(NamedTuple):
    """How long everything is measured."""

    calls: int
    repeats: int
    sizes: tuple[int, ...]
    seconds: float
    # Numbers of fibers where requests are counted: what a line is drawn through.
    counted: tuple[int, ...]
    # Calls a fiber where the workload's instructions are counted.
    counted_calls: int
    # Fibers, and processes at once, on the second kernel.
    second: tuple[tuple[int, ...], tuple[int, ...]]
    native_fibers: tuple[int, ...]
    native_passes: int
    python_passes: int


WHOLE = ((512, 1024), (1, 3))
MODES = {
    "quick": Mode(
        calls=5,
        repeats=3,
        sizes=(128, 512, 2048),
        seconds=0.05,
        counted=SIZES[:4],
        counted_calls=5,
        second=((512,), (1,)),
        native_fibers=(2, 512, 1024),
        native_passes=4,
        python_passes=0,
    ),
    "default": Mode(
        calls=30,
        repeats=5,
        sizes=SIZES,
        seconds=0.1,
        counted=SIZES,
        counted_calls=30,
        second=WHOLE,
        native_fibers=native.NUMBERS,
        native_passes=4,
        python_passes=1,
    ),
    "full": Mode(
        calls=reference.CALLS,
        repeats=5,
        sizes=SIZES,
        seconds=0.5,
        counted=SIZES,
        counted_calls=30,
        second=WHOLE,
        native_fibers=native.NUMBERS,
        native_passes=native.PASSES,
        python_passes=4,
    ),
}


class Progress:
    """What is being done, on standard error: a line that moves on a terminal, else one a part."""

    def __init__(self) -> None:
        self._task: Any = None
        self._bar: Any = None
        # Without a terminal: steps of the part, done and to do, and when they were last told.
        self._done = self._count = 0
        self._told = 0.0
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar
        except ImportError:
            return
        console = Console(stderr=True)
        if console.is_terminal:
            self._bar = Bar(
                TimeElapsedColumn(), BarColumn(20), MofNCompleteColumn(),
                TextColumn("{task.description}"), console=console,
            )  # fmt: skip

    @contextmanager
    def part(self, title: str) -> Iterator[None]:
        """What is done inside the block."""
        started = time.monotonic()
        if self._bar is None:
            print(f"report: {title} …", file=sys.stderr, flush=True)
            self._done = self._count = 0
            self._told = started
            yield
            seconds = time.monotonic() - started
            print(f"report: {title}: {seconds:.0f} s", file=sys.stderr, flush=True)
            return
        with self._bar:
            self._task = self._bar.add_task(title, total=None)
            yield
            self._bar.update(self._task, description=title)
            self._bar.remove_task(self._task)
            self._bar.console.print(f"{title}: {time.monotonic() - started:.0f} s")

    def steps(self, count: int) -> None:
        """So many more are to be expected."""
        self._count += count
        if self._bar is not None:
            total = self._bar.tasks[-1].total or 0
            self._bar.update(self._task, total=total + count)

    def step(self, title: str) -> None:
        """One begins."""
        self._done += 1
        if self._bar is None and time.monotonic() - self._told > TELL:
            self._told = time.monotonic()
            print(f"report: {self._done} of {self._count}: {title}", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.update(self._task, description=title, advance=1)


class Collection:
    """The data as it grows."""

    def __init__(self, progress: Progress) -> None:
        self.data = data.new()
        self.progress = progress
        self._samples: dict[str, list[Record]] = {table: [] for table in TIMES}

    def missing(self, what: str, why: str) -> None:
        """Said in the page, and to whoever waits."""
        print(f"report: left out: {what}: {why}", file=sys.stderr, flush=True)
        self.data["missing"].append({"what": what, "why": why})

    def take(self, machine: str, event: Record) -> None:
        """What collect.py says, of that machine."""
        if "about" in event:
            self.data["machines"][machine] = event["about"]
        elif "steps" in event:
            self.progress.steps(event["steps"])
        elif "step" in event:
            self.progress.step(event["step"])
        elif "missing" in event:
            self.missing(f"{event['missing']} ({machine})", event["why"])
        else:
            ((table, sample),) = event.items()
            if table in TIMES:
                self._samples[table].append({"machine": machine, **sample})
            else:
                self.data[table].append(sample)

    def close(self) -> Data:
        """All samples of one kind become a Series each."""
        for table, names in TIMES.items():
            self.data[table] = merged(self._samples[table], names)
        return self.data


def identity(sample: Record, names: tuple[str, ...]) -> tuple[object, ...]:
    """What samples of one Series have in common."""
    varying = {*names, "repeat", "refused", "reads", "switches", "calls"}
    return tuple(value for key, value in sample.items() if key not in varying)


def merged(samples: list[Record], names: tuple[str, ...]) -> list[Record]:
    """A record for each kind of sample, with its Series and its ratio to version 1."""
    main = names[-1]
    groups: dict[tuple[object, ...], list[Record]] = {}
    for sample in samples:
        groups.setdefault(identity(sample, names), []).append(sample)
    found = []
    for group in groups.values():
        record = {key: value for key, value in group[0].items() if key != "repeat"}
        for name in names:
            record[name] = data.series([each[name] for each in group])
        for name in ("refused", "reads", "switches"):
            if name in record:
                record[name] = data.significant(sum(each[name] for each in group) / len(group))
        own = {each["repeat"]: each[main] for each in group}
        base = {
            each["repeat"]: each[main]
            for each in groups.get(identity({**group[0], "variant": "version1"}, names), ())
        }
        ratios = [own[repeat] / base[repeat] for repeat in own if repeat in base]
        if ratios:
            record["ratio"] = data.series(ratios)
        found.append(record)
    return found


def collect(collection: Collection, machine: str, plan: Record, boot: list[str] | None) -> None:
    """Has collect.py measure the plan: here, or in a machine booted with these options."""
    program = ["env", f"PYTHONPATH={ROOT / 'bench'}", sys.executable, "-m", "kfiber_bench.collect"]
    words = [*program, json.dumps(plan)]
    reading, writing = os.pipe()
    if boot is None:
        words.append(f"/dev/fd/{writing}")
    else:
        kfiber = str(Path(sys.executable).with_name("kfiber"))
        words = [kfiber, "vm", "run", *boot, "--channel", str(writing), "--", *words]
        words.append("/dev/vport0p4")
    with os.fdopen(reading) as channel:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, pass_fds=[writing],
        )  # fmt: skip
        os.close(writing)
        said: list[str] = []
        listener = threading.Thread(target=listen, args=(process.stderr, said))
        listener.start()
        try:
            for line in channel:
                collection.take(machine, json.loads(line))
        except BaseException:
            process.terminate()
            raise
        finally:
            process.wait()
            listener.join()
    if process.returncode:
        why = said[-1] if said else f"status {process.returncode}"
        collection.missing(f"the rest of {', '.join(plan)} ({machine})", why)


def listen(source: IO[str], said: list[str]) -> None:
    """Passes on what a command says, such as that it fetches a kernel, and keeps it."""
    for line in source:
        if line.strip():
            said.append(line.strip())
            print(line, end="", file=sys.stderr, flush=True)


def matrix_plan(mode: Mode, fibers: tuple[int, ...], processes: tuple[int, ...]) -> Record:
    return {
        "fibers": fibers, "processes": processes, "calls": mode.calls, "repeats": mode.repeats,
    }  # fmt: skip


def measure(mode: Mode, here: bool, second: str, progress: Progress) -> Data:
    """All of it."""
    collection = Collection(progress)
    plan = {
        "matrix": matrix_plan(mode, (512, 1024), (1, 3)),
        "switching": {
            "fibers": mode.sizes, "threads": (1, 2), "seconds": mode.seconds,
            "repeats": mode.repeats,
        },
    }  # fmt: skip
    if here:
        with progress.part("the matrix and the rate of switches, on this machine"):
            collect(collection, "here", plan, None)
        for what in ("instructions of requests", "a switch's functions", "cost to others"):
            collection.missing(what, "instructions are counted in an emulated machine only")
        collection.missing("another kernel", "--here measures this machine's")
    else:
        with progress.part("the matrix and the rate of switches, in a virtual machine"):
            collect(collection, "guest", plan, [])
        with progress.part("instructions of requests, counted"):
            counted = {
                "operations": {"fibers": mode.counted},
                "matrix": matrix_plan(mode, (512, 1024), (1,))
                | {"calls": mode.counted_calls, "repeats": 1},
                "others": {},
            }
            collect(collection, "counted", counted, ["--icount"])
        with progress.part("a switch of engine `kernel`, function by function"):
            try:
                collection.data["functions"] = steps.measure()
            except steps.StepError as e:
                collection.missing("a switch's functions", str(e))
        if second != "none":
            with progress.part(f"the matrix on Linux {second}"):
                collect(
                    collection, "second", {"matrix": matrix_plan(mode, *mode.second)},
                    ["--kernel", second],
                )  # fmt: skip
    natively(collection, mode)
    return collection.close()


def natively(collection: Collection, mode: Mode) -> None:
    """Fibers at user level, on this machine, in C and in Python."""

    def case(name: str, measured: Callable[[], tuple[dict[str, str], list[Record]]]) -> None:
        with collection.progress.part(f"user level, on this machine: {name}"):
            environment, rows = measured()
        collection.data["native"][name] = {"environment": environment, "rows": rows}

    for peer, why in peers.missing().items():
        collection.missing(peer.name, why)
    case("switch", lambda: native.measure("switch", mode.native_passes, mode.native_fibers))
    case("create", lambda: native.measure("create", mode.native_passes))
    if mode.python_passes:
        case("python", lambda: greenlets.measure(mode.python_passes))
    else:
        collection.missing("fibers in Python", "--quick leaves them out")


def revision() -> str:
    """Of the sources; a `+` where there are changes to them."""
    done = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty=+", "--exclude=*"],
        capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


def publish(found: Data, folder: Path) -> None:
    """Writes page and pictures beside the data, and README's part where it is the project's own."""
    drawn = charts.draw(found, folder / "report")
    if not drawn:
        print("report: no pictures, for want of matplotlib", file=sys.stderr)
    (folder / "report.md").write_text(page.render(found))
    readme = ROOT / "README.md"
    if folder == data.PAGE.parent:
        readme.write_text(page.with_summary(readme.read_text(), found))


def main(words: list[str]) -> int:
    """Measures and writes."""
    parser = argparse.ArgumentParser(
        prog="make report", description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    kind = parser.add_mutually_exclusive_group()
    for name in ("quick", "full", "page"):
        kind.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--here", action="store_true", help="on this machine, no virtual machine")
    parser.add_argument(
        "--second-kernel", default=SECOND, metavar="SERIES",
        help=f"of the second matrix; `none` leaves it out (default: {SECOND})",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FOLDER")
    args = parser.parse_args(words)
    final = not (args.quick or args.here)
    folder = args.output or (ROOT / "docs" if final else ROOT / "build" / "report")
    folder = folder.resolve()
    if args.page:
        publish(data.load(folder / "report" / "data.json"), folder)
        return 0
    name = "quick" if args.quick else "full" if args.full else "default"
    started = time.monotonic()
    source = revision()
    found = measure(MODES[name], args.here, args.second_kernel, Progress())
    found["about"] = {
        "command": " ".join(["make report", *([f'REPORT="{" ".join(words)}"'] if words else [])]),
        "mode": name,
        "date": datetime.date.today().isoformat(),
        "source": source,
        "repeats": MODES[name].repeats,
        "seconds": MODES[name].seconds,
        "minutes": data.significant((time.monotonic() - started) / 60),
        "second_kernel": args.second_kernel,
    }
    data.save(found, folder / "report" / "data.json")
    publish(found, folder)
    try:
        shown = folder.relative_to(ROOT)
    except ValueError:
        shown = folder
    print(f"report: {shown}/report.md, from {shown}/report/data.json")
    return 0
