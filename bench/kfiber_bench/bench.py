# SPDX-License-Identifier: MIT
"""Measures fibers beside others: `make bench`, or BENCH="switch create" for some of it.

    switch        rings of 2 to 100,000 fibers: ns a switch, beside other libraries; draws a plot
    create        a fiber from its creation over its first run to its deletion
    resident      the memory of 100,000 fibers, and that there can be so many
    windows       SwitchToFiber() of lib/include/windows beside fiber_switch() and Wine's own
    python        fibers in Python beside greenlets, on each Python that is here
    greenlet      kfiber.greenlet beside greenlet, there as well, with gevent
    instructions  what the module's requests cost, and libfiber's switch with each engine, counted
                  in the virtual machine (QEMU's -icount)
    memory        the kernel memory of 50,000 fibers, by the cgroup's account, there as well
    strangers     what readers of a process's files in /proc leave of its speed, there as well

The first six run here, with the engine that KFIBER_ENGINE names (`local`). Prints tables with
the goal beside each figure and writes the rows to bench/results/. With `--gate` a goal missed is
exit status 1.
"""

from __future__ import annotations

import argparse
import json
import sys

from kfiber_bench import drop_in, greenlets, guest, native, peers, plot
from kfiber_bench.row import Row, matrix, table

RESULTS = guest.ROOT / "bench" / "results"


def show(case: str, environment: dict[str, str], rows: list[Row]) -> None:
    """Writes the rows and prints them; the plot too where there is one."""
    result = {"environment": environment, "rows": rows}
    (RESULTS / f"{case}.json").write_text(json.dumps(result, indent=2) + "\n")
    title = f"{case}: Linux {environment['kernel']}, {environment['machine']}"
    print(title)
    if "python" in environment:
        print(environment["python"])
    if case != "switch":
        print(table(rows), flush=True)
        return
    print(matrix(rows))
    print(table([each for each in rows if each["ratio"] is not None]), flush=True)
    picture = RESULTS / "switch.svg"
    if plot.draw(rows, title, picture):
        print(f"plot: {picture.relative_to(guest.ROOT)}\n", flush=True)
    else:
        print("no plot, for want of matplotlib; hint: .venv/bin/pip install -e '.[bench]'\n")


def main(words: list[str]) -> int:
    """Measures the cases asked for; 1 if a goal was missed and that matters."""
    names = [*native.CASES, "python", "greenlet", *guest.CASES]
    parser = argparse.ArgumentParser(
        prog="kfiber_bench bench", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("cases", nargs="*", default=names, help=" ".join(names))
    parser.add_argument("--gate", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument(
        "--thorough", action="store_true", help=f"{native.THOROUGH} passes, not {native.PASSES}"
    )
    parser.add_argument("--kernel", help="of the virtual machine, as in kfiber vm run")
    args = parser.parse_args(words)
    for case in args.cases:
        if case not in names:
            parser.error(f"no case {case}; there are: {' '.join(names)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    if set(args.cases) & {"switch", "create", "windows"}:
        for line in peers.hints(peers.missing()):
            print(f"bench: {line}", file=sys.stderr)
    missed = False
    for case in args.cases:
        passes = native.THOROUGH if args.thorough else native.PASSES
        if case in native.CASES:
            environment, rows = native.measure(case, passes)
        elif case == "python":
            environment, rows = greenlets.measure(passes // 2)
        elif case == "greenlet":
            environment, rows = drop_in.measure(passes // 2)
        else:
            environment, rows = guest.measure(case, args.kernel)
        show(case, environment, rows)
        missed |= any(each["met"] is False for each in rows)
    return 1 if missed and args.gate else 0
