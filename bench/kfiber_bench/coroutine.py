#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""One figure of fibers or greenlets in Python, of the interpreter that runs this: see python.py.

    coroutine.py CASE SIDE [options of pyperf]    CPU times of the thread, by pyperf
    coroutine.py --memory COUNT SIDE [LEVELS]     prints the bytes of each suspended one, so many
                                                  C calls deep

SIDE is kfiber, greenlet or kfiber.greenlet, which is greenlet's API on fibers.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple


class Side(NamedTuple):
    """How to make coroutines and to find the one that runs."""

    new: Callable[[Callable[[], Any]], Any]
    current: Callable[[], Any]


def side(name: str) -> Side:
    if name == "kfiber.greenlet":
        import_module(name).install()
    if name.endswith("greenlet"):
        greenlet = import_module("greenlet")
        return Side(greenlet.greenlet, greenlet.getcurrent)
    import kfiber

    return Side(kfiber.Fiber, kfiber.current)


def deep(function: Callable[[], object], levels: int) -> Any:
    """Calls `function` with that many calls of C code (of sorted()) on the stack."""
    if not levels:
        return function()
    return sorted([1], key=lambda _: deep(function, levels - 1) and 0)


def bouncing(chosen: Side, levels: int) -> Any:
    """One that switches back to the caller for ever."""
    main = chosen.current()

    def bounce() -> None:
        switch = main.switch
        while True:
            switch()

    other = chosen.new(lambda: deep(bounce, levels))
    other.switch()
    return other


def switch(chosen: Side, loops: int, levels: int = 0) -> float:
    """There and back."""
    there = bouncing(chosen, levels).switch
    start = time.thread_time()
    for _ in range(loops):
        there()
    return time.thread_time() - start


def ring(chosen: Side, loops: int, size: int, levels: int) -> float:
    """A switch from one to the next; the first one counts the rounds and goes back."""
    back = chosen.current().switch
    members: list[Any] = []

    def member(place: int) -> None:
        back()
        following = members[(place + 1) % size].switch
        while place:
            following()
        while True:
            for _ in range(loops):
                following()
            back()

    for place in range(size):
        members.append(chosen.new(partial(deep, partial(member, place), levels)))
        members[place].switch()
    # Until each has begun to go round.
    members[0].switch()
    start = time.thread_time()
    members[0].switch()
    return time.thread_time() - start


def create(chosen: Side, loops: int) -> float:
    """Each is made, runs and ends."""

    def nothing() -> None:
        pass

    new = chosen.new
    start = time.thread_time()
    for _ in range(loops):
        new(nothing).switch()
    return time.thread_time() - start


def busy(chosen: Side, loops: int, beside: bool) -> float:
    """There and back while another thread computes, in CPU time of this one."""
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            for _ in range(1000):
                pass

    there = bouncing(chosen, 0).switch
    worker = threading.Thread(target=compute)
    if beside:
        worker.start()
    start = time.thread_time()
    for _ in range(loops):
        there()
    used = time.thread_time() - start
    stop.set()
    if beside:
        worker.join()
    return used


def sleep(_: Side, loops: int) -> float:
    """gevent's, of no time: to its hub and back."""
    pause = import_module("gevent").sleep
    start = time.thread_time()
    for _turn in range(loops):
        pause(0)
    return time.thread_time() - start


def suspended(chosen: Side, count: int, levels: int = 0) -> list[Any]:
    """So many; what a list of them takes is there before the first."""
    main = chosen.current()
    made: list[Any] = [None] * count

    def wait() -> None:
        main.switch()

    for i in range(count):
        made[i] = chosen.new(partial(deep, wait, levels))
        made[i].switch()
    return made


def collect(chosen: Side, loops: int, count: int) -> float:
    """A collection while so many are suspended."""
    import gc

    gc.disable()
    made = suspended(chosen, count)
    gc.collect()
    start = time.thread_time()
    for _ in range(loops):
        gc.collect()
    used = time.thread_time() - start
    assert len(made) == count
    return used


def resident() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - allocates little
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def memory(chosen: Side, count: int, levels: int) -> float:
    before = resident()
    made = suspended(chosen, count, levels)
    return (resident() - before) / len(made)


class Case(NamedTuple):
    """How it is timed, and how many switches, or whatever is counted, a loop is."""

    time: Callable[[Side, int], float]
    loops: int
    inner: int = 1


CASES = {
    "switch": Case(switch, 100_000, 2),
    "switch-deep": Case(partial(switch, levels=20), 20_000, 2),
    "ring": Case(partial(ring, size=1024, levels=20), 20, 1024),
    "create": Case(create, 10_000),
    "busy": Case(partial(busy, beside=True), 200_000, 2),
    "busy-alone": Case(partial(busy, beside=False), 200_000, 2),
    "sleep": Case(sleep, 20_000),
    "collect": Case(partial(collect, count=100_000), 1),
}


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        levels = int(sys.argv[4]) if len(sys.argv) > 4 else 0
        print(memory(side(sys.argv[3]), int(sys.argv[2]), levels))
        return
    pyperf = import_module("pyperf")

    def arguments(command: list[str], options: argparse.Namespace) -> None:
        command += [options.case, options.side]

    runner = pyperf.Runner(processes=1, values=3, warmups=1, add_cmdline_args=arguments)
    runner.argparser.add_argument("case", choices=CASES)
    runner.argparser.add_argument("side")
    options = runner.parse_args()
    case = CASES[options.case]
    options.loops = options.loops or case.loops
    runner.bench_time_func(
        options.case, lambda loops: case.time(side(options.side), loops), inner_loops=case.inner
    )


if __name__ == "__main__":
    main()
