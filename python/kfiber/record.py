# SPDX-License-Identifier: MIT
"""Samples of a process over some time: which fiber each thread runs, and on request its stack."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kfiber import holds, proc, stop
from kfiber.frames import Position, Reader
from kfiber.memory import Process


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
                open_runs[hold.thread_id] = (
                    hold.since,
                    Run(hold.fiber, hold.thread_id, now - hold.ns, now),
                )
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


def _ticks(interval: float, duration: float | None) -> Iterator[None]:
    """One at once, then one each `interval`; those that would be late are left out."""
    start = due = time.monotonic()
    while duration is None or due - start <= duration:
        time.sleep(max(due - time.monotonic(), 0))
        yield
        due = max(due + interval, time.monotonic())
