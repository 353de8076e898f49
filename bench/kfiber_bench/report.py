# SPDX-License-Identifier: MIT
"""
Repeats the reference report's comparison: measures its two versions, this project's engines and
swapcontext(), and writes report.md with charts and report/data.json into FOLDER, which is docs, or
build/report with --quick or --here. Software that is compared but not installed is left out, and
the page says so. If a measurement fails, FOLDER stays as it is; build/report-measured.json has
what was measured in any case.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

from kfiber.errors import KfiberError
from kfiber_bench import charts, collect, data, greenlets, native, page, peers, reference, steps
from kfiber_bench.data import ROOT, Data, DataError, Record

EXAMPLES = """examples:
  make report                                       20 minutes, on two emulated processors
  make report REPORT="--quick"                      5 minutes
  make report REPORT="--quick --here"               without a virtual machine
  make report REPORT="--second-kernel none"         without the second kernel, which is fetched
  make report REPORT="--page"                       the page again, after a change of page.py
  make -s report REPORT="--quick --json" | jq .about
"""

SIZES = (128, 256, 512, 1024, 2048, 4096)
SECOND = "7.3"
# The last measurement is kept here, also if a part of it failed.
MEASURED = ROOT / "build" / "report-measured.json"
NEEDED = ("matplotlib", "scipy")
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
    # Calls a fiber where the workload's instructions are counted. With the report's 15,000 these
    # would be 8 * 10^12 instructions, which QEMU executes in half a day.
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


class ReportError(Exception):
    """The report cannot be made; one line with a hint."""


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
        self._failures: list[str] = []

    def missing(self, what: str, why: str) -> None:
        """Said in the page, and to whoever waits; once."""
        if {"what": what, "why": why} in self.data["missing"]:
            return
        print(f"report: left out: {what}: {why}", file=sys.stderr, flush=True)
        self.data["missing"].append({"what": what, "why": why})

    def failed(self, what: str, why: str) -> None:
        """The same, but it is a failure: check() raises it."""
        self.missing(what, why)
        self._failures.append(f"{what}: {why}")

    def check(self) -> None:
        """ReportError: something failed."""
        if self._failures:
            first, more = self._failures[0], len(self._failures) - 1
            what = f"{first.partition('; hint: ')[0]}{f' (and {more} more)' if more else ''}"
            hint = first.partition("; hint: ")[2] or "kfiber doctor says what this machine lacks"
            raise ReportError(f"cannot measure {what}; hint: {hint}")

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
        elif "failed" in event:
            self.failed(f"{event['failed']} ({machine})", event["why"])
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


def measured_by(collection: Collection, machine: str, plan: Record, boot: list[str] | None) -> None:
    """
    Has collect.py measure the plan: here, or in a machine booted with these options. ReportError:
    some of it failed.
    """
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
            text=True, pass_fds=[writing], preexec_fn=collect.end_with_parent(signal.SIGTERM),
        )  # fmt: skip
        os.close(writing)
        said: list[str] = []
        listener = threading.Thread(target=listen, args=(process.stderr, said))
        listener.start()
        try:
            for line in channel:
                # The last line is cut off if the machine ends.
                if line.endswith("\n"):
                    collection.take(machine, json.loads(line))
        except BaseException:
            # It ends its workload and gives the module its parameters back before it ends.
            process.terminate()
            raise
        finally:
            process.wait()
            listener.join()
    if process.returncode:
        why = said[-1].removeprefix("kfiber: ") if said else f"status {process.returncode}"
        collection.failed(f"the rest of {', '.join(plan)} ({machine})", why)
    collection.check()


def listen(source: IO[str], said: list[str]) -> None:
    """Passes on what a command says, such as that it fetches a kernel, and keeps it."""
    with source:
        for line in source:
            if line.strip():
                said.append(line.strip())
                print(line, end="", file=sys.stderr, flush=True)


def matrix_plan(mode: Mode, fibers: tuple[int, ...], processes: tuple[int, ...]) -> Record:
    return {
        "fibers": fibers, "processes": processes, "calls": mode.calls, "repeats": mode.repeats,
    }  # fmt: skip


def measure(collection: Collection, mode: Mode, here: bool, second: str) -> None:
    """All of it. ReportError: something failed."""
    progress = collection.progress
    plan = {
        "matrix": matrix_plan(mode, (512, 1024), (1, 3)),
        "switching": {
            "fibers": mode.sizes, "threads": (1, 2), "seconds": mode.seconds,
            "repeats": mode.repeats,
        },
    }  # fmt: skip
    if here:
        with progress.part("the matrix and the rate of switches, on this machine"):
            measured_by(collection, "here", plan, None)
        for what in ("instructions of requests", "a switch's functions", "cost to others"):
            collection.missing(what, "instructions are counted in an emulated machine only")
        collection.missing("another kernel", "--here measures this machine's")
    else:
        with progress.part("the matrix and the rate of switches, in a virtual machine"):
            measured_by(collection, "guest", plan, [])
        with progress.part("instructions of requests, counted"):
            counted = {
                "operations": {"fibers": mode.counted},
                "matrix": matrix_plan(mode, (512, 1024), (1,))
                | {"calls": mode.counted_calls, "repeats": 1},
                "others": {},
            }
            measured_by(collection, "counted", counted, ["--icount"])
        with progress.part("a switch of engine `kernel`, function by function"):
            try:
                collection.data["functions"] = steps.measure()
            except steps.StepError as e:
                collection.failed("a switch's functions", str(e))
            collection.check()
        if second != "none":
            with progress.part(f"the matrix on Linux {second}"):
                measured_by(
                    collection, "second", {"matrix": matrix_plan(mode, *mode.second)},
                    ["--kernel", second],
                )  # fmt: skip
    natively(collection, mode)


def natively(collection: Collection, mode: Mode) -> None:
    """Fibers at user level, on this machine, in C and in Python."""

    def case(name: str, measured: Callable[[], tuple[dict[str, str], list[Record]]]) -> None:
        with collection.progress.part(f"user level, on this machine: {name}"):
            try:
                environment, rows = measured()
            except (KfiberError, OSError, subprocess.SubprocessError) as e:
                collection.failed(f"user level: {name}", str(e))
                collection.check()
            if name in native.CASES and not any(each["engine"] for each in rows):
                collection.failed(
                    f"user level: {name}", "libfiber's program did not run, see above"
                )
                collection.check()
        collection.data["native"][name] = {"environment": environment, "rows": rows}

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


def need(names: Sequence[str]) -> None:
    """ReportError: one of these packages is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ReportError(
                f"cannot make the report: no {name}; hint: .venv/bin/pip install -e '.[bench]'"
            )


def probe(folder: Path) -> None:
    """Makes the folder. ReportError: nobody can write there."""
    try:
        for each in (folder, folder / "report"):
            each.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=each):
                pass
    except OSError as e:
        raise ReportError(
            f"cannot write to {folder}: {e.strerror}; hint: --output another FOLDER"
        ) from e


def publish(found: Data, folder: Path) -> None:
    """Writes data, charts and page, and README's part where the folder is the project's own docs.

    ReportError: the data do not suffice for a page; then nothing was written.
    """
    readme = ROOT / "README.md"
    try:
        text = page.render(found)
        drawn = charts.draw(found)
        own = folder == data.PAGE.parent
        summary = page.with_summary(readme.read_text(), found) if own else None
    except (LookupError, TypeError, ValueError, ArithmeticError) as e:
        if "KFIBER_TRACEBACK" in os.environ:
            raise
        raise ReportError(
            f"cannot make a page of the data: {type(e).__name__}: {e}; hint: a part may not have "
            "been measured; KFIBER_TRACEBACK=1 shows where"
        ) from e
    data.save(found, folder / "report" / "data.json")
    for name, picture in drawn.items():
        data.write(folder / "report" / name, picture)
    for path in (folder / "report").iterdir():
        if charts.OWN.fullmatch(path.name) and path.name not in drawn:
            path.unlink()
    data.write(folder / "report.md", text)
    if summary is not None:
        data.write(readme, summary)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    found = argparse.ArgumentParser(
        prog="kfiber_bench report", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    kind = found.add_mutually_exclusive_group()
    kind.add_argument("--quick", action="store_true", help="short runs, within 5 minutes")
    kind.add_argument(
        "--full", action="store_true",
        help=f"the reference report's {reference.CALLS:,} calls a fiber where time is measured, "
        f"which takes many hours; instructions are counted at {MODES['full'].counted_calls} calls",
    )  # fmt: skip
    kind.add_argument(
        "--page", action="store_true",
        help="measure nothing; make page and charts of FOLDER/report/data.json again",
    )  # fmt: skip
    found.add_argument(
        "--here", action="store_true",
        help="on this machine and not in a virtual one, without what needs counted instructions. "
        "For root the loaded module is reloaded for each look-up and gets its parameters back; "
        "without the module, its engines are left out",
    )  # fmt: skip
    found.add_argument(
        "--second-kernel", default=SECOND, metavar="SERIES",
        help=f"of the second matrix; `none` leaves it out (default: {SECOND})",
    )  # fmt: skip
    found.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write to this folder; it is made if needed"
    )
    found.add_argument(
        "--json", action="store_true", help="print the data, not where they were written"
    )
    return found


def main(words: list[str]) -> int:
    """Measures and writes; 1 if something failed."""
    args = parser().parse_args(words)
    final = not (args.quick or args.here)
    folder = args.output or (ROOT / "docs" if final else ROOT / "build" / "report")
    try:
        make(args, words, folder.resolve())
    except BrokenPipeError:
        raise
    except (ReportError, DataError) as e:
        print(f"kfiber-bench: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        print(
            f"kfiber-bench: {e.filename or 'output'}: {e.strerror}; hint: --output another FOLDER",
            file=sys.stderr,
        )
        return 1
    return 0


def make(args: argparse.Namespace, words: list[str], folder: Path) -> None:
    """Publishes what is measured now, or with --page what was."""
    if args.page:
        need(NEEDED[:1])
        found = data.load(folder / "report" / "data.json")
    else:
        need(NEEDED)
    probe(folder)
    if not args.page:
        found = measured(args, words)
    publish(found, folder)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    print(f"report: {shown(folder)}/report.md, from {shown(folder)}/report/data.json")


def measured(args: argparse.Namespace, words: list[str]) -> Data:
    """Measures, and keeps it. ReportError: something failed."""
    name = "quick" if args.quick else "full" if args.full else "default"
    mode = MODES[name]
    started = time.monotonic()
    collection = Collection(Progress())
    absent = peers.missing()
    for peer, why in absent.items():
        collection.data["missing"].append({"what": peer.name, "why": why})
    for line in peers.hints(absent):
        print(f"report: {line}", file=sys.stderr)
    collection.data["about"] = {
        "command": " ".join(["make report", *([f'REPORT="{" ".join(words)}"'] if words else [])]),
        "mode": name,
        "date": datetime.date.today().isoformat(),
        "source": revision(),
        "repeats": mode.repeats,
        "seconds": mode.seconds,
        "counted_calls": mode.counted_calls,
        "second_kernel": args.second_kernel,
    }
    try:
        measure(collection, mode, args.here, args.second_kernel)
    finally:
        found = collection.close()
        found["about"]["minutes"] = data.significant((time.monotonic() - started) / 60)
        data.save(found, MEASURED)
        print(f"report: what was measured is in {shown(MEASURED)}", file=sys.stderr)
    return found


def shown(path: Path) -> Path:
    """Relative to the checkout, if it is there."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
