# SPDX-License-Identifier: MIT
"""Cases that need the module: they are measured in the virtual machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import peers
from row import Row, row

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "bench"
CGROUP = Path("/sys/fs/cgroup")
FIBERS = 50_000
LOOKUPS = ("direct", "hash", "scan")
# So many other fibers, to see what depends on their number.
CROWDS = (0, 512, 1024)


def reload(lookup: str) -> None:
    subprocess.run(["rmmod", "fiber"], check=True)
    subprocess.run(["insmod", os.environ["KFIBER_MODULE"], f"lookup={lookup}"], check=True)


def counts(crowd: int, *flags: str) -> dict[str, tuple[float, float]]:
    """Median and least of each of counts.c's cases."""
    words = [str(BUILD / "counts"), str(crowd), *flags]
    output = subprocess.run(words, check=True, text=True, capture_output=True).stdout
    cases = (line.split() for line in output.splitlines())
    return {name: (float(median), float(least)) for name, median, least, _ in cases}


def instructions() -> Iterator[Row]:
    """A switch of each look-up, in each crowd. Each kind of machine boot gives the same figures."""
    switches: dict[tuple[str, int], float] = {}
    for lookup in LOOKUPS:
        reload(lookup)
        for crowd in CROWDS:
            figures = counts(crowd)
            switches[lookup, crowd] = figures["switch"][0]
            if lookup != "direct" or crowd:
                continue
            null, least = figures["null_ioctl"]
            yield row("null ioctl", null, "instructions", spread=null - least)
            figures["switch, whole FPU state of both"] = counts(0, "fpu")["switch_fpu"]
            for case, goal in (
                ("switch", 1.5),
                ("switch, whole FPU state of both", 1.6),
                ("fls_get", None),
            ):
                median, least = figures[case]
                yield row(
                    case,
                    median,
                    "instructions",
                    peer="null ioctl",
                    ratio=median / null,
                    goal=goal,
                    spread=median - least,
                )
            yield from libfiber(null)
    reload("direct")
    for crowd in CROWDS[1:]:
        for lookup in LOOKUPS:
            value, direct = switches[lookup, crowd], switches["direct", crowd]
            yield row(
                f"switch, lookup={lookup}, {crowd} other fibers", value, "instructions",
                peer="direct", ratio=value / direct, goal=1.15 if lookup == "hash" else None,
            )  # fmt: skip
    growth = switches["scan", CROWDS[2]] - switches["scan", CROWDS[1]]
    each = growth / (CROWDS[2] - CROWDS[1])
    yield row("scan, for each fiber more", each, "instructions", met=each > 1)
    yield from processor()


def memory() -> Iterator[Row]:
    """Kernel memory a fiber, as the memory controller accounts it to the process's cgroup."""
    (CGROUP / "cgroup.subtree_control").write_text("+memory")
    group = CGROUP / "kfiber-bench"
    for name, words, goal in (("", [], 512), (", whole FPU state", ["fpu"], None)):
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
        ("local", "", 0.0, None),
        ("mapped", "local", figures.get("local", 0.0), 1.1),
        ("kernel", "null ioctl", null, None),
    ):
        if engine in figures:
            value = figures[engine]
            ratio = value / base if base else None
            yield row(
                "switch by libfiber", value, "instructions",
                engine=engine, peer=peer, ratio=ratio, goal=goal if base else None,
            )  # fmt: skip


def yields(*words: str) -> float:
    """A switch of the CPU between two threads, by sched.c: the median."""
    command = [str(BUILD / "sched"), *words]
    output = subprocess.run(command, check=True, text=True, capture_output=True).stdout
    return float(output.split()[1])


def processor() -> Iterator[Row]:
    """What the module adds to a switch of the CPU, for threads with and without fibers."""
    idle, watched = yields(), yields("attached")
    subprocess.run(["rmmod", "fiber"], check=True)
    bare = yields()
    case = "switch of the CPU"
    yield row(case, bare, "instructions", engine=None, peer="without the module")
    added = f"{case}, added where a thread"
    yield row(f"{added} has no fibers", idle - bare, "instructions", engine=None, goal=15)
    yield row(f"{added} is attached", watched - bare, "instructions", engine="mapped")


CASES: dict[str, tuple[list[str], Callable[[], Iterator[Row]]]] = {
    "instructions": (["--icount"], instructions),
    "memory": ([], memory),
}


def measure(case: str) -> tuple[dict[str, str], list[Row]]:
    """Boots a machine for a case. Ends the program if that fails."""
    print(f"bench: {case}, in a virtual machine", file=sys.stderr)
    kfiber = str(Path(sys.executable).with_name("kfiber"))
    words = [kfiber, "vm", "run", *CASES[case][0], "--", sys.executable, __file__, case]
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
