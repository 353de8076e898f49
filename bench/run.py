#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures the module in the virtual machine: `make bench`, or BENCH="instructions memory".

    instructions  what a switch costs, counted (QEMU's -icount), beside ioctl(/dev/null)
    memory        the kernel memory of 50,000 fibers, by the cgroup's account

Prints a table with the goal beside each figure and writes the rows to bench/results/. With `--gate`
a goal missed is exit status 1. `guest` is the part inside the machine, which prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "bench"
RESULTS = ROOT / "bench" / "results"
CGROUP = Path("/sys/fs/cgroup")
FIBERS = 50_000
LOOKUPS = ("direct", "hash", "scan")
# So many other fibers, to see what depends on their number.
CROWDS = (0, 512, 1024)

Row = dict[str, Any]


def row(
    case: str,
    value: float,
    unit: str,
    *,
    peer: str = "",
    ratio: float | None = None,
    goal: float | None = None,
    spread: float | None = None,
    met: bool | None = None,
) -> Row:
    """A row of results. The goal is for the ratio where there is one, else for the value."""
    if met is None and goal is not None:
        met = (value if ratio is None else ratio) <= goal
    return {
        "case": case, "engine": "kernel", "value": round(value, 1), "unit": unit, "peer": peer,
        "ratio": None if ratio is None else round(ratio, 3), "goal": goal, "met": met,
        "spread": spread,
    }  # fmt: skip


# In the guest.


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


CASES: dict[str, tuple[list[str], Callable[[], Iterator[Row]]]] = {
    "instructions": (["--icount"], instructions),
    "memory": ([], memory),
}


# On the host.


def measure(case: str) -> tuple[dict[str, str], list[Row]]:
    """Boots a machine for a case. Ends the program if that fails."""
    print(f"bench: {case}, in a virtual machine", file=sys.stderr)
    kfiber = Path(sys.executable).with_name("kfiber")
    result = subprocess.run(
        [kfiber, "vm", "run", *CASES[case][0], "--", sys.executable, __file__, "guest", case],
        stdout=subprocess.PIPE,
        text=True,
    )
    if result.returncode:
        sys.exit(result.returncode)
    answer = json.loads(result.stdout)
    return answer["environment"], answer["rows"]


def guest(case: str) -> None:
    """Prints the rows and what they were measured on."""
    environment = {
        "kernel": os.uname().release,
        "machine": "emulated by QEMU"
        + (", instructions counted" if case == "instructions" else ""),
    }
    print(json.dumps({"environment": environment, "rows": list(CASES[case][1]())}))


def table(rows: list[Row]) -> str:
    """A line a row; the goal stands beside the figure."""
    lines = [f"{'case':<44}{'value':>10}  {'unit':<13}{'ratio':>7} {'goal':>6}  met"]
    for each in rows:
        ratio = "" if each["ratio"] is None else f"{each['ratio']:.3f}"
        goal = "" if each["goal"] is None else f"{each['goal']:g}"
        met = {True: "yes", False: "MISSED", None: ""}[each["met"]]
        lines.append(
            f"{each['case']:<44}{each['value']:>10}  {each['unit']:<13}{ratio:>7} {goal:>6}  {met}"
        )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def main() -> int:
    """Measures the cases asked for; 1 if a goal was missed and that matters."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), help=" ".join(CASES))
    parser.add_argument("--gate", action="store_true", help="exit with 1 if a goal is missed")
    args = parser.parse_args()
    if args.cases[0] == "guest":
        guest(args.cases[1])
        return 0
    RESULTS.mkdir(exist_ok=True)
    missed = False
    for case in args.cases:
        if case not in CASES:
            parser.error(f"no case {case}; there are: {' '.join(CASES)}")
        environment, rows = measure(case)
        result = {"environment": environment, "rows": rows}
        (RESULTS / f"{case}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(f"{case}: Linux {environment['kernel']}, {environment['machine']}")
        print(table(rows), flush=True)
        missed |= any(each["met"] is False for each in rows)
    return 1 if missed and args.gate else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
