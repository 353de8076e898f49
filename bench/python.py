#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Fibers in Python beside greenlets: what a switch, a fiber's life and its memory cost.

    python bench/python.py [--json FILE] [--passes N] [CASE ...]

The interpreter that runs it is the one that is measured; kfiber and greenlet must be installed in
it. Each figure is taken in a process of its own, pinned to one processor. The two sides take turns,
pass by pass, so that a slow moment of the machine hits both; a row has the medians, and the ratio
and spread of the passes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

PASSES = 7
# Of a processor that is left alone, as a rule.
PROCESSOR = max(os.sched_getaffinity(0))


class Case(NamedTuple):
    """What is measured, and how many times greenlet's it may be (or how many bytes)."""

    name: str
    unit: str
    goal: float
    absolute: bool = False


CASES = (
    Case("switch", "ns", 0.33),
    Case("switch-deep", "ns", 0.06),
    Case("ring-1024-deep", "ns", 0.03),
    Case("create", "ns", 0.05),
    # Beside a busy thread: a multiple of the same without one.
    Case("busy", "ns", 1.5),
    Case("memory-10000", "bytes", 9 << 10, absolute=True),
    Case("memory-100000", "bytes", 9 << 10, absolute=True),
    Case("collect-100000", "ms", 2.0),
)


class Side(NamedTuple):
    """One of the two: how to make, find and run its coroutines."""

    new: Callable[[Callable[[], Any]], Any]
    current: Callable[[], Any]


def side(name: str) -> Side:
    if name == "kfiber":
        import kfiber

        return Side(kfiber.Fiber, kfiber.current)
    greenlet = import_module("greenlet")
    return Side(greenlet.greenlet, greenlet.getcurrent)


def per_call(function: Callable[[int], object], count: int) -> float:
    """Nanoseconds a call, the best of three."""

    def once() -> float:
        start = time.perf_counter_ns()
        function(count)
        return (time.perf_counter_ns() - start) / count

    return min(once() for _ in range(3))


def deep(function: Callable[[], object], levels: int) -> Any:
    """Calls `function` with that many calls of C code (of sorted()) on the stack."""
    if not levels:
        return function()
    return sorted([1], key=lambda _: deep(function, levels - 1) and 0)


def to_and_from(chosen: Side, levels: int, count: int) -> float:
    main = chosen.current()

    def bounce() -> None:
        switch = main.switch
        while True:
            switch()

    other = chosen.new(lambda: deep(bounce, levels))

    def run(count: int) -> None:
        switch = other.switch
        for _ in range(count):
            switch()

    run(1000)
    return per_call(run, count) / 2


def ring(chosen: Side, size: int, levels: int, rounds: int) -> float:
    """A switch from one to the next; the first one counts the rounds and goes back to main."""
    back = chosen.current().switch
    members: list[Any] = []

    def member(place: int) -> None:
        back()
        following = members[(place + 1) % size].switch
        while place:
            following()
        while True:
            for _ in range(rounds):
                following()
            back()

    for place in range(size):
        members.append(chosen.new(partial(deep, partial(member, place), levels)))
        members[place].switch()
    return per_call(lambda _: members[0].switch(), 1) / (rounds * size)


def create(chosen: Side, count: int) -> float:
    def nothing() -> None:
        pass

    def run(count: int) -> None:
        new = chosen.new
        for _ in range(count):
            new(nothing).switch()

    run(100)
    return per_call(run, count)


def busy(beside: bool) -> float:
    """A switch of kfiber's while another thread computes, in CPU time of this one."""
    import threading

    import kfiber

    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            for _ in range(1000):
                pass

    main = kfiber.current()

    def bounce() -> None:
        switch = main.switch
        while True:
            switch()

    fiber = kfiber.Fiber(bounce)
    worker = threading.Thread(target=compute)
    if beside:
        worker.start()
    switch = fiber.switch
    count = 300_000
    start = time.thread_time_ns()
    for _ in range(count):
        switch()
    used = time.thread_time_ns() - start
    stop.set()
    if beside:
        worker.join()
    return used / count / 2


def resident() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - quick, and allocates little
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def suspended(chosen: Side, count: int) -> list[Any]:
    main = chosen.current()
    made = [chosen.new(main.switch) for _ in range(count)]
    for each in made:
        each.switch()
    return made


def memory(chosen: Side, count: int) -> float:
    main = chosen.current()

    def wait() -> None:
        main.switch()

    made: list[Any] = [None] * count
    before = resident()
    for i in range(count):
        made[i] = chosen.new(wait)
        made[i].switch()
    return (resident() - before) / count


def collect(chosen: Side, count: int) -> float:
    import gc

    gc.disable()
    made = suspended(chosen, count)
    gc.collect()
    start = time.perf_counter_ns()
    gc.collect()
    used = time.perf_counter_ns() - start
    assert len(made) == count
    return used / 1e6


def measure(case: str, name: str) -> float:
    """One figure, in this process."""
    if case == "busy":
        return busy(name == "kfiber")
    chosen = side(name)
    if case == "switch":
        return to_and_from(chosen, 0, 200_000)
    if case == "switch-deep":
        return to_and_from(chosen, 20, 50_000)
    if case == "ring-1024-deep":
        return ring(chosen, 1024, 20, 20)
    if case == "create":
        return create(chosen, 20_000)
    kind, _, count = case.partition("-")
    return memory(chosen, int(count)) if kind == "memory" else collect(chosen, int(count))


def in_a_process(case: str, name: str) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", case, name], stdout=subprocess.PIPE, check=True
    )
    return float(done.stdout)


def rows(cases: list[Case], passes: int) -> Iterator[dict[str, object]]:
    import kfiber

    engine = kfiber.engine()
    for case in cases:
        ours, theirs = [], []
        for _ in range(passes):
            ours.append(in_a_process(case.name, "kfiber"))
            theirs.append(in_a_process(case.name, "greenlet"))
        ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
        value = statistics.median(ours)
        ratio = statistics.median(ratios)
        yield {
            "case": f"python-{case.name}",
            "engine": engine,
            "value": value,
            "unit": case.unit,
            "peer": statistics.median(theirs),
            "ratio": ratio,
            "goal": case.goal,
            "met": (value if case.absolute else ratio) <= case.goal,
            "spread": ratios[-1] - ratios[0],
        }


def environment() -> dict[str, str]:
    from kfiber import _native

    return {
        "python": platform.python_version(),
        "swap": _native.swap(),
        "greenlet": import_module("greenlet").__version__,
        "kernel": platform.release(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Fibers in Python beside greenlets.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=" ".join(c.name for c in CASES))
    parser.add_argument("--passes", type=int, default=PASSES, metavar="N")
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("KFIBER_ENGINE", "local")
    if options.measure:
        if options.measure[0] != "busy":
            os.sched_setaffinity(0, {PROCESSOR})
        print(measure(*options.measure))
        return 0
    cases = [case for case in CASES if not options.cases or case.name in options.cases]
    about = environment()
    print("  ".join(f"{name} {value}" for name, value in about.items()))
    print(f"{'case':<16}{'kfiber':>10}{'greenlet':>10}{'':>7}{'ratio':>8}{'spread':>8}{'goal':>8}")
    found = []
    for row in rows(cases, options.passes):
        found.append(row)
        name = str(row["case"]).removeprefix("python-")
        verdict = "" if row["met"] else "  MISSED"
        print(
            f"{name:<16}{row['value']:>10.1f}{row['peer']:>10.1f} {row['unit']:<6}"
            f"{row['ratio']:>8.3f}{row['spread']:>8.3f}{row['goal']:>8}{verdict}",
            flush=True,
        )
    if options.json:
        with open(options.json, "w") as file:  # noqa: PTH123
            json.dump({"environment": about, "rows": found}, file, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
