# SPDX-License-Identifier: MIT
"""The status table, in which engine `local` publishes its fibers.

uapi/fiber.h has its layout. It lies in the memory of the process, under a name in /proc/PID/maps,
and is read through /proc/PID/mem, for which one needs the right to debug the process. The process
takes no notice and writes on: every word is whole, but the words of a fiber may be of two moments.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kfiber.errors import KfiberError
from kfiber.info import FiberInfo

if TYPE_CHECKING:
    from kfiber.core import Core

_Read = Callable[[int, int], bytes]

_NAME = "/memfd:kfiber-table (deleted)"
_MAGIC = 0x72656269666B
_MAJOR = 3
_HEADER = struct.Struct("<Q6I5Q16s2I")
_SLOT = struct.Struct("<7Q2I4QI28x64s")
_AREA = struct.Struct("<IIQQ40x")
_STATES = ("new", "running", "suspended", "finished")
# Bytes of slots that are read at once.
_BATCH = 1 << 20


class Hold(NamedTuple):
    """A thread runs a fiber. `ns` is since when, on the clock of the wall."""

    thread_id: int
    fiber: int
    since: int  # of no meaning but that it differs from one run to the next
    ns: int


class VersionError(KfiberError):
    """This package cannot read that version of the status table."""


def _start(process: Path) -> int | None:
    """Where the table lies; None if there is none."""
    for line in (process / "maps").read_text(errors="surrogateescape").splitlines():
        if line.endswith(_NAME):
            return int(re.split("[- ]", line, maxsplit=1)[0], 16)
    return None


def exists(process: Path) -> bool:
    """Whether `process`, a directory of /proc, has a table. As fibers() where it does not work."""
    return _start(process) is not None


def fibers(process: Path) -> list[FiberInfo]:
    """The fibers in the table of `process`, a directory of /proc; none if there is no table.

    PermissionError: the process may not be debugged. FileNotFoundError, ProcessLookupError: it has
    ended. VersionError.
    """
    found = snapshot(process)
    return found.fibers() if found else []


def snapshot(process: Path) -> Snapshot | None:
    """The table as it is now; None if there is none. Raises what fibers() does."""
    start = _start(process)
    if start is None:
        return None
    with (process / "mem").open("rb", buffering=0) as memory:
        return _snapshot(_reader(memory.fileno()), start, int(process.name))


def in_core(core: Core) -> Snapshot | None:
    """The table in a core file; None if there is none. VersionError."""
    for mapping in core.mappings:
        if mapping.path.startswith(_NAME):
            found = _snapshot(core.read, mapping.start, core.pid)
            if found:
                # When that was is not written down: not before the last switch.
                last = max((words[4] for words in found.records()), default=0)
                return found._replace(now=last)
    return None


def _reader(memory: int) -> _Read:
    return lambda address, size: os.pread(memory, size, address)


def _snapshot(read: _Read, start: int, pid: int) -> Snapshot | None:
    head = _head(read, start, pid)
    if head is None:
        return None
    now = head.now()
    tids = [tid for tid, *_ in head.areas(read)]
    parts, place, size = [], head.slots_at, head.used * head.slot_size
    while size > 0:
        parts.append(read(place, min(size, _BATCH)))
        place, size = place + len(parts[-1]), size - len(parts[-1]) if parts[-1] else 0
    return Snapshot(pid, head, now, tids, b"".join(parts))


def holds(process: Path) -> list[Hold] | None:
    """Which fibers the threads of `process` run now; None if it has no table.

    Costs a read for each 64 bytes a thread, however many fibers there are. Raises what fibers()
    does.
    """
    start = _start(process)
    if start is None:
        return None
    with (process / "mem").open("rb", buffering=0) as memory:
        read = _reader(memory.fileno())
        head = _head(read, start, int(process.name))
        if head is None:
            return []
        now = head.now()
        return [
            Hold(tid, fiber, since, head.nanoseconds(max(now - since, 0)))
            for tid, _, fiber, since in head.areas(read)
            if tid and fiber and since
        ]


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def _records(layout: struct.Struct, raw: bytes, size: int) -> Iterator[tuple[Any, ...]]:
    """The records of `size` bytes each, of which a later version may have more than `layout`."""
    if size == layout.size:
        yield from layout.iter_unpack(raw)
        return
    for start in range(0, len(raw) - size + 1, size):
        yield layout.unpack_from(raw, start)


class _Head(NamedTuple):
    """The fields of struct fiber_table that a reader needs."""

    used: int
    areas_used: int
    shift: int
    mult: int
    cycles: int
    clock: int
    slots_at: int
    areas_at: int
    engine: str
    slot_size: int
    area_size: int

    def nanoseconds(self, count: int) -> int:
        return count * self.mult >> self.shift

    def now(self) -> int:
        """The cycle counter.

        Where the extension is not built it follows from the rate, which the process has measured
        once: after a day that is off by seconds.
        """
        try:
            from kfiber._native import cycles
        except ImportError:
            pass
        else:
            return cycles()
        passed = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - self.clock
        return self.cycles + (passed << self.shift) // self.mult

    def areas(self, read: _Read) -> Iterator[tuple[int, int, int, int]]:
        """The areas that were ever used: tid, dead, fiber, since."""
        raw = read(self.areas_at, self.areas_used * self.area_size)
        return _records(_AREA, raw, self.area_size)


def _head(read: _Read, start: int, pid: int) -> _Head | None:
    """The table's head; None while it is being made."""
    header = read(start, _HEADER.size)
    if len(header) < _HEADER.size:
        raise ProcessLookupError(f"process {pid} has ended")
    magic, version, _, used, _, areas_used, shift, *rest = _HEADER.unpack(header)
    mult, cycles, clock, slots_at, areas_at, engine, slot_size, area_size = rest
    if magic != _MAGIC:
        return None
    if version >> 16 != _MAJOR:
        raise VersionError(
            f"process {pid} has status table version {version >> 16}.{version & 0xFFFF}, and this "
            f"kfiber reads {_MAJOR}.x; hint: use the kfiber of that program"
        )
    return _Head(
        used, areas_used, shift, mult, cycles, clock, slots_at, areas_at, _text(engine), slot_size,
        area_size,
    )  # fmt: skip


class Snapshot(NamedTuple):
    """The table of a process as it was at one moment."""

    pid: int
    head: _Head
    now: int  # on the cycle counter
    tids: list[int]  # by the number of the thread area
    slots: bytes

    def records(self) -> Iterator[tuple[Any, ...]]:
        """The slots, those of no fiber too, as _SLOT has them."""
        return _records(_SLOT, self.slots, self.head.slot_size)

    def suspended(self) -> dict[int, tuple[int, int]]:
        """The stack pointer of each suspended fiber, and the end of its stack, 0 for a thread's."""
        return {
            words[0]: (words[5], words[11] + words[12])
            for words in self.records()
            if words[0] and words[7] == _STATES.index("suspended")
        }

    def running(self) -> dict[int, int]:
        """The thread of each fiber that runs."""
        return {
            words[0]: self.tids[words[8]] if words[8] < len(self.tids) else 0
            for words in self.records()
            if words[0] and words[7] == _STATES.index("running")
        }

    def activations(self) -> dict[int, int]:
        """How often each fiber was switched to, by id."""
        return {words[0]: words[1] for words in self.records()}

    def fibers(self) -> list[FiberInfo]:
        """What it says of each fiber."""
        head, nanoseconds = self.head, self.head.nanoseconds
        found = []
        for words in self.records():
            (number, activations, run, longest, last, sp, ip, state, area, *rest) = words
            failed, entry, stack_start, stack_size, parent, name = rest
            if not number or state >= len(_STATES):
                continue
            running = _STATES[state] == "running"
            # A new one has not been switched to.
            ago = max(self.now - last, 0) if last else 0
            current = ago if running else 0
            found.append(
                FiberInfo(
                    pid=self.pid,
                    id=number,
                    name=_text(name),
                    state=_STATES[state],
                    running=running,
                    thread_id=self.tids[area] if running and area < len(self.tids) else 0,
                    parent_thread_id=parent,
                    activations=activations,
                    failed_activations=failed,
                    cpu_time_ns=None,
                    run_time_ns=nanoseconds(run + current),
                    longest_run_ns=nanoseconds(max(longest, current)),
                    last_switch_ns_ago=nanoseconds(ago),
                    entry=entry,
                    instruction_pointer=0 if running else ip,
                    stack_pointer=0 if running else sp,
                    stack_start=stack_start,
                    stack_size=stack_size,
                    engine=head.engine,
                )
            )
        return found
