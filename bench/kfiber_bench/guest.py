# SPDX-License-Identifier: MIT
"""Cases that need the module: they are measured in the virtual machine."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kfiber import module
from kfiber_bench import peers
from kfiber_bench.row import Row, row

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("KFIBER_BUILD", ROOT / "build")) / "bench"
CGROUP = Path("/sys/fs/cgroup")
FIBERS = 50_000
LOOKUPS = ("direct", "hash", "scan")
# A switch in null ioctls, at most, and the same with the whole FPU state; by the kernel.
GOALS = {"6.1": (1.45, 1.46), "7.3": (1.48, 1.50)}
# So many fibers in the process, to see what depends on their number.
NUMBERS = (128, 512, 1024, 2048)
# The module draws the key of its hash when it is loaded; the length of chains depends on the key.
KEYS = 9


class Cost(NamedTuple):
    """What a request costs: the figure, and the least and most of what it stands for."""

    value: float
    least: float
    most: float


def reload(lookup: str) -> None:
    """Reloads the module with that look-up."""
    if Path("/sys/module/fiber").exists():
        module.unload()
    subprocess.run(["insmod", os.environ["KFIBER_MODULE"], f"lookup={lookup}"], check=True)


def counts(fibers: int, *flags: str) -> dict[str, Cost]:
    """What counts.c prints, by request."""
    words = [str(BUILD / "counts"), str(fibers), *flags]
    output = subprocess.run(words, check=True, text=True, capture_output=True).stdout
    lines = (line.split() for line in output.splitlines())
    return {name: Cost(*map(float, figures)) for name, *figures in lines}


def instructions() -> Iterator[Row]:
    """Requests, and a switch of each look-up over the number of fibers."""
    reload("direct")
    yield from requests()
    laps: dict[str, list[list[float]]] = {}
    for lookup in LOOKUPS:
        laps[lookup] = []
        for _ in range(KEYS if lookup == "hash" else 1):
            reload(lookup)
            laps[lookup].append([counts(number)["switch"].value for number in NUMBERS])
    yield from lookups(laps)
    reload("direct")
    yield from processor()


def requests() -> Iterator[Row]:
    """What each request costs where its process has two fibers."""
    figures = counts(2)
    series = ".".join(os.uname().release.split(".")[:2])
    goal, fpu_goal = GOALS.get(series, (None, None))
    null = figures["null_ioctl"].value
    yield row("null ioctl", null, "instructions")
    for case, each, limit in (
        ("switch", figures["switch"], goal),
        ("switch, whole FPU state of both", counts(2, "fpu")["switch"], fpu_goal),
        ("switch to a fiber that runs", figures["refused_switch"], None),
        ("fls_get", figures["fls_get"], None),
        ("create", figures["create"], None),
        ("delete", figures["delete"], None),
    ):
        yield row(
            case,
            each.value,
            "instructions",
            peer="null ioctl",
            ratio=each.value / null,
            goal=limit,
            spread=each.most - each.least,
        )
    yield from libfiber(null)


def lookups(laps: Mapping[str, Sequence[Sequence[float]]]) -> Iterator[Row]:
    """
    A switch of each look-up: the mean over all fibers of a lap, by NUMBERS, and the line through
    these figures. One fiber alone shows nothing: a scan ends at the calling fiber. Where there are
    laps of several loads of the module, a figure is their median and the spread is theirs.
    """
    direct = medians(laps["direct"])
    for lookup, loads in laps.items():
        figures = medians(loads)
        for i, (number, value) in enumerate(zip(NUMBERS, figures, strict=True)):
            each = [load[i] for load in loads]
            yield row(
                f"switch, lookup={lookup}", value, "instructions", fibers=number,
                peer="direct", ratio=value / direct[i], goal=1.08 if lookup == "hash" else None,
                spread=max(each) - min(each) if len(each) > 1 else None,
            )  # fmt: skip
        slope, intercept = statistics.linear_regression(NUMBERS, figures)
        yield row(f"switch, lookup={lookup}: intercept", intercept, "instructions")
        # A look-up by hash or directly does not depend on the number, one by scan must.
        yield row(
            f"switch, lookup={lookup}: slope", slope, "instructions a fiber", digits=3,
            met=slope > 1 if lookup == "scan" else abs(slope) < 0.05,
        )  # fmt: skip


def medians(loads: Sequence[Sequence[float]]) -> list[float]:
    """Of several loads of the module, by the number of fibers."""
    return [statistics.median(figures) for figures in zip(*loads, strict=True)]


@contextmanager
def living_fibers() -> Iterator[None]:
    """A process that has fibers and sleeps."""
    program = subprocess.Popen(
        [BUILD / "memory", "512"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdin and program.stdout
    program.stdout.readline()
    program.stdin.write("\n")
    program.stdin.flush()
    if program.stdout.readline().strip() != "done":
        sys.exit("bench: memory did not run, see above")
    try:
        yield
    finally:
        program.kill()
        program.communicate()


def memory() -> Iterator[Row]:
    """Kernel memory a fiber, as the memory controller accounts it to the process's cgroup."""
    (CGROUP / "cgroup.subtree_control").write_text("+memory")
    group = CGROUP / "kfiber-bench"
    for name, words, goal in (("", [], 460), (", whole FPU state", ["fpu"], None)):
        group.mkdir()
        program = subprocess.Popen(
            [BUILD / "memory", str(FIBERS), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
        )  # fmt: skip
        assert program.stdin and program.stdout
        used = []
        for word in ("ready", "done"):
            if program.stdout.readline().strip() != word:
                sys.exit("bench: memory did not run, see above")
            stat = (line.split() for line in (group / "memory.stat").read_text().splitlines())
            used.append(next(int(value) for key, value in stat if key == "kernel"))
            program.stdin.write("\n")
            program.stdin.flush()
        program.wait()
        group.rmdir()
        each = (used[1] - used[0]) / FIBERS
        yield row(f"kernel memory a fiber{name}", each, "bytes", goal=goal)


def libfiber(null: float) -> Iterator[Row]:
    """A switch by libfiber's call with each engine, the loop of the ring included."""
    figures: dict[str, float] = {}
    for engine in ("local", "mapped", "kernel"):
        program = peers.Peer("kfiber", engine=engine)
        try:
            _, figures[engine] = program.run("ring", 2, 1000, 0)
        except peers.PeerError as e:
            print(f"bench: {e}", file=sys.stderr)
    for engine, peer, base, goal in (
        ("local", "", 0.0, 114),
        ("mapped", "local", figures.get("local", 0.0), 1.1),
        ("kernel", "null ioctl", null, None),
    ):
        if engine in figures:
            value = figures[engine]
            ratio = value / base if base else None
            yield row(
                "switch by libfiber", value, "instructions",
                engine=engine, peer=peer, ratio=ratio, goal=goal,
            )  # fmt: skip


def yields(*words: str) -> float:
    """A switch of the CPU between two threads, by sched.c: the median."""
    command = [str(BUILD / "sched"), *words]
    output = subprocess.run(command, check=True, text=True, capture_output=True).stdout
    return float(output.split()[1])


def processor() -> Iterator[Row]:
    """What the module adds to a switch of the CPU, for threads with and without fibers."""
    idle, watched = yields(), yields("attached")
    module.unload()
    bare = yields()
    case = "switch of the CPU"
    yield row(case, bare, "instructions", engine=None, peer="without the module")
    added = f"{case}, added where a thread"
    yield row(f"{added} has no fibers", idle - bare, "instructions", engine=None, goal=15)
    yield row(f"{added} is attached", watched - bare, "instructions", engine="mapped")


def strangers() -> Iterator[Row]:
    """What four strangers who read its file all the time leave of a victim's speed."""
    output = subprocess.run(
        [str(BUILD / "strangers"), "4"], check=True, text=True, capture_output=True
    ).stdout
    figures = {name: float(value) for name, value in map(str.split, output.splitlines())}
    yield row("create and delete", figures["alone"], "a second")
    yield row(
        "the same beside 4 readers of its file", figures["beside"], "a second",
        peer="without them", ratio=figures["ratio"], goal=0.8, met=figures["ratio"] >= 0.8,
    )  # fmt: skip


CASES: dict[str, tuple[list[str], Callable[[], Iterator[Row]]]] = {
    "instructions": (["--icount"], instructions),
    "memory": ([], memory),
    "strangers": ([], strangers),
}


def measure(case: str, kernel: str | None) -> tuple[dict[str, str], list[Row]]:
    """Boots a machine for a case, with that kernel. Ends the program if that fails."""
    print(f"bench: {case}, in a virtual machine", file=sys.stderr)
    kfiber = str(Path(sys.executable).with_name("kfiber"))
    program = ["env", f"PYTHONPATH={ROOT / 'bench'}", sys.executable, "-m", __spec__.name, case]
    chosen = ["--kernel", kernel] if kernel else []
    words = [kfiber, "vm", "run", *chosen, *CASES[case][0], "--", *program]
    result = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(result.returncode)
    answer = json.loads(result.stdout)
    return answer["environment"], answer["rows"]


def main(case: str) -> None:
    """In the machine: prints the rows and what they were measured on."""
    environment = {
        "kernel": os.uname().release,
        "machine": "emulated by QEMU"
        + (", instructions counted" if "--icount" in CASES[case][0] else ""),
    }
    print(json.dumps({"environment": environment, "rows": list(CASES[case][1]())}))


if __name__ == "__main__":
    main(sys.argv[1])
