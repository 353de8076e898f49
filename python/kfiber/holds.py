# SPDX-License-Identifier: MIT
"""Finds fibers that hold their thread for long: while one runs, no other of that thread can."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import FrameType, TracebackType

from kfiber import hint, proc, table
from kfiber.errors import KfiberError
from kfiber.info import FiberInfo

_VANISHED = (FileNotFoundError, ProcessLookupError)
# Looks within the limit: a hold is found at most a quarter of the limit late.
_LOOKS = 4
# A program that is looked at without a pause would pay for it.
_LEAST_PAUSE = 0.001


@dataclasses.dataclass(frozen=True)
class Event:
    """A fiber holds its thread, or has let go of it. `held_ns` is on the clock of the wall."""

    kind: str  # "held" or "released"
    fiber: FiberInfo
    thread_id: int
    held_ns: int
    stack: tuple[str, ...] = ()  # outermost first; empty where it is not known


def running(pid: int) -> list[table.Hold]:
    """Which fibers the threads of the process run now.

    NoProcessError: it has ended, or may not be looked at.
    """
    try:
        if found := table.holds(proc.PROC / str(pid)):
            return found
    except _VANISHED:
        raise proc.NoProcessError(
            f"cannot look at process {pid}: it has ended; hint: kfiber ps lists those with fibers"
        ) from None
    except PermissionError:
        raise proc.NoProcessError(
            f"cannot look at process {pid}: its memory is not yours to read; "
            f"hint: {hint.to_see('watch', str(pid))}"
        ) from None
    # The kernel's, one file a fiber.
    return [
        table.Hold(each.thread_id, each.id, each.activations, each.last_switch_ns_ago)
        for each in proc.fibers(pid)
        if each.running
    ]


class Watcher:
    """Looks at one process from time to time. `limit` is in seconds."""

    def __init__(self, pid: int, limit: float) -> None:
        self.pid = pid
        self.pause = max(limit / _LOOKS, _LEAST_PAUSE)
        self._limit_ns = int(limit * 1e9)
        # What has been told: the hold without its duration, and the event.
        self._told: dict[tuple[int, int, int], Event] = {}

    def look(self) -> list[Event]:
        """What there is to tell since the last look.

        NoProcessError: the process has ended, or may not be looked at.
        """
        holds = running(self.pid)
        long = {hold[:3]: hold.ns for hold in holds if hold.ns >= self._limit_ns}
        events = []
        for key, event in list(self._told.items()):
            if key in long:
                # Kept up to date: the last look before the end knows best how long it was.
                self._told[key] = dataclasses.replace(event, held_ns=long[key])
            else:
                del self._told[key]
                events.append(Event("released", event.fiber, event.thread_id, event.held_ns))
        if new := long.keys() - self._told.keys():
            fibers = {fiber.id: fiber for fiber in proc.fibers(self.pid)}
            for key in sorted(new):
                thread, number, _ = key
                if number in fibers:
                    event = Event("held", fibers[number], thread, long[key])
                    self._told[key] = event
                    events.append(event)
        return events

    def events(self) -> Iterator[Event]:
        """What there is to tell, until the process ends."""
        while True:
            try:
                yield from self.look()
            except proc.NoProcessError:
                if not proc.has_ended(self.pid):
                    raise
                return
            time.sleep(self.pause)


class Watch:
    """What watch() returns: a context manager, and stop() ends it. Any thread may."""

    def __init__(self, limit: float, callback: Callable[[Event], object]) -> None:
        self._watcher = Watcher(os.getpid(), limit)
        self._callback = callback
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kfiber-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it. No callback runs once this has returned, unless it was called from one."""
        self._end.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._end.wait(self._watcher.pause):
            for event in self._watcher.look():
                if self._end.is_set():
                    return
                self._callback(_with_stack(event))


def _with_stack(event: Event) -> Event:
    """With the Python frames of that thread, if it is one of this process' threads."""
    if event.kind != "held":
        return event
    for thread in threading.enumerate():
        if thread.native_id == event.thread_id and thread.ident is not None:
            frame = sys._current_frames().get(thread.ident)
            return dataclasses.replace(event, stack=tuple(_frames(frame)))
    return event


def _frames(frame: FrameType | None) -> Sequence[str]:
    lines = []
    while frame is not None:
        code = frame.f_code
        lines.append(f"{getattr(code, 'co_qualname', code.co_name)} "
                     f"({code.co_filename}:{frame.f_lineno})")  # fmt: skip
        frame = frame.f_back
    return lines[::-1]


def watch(limit: float, callback: Callable[[Event], object]) -> Watch:
    """Have `callback` called with an Event for each fiber of this process that holds its thread
    for longer than `limit` seconds, and again when it lets go.

    A thread of its own looks four times within `limit` and calls `callback`; that thread is no
    fiber. The event has the stack that the fiber had then. ValueError: `limit` is not above 0.
    KfiberError: this process' own status table cannot be read.
    """
    if not limit > 0:
        raise ValueError("limit must be above 0 seconds")
    with suppress(*_VANISHED):
        try:
            table.holds(proc.PROC / str(os.getpid()))
        except PermissionError:
            raise KfiberError(
                "cannot watch: this process may not read its own /proc/self/mem; "
                "hint: prctl(PR_SET_DUMPABLE, 1), or allow it in the sandbox"
            ) from None
    return Watch(limit, callback)
