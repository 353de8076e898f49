# SPDX-License-Identifier: MIT
"""Samples of a process over some time: which fiber each thread runs, and on request its stack."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kfiber import exact, holds, proc, stop
from kfiber.frames import Position, Reader
from kfiber.memory import Process

# In seconds: within what the process goes on by itself.
_RENEWAL = 0.5


class Run(NamedTuple):
    """A fiber ran on a thread: from its exact start until it was last seen there, at least."""

    fiber: int
    thread_id: int
    start_ns: int
    end_ns: int


class Sample(NamedTuple):
    """A fiber was on a thread, with that stack; innermost first."""

    fiber: int
    thread_id: int
    at_ns: int
    frames: tuple[Position, ...]


@dataclass(frozen=True)
class Recording:
    """What was seen. Times are monotonic, in nanoseconds; `interval_ns` is the mean of what was."""

    pid: int
    begin_ns: int
    end_ns: int
    interval_ns: int
    names: dict[int, str]
    runs: list[Run]
    samples: list[Sample]
    lost: int = 0  # switches that nobody read in time
    lapses: int = 0  # times without notes


def record(
    pid: int, *, interval: float, duration: float | None, stacks: bool = False, still: bool = True
) -> Recording:
    """Samples the process every `interval` seconds, for `duration` seconds, or until it or the
    caller ends that (KeyboardInterrupt).

    With `stacks` the Python frames of running fibers are read; the process stands still for each
    sample of them if `still`. KfiberError: it cannot be looked at.
    """
    reader = Reader.of(Process(pid)) if stacks else None
    names: dict[int, str] = {}
    samples: list[Sample] = []
    open_runs: dict[int, tuple[int, Run]] = {}
    runs: list[Run] = []
    begin = now = time.monotonic_ns()
    looks = 0
    with contextlib.suppress(KeyboardInterrupt, ProcessLookupError, FileNotFoundError):
        for _ in _ticks(interval, duration):
            with stop.stopped(pid) if reader and still else contextlib.nullcontext():
                now = time.monotonic_ns()
                try:
                    running = holds.running(pid)
                except proc.NoProcessError:
                    if looks:
                        break
                    raise
                if reader:
                    taken = reader.take({}, {hold.fiber for hold in running})
                    reader.walk(taken.values())
            looks += 1
            for hold in running:
                known, run = open_runs.get(hold.thread_id, (None, None))
                if run is not None and (run.fiber, known) == (hold.fiber, hold.since):
                    open_runs[hold.thread_id] = hold.since, run._replace(end_ns=now)
                    continue
                if run is not None:
                    runs.append(run)
                # The look took a while, by which the start seems too early.
                start = max(now - hold.ns, run.end_ns if run else 0)
                run = Run(hold.fiber, hold.thread_id, start, max(now, start))
                open_runs[hold.thread_id] = hold.since, run
            if reader:
                for hold in running:
                    if hold.fiber in taken:
                        frames = (
                            reader.position(f.code, f.instruction) for f in taken[hold.fiber].frames
                        )
                        stack = tuple(frame for frame in frames if frame)
                        samples.append(Sample(hold.fiber, hold.thread_id, now, stack))
            if any(hold.fiber not in names for hold in running):
                names.update({fiber.id: fiber.name for fiber in proc.fibers(pid)})
    runs += [run for _, run in open_runs.values()]
    mean = (now - begin) // max(looks - 1, 1)
    return Recording(pid, begin, now, mean, names, sorted(runs, key=lambda r: r.start_ns), samples)


def record_exactly(pid: int, *, interval: float, duration: float | None) -> Recording:
    """Each run of each fiber, as record() otherwise; the process notes its switches meanwhile.

    KfiberError: it cannot be looked at, or its libfiber cannot do so.
    """
    names: dict[int, str] = {}
    open_runs: dict[int, tuple[int, int]] = {}
    runs: list[Run] = []
    gaps, unknown = (0, 0), True
    with exact.Switches(pid) as switches:
        begin = last = time.monotonic_ns()
        for hold in holds.running(pid):
            open_runs[hold.thread_id] = hold.fiber, begin
        with contextlib.suppress(KeyboardInterrupt, ProcessLookupError, FileNotFoundError):
            for _ in _ticks(min(interval, _RENEWAL), duration):
                switches.renew()
                for at, left, entered, thread in switches.read():
                    if (switches.lost, switches.lapses) != gaps:
                        # Who ran meanwhile is not known.
                        gaps = switches.lost, switches.lapses
                        open_runs.clear()
                    fiber, since = open_runs.get(thread, (0, 0))
                    if fiber and fiber == left:
                        runs.append(Run(fiber, thread, max(since, begin), max(at, begin)))
                    open_runs[thread] = entered, at
                    unknown |= entered not in names
                    last = at
                if unknown:
                    names.update({fiber.id: fiber.name for fiber in proc.fibers(pid)})
                    unknown = False
        end = max(time.monotonic_ns(), last)
    runs += [Run(fiber, thread, at, end) for thread, (fiber, at) in open_runs.items() if fiber]
    runs.sort(key=lambda run: run.start_ns)
    return Recording(pid, begin, end, 0, names, runs, [], *gaps)


def _ticks(interval: float, duration: float | None) -> Iterator[None]:
    """One at once, then one each `interval`; those that would be late are left out."""
    start = due = time.monotonic()
    while duration is None or due - start <= duration:
        time.sleep(max(due - time.monotonic(), 0))
        yield
        due = max(due + interval, time.monotonic())
