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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kfiber.errors import KfiberError
from kfiber.stat import Fiber

_NAME = "/memfd:kfiber-table (deleted)"
_MAGIC = 0x72656269666B
_MAJOR = 3
_HEADER = struct.Struct("<Q6I5Q16s2I")
_SLOT = struct.Struct("<7Q2I4QI28x64s")
_AREA = struct.Struct("<IIQ48x")
_STATES = ("new", "running", "suspended", "finished")
# Slots that are read at once.
_BATCH = 4096


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


def fibers(process: Path) -> list[Fiber]:
    """The fibers in the table of `process`, a directory of /proc; none if there is no table.

    PermissionError: the process may not be debugged. FileNotFoundError, ProcessLookupError: it has
    ended. VersionError.
    """
    start = _start(process)
    if start is None:
        return []
    with (process / "mem").open("rb", buffering=0) as memory:
        return _read(memory.fileno(), start, int(process.name))


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def _records(layout: struct.Struct, raw: bytes, size: int) -> Iterator[tuple[Any, ...]]:
    """The records of `size` bytes each, of which a later version may have more than `layout`."""
    if size == layout.size:
        yield from layout.iter_unpack(raw)
        return
    for start in range(0, len(raw) - size + 1, size):
        yield layout.unpack_from(raw, start)


def _read(memory: int, start: int, pid: int) -> list[Fiber]:
    header = os.pread(memory, _HEADER.size, start)
    if len(header) < _HEADER.size:
        raise ProcessLookupError(f"process {pid} has ended")
    (magic, version, _, used, _, areas_used, shift, mult, cycles, clock, slots, areas, *rest) = (
        _HEADER.unpack(header)
    )
    engine, slot_size, area_size = rest
    if magic != _MAGIC:
        # Just being made.
        return []
    if version >> 16 != _MAJOR:
        raise VersionError(
            f"process {pid} has status table version {version >> 16}.{version & 0xFFFF}, and this "
            f"kfiber reads {_MAJOR}.x; mend: use the kfiber of that program"
        )

    def nanoseconds(count: int) -> int:
        return int(count * mult >> shift)

    now = cycles + (((time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - clock) << shift) // mult)
    raw = os.pread(memory, areas_used * area_size, areas)
    tids = [tid for tid, _, _ in _records(_AREA, raw, area_size)]
    found = []
    for first in range(0, used, _BATCH):
        count = min(_BATCH, used - first)
        raw = os.pread(memory, count * slot_size, slots + first * slot_size)
        for words in _records(_SLOT, raw, slot_size):
            (number, activations, run, longest, last, sp, ip, state, area, *rest) = words
            failed, entry, stack_start, stack_size, parent, name = rest
            if not number or state >= len(_STATES):
                continue
            running = _STATES[state] == "running"
            # A new one has not been switched to.
            ago = max(now - last, 0) if last else 0
            current = ago if running else 0
            found.append(
                Fiber(
                    pid=pid,
                    id=number,
                    name=_text(name),
                    state=_STATES[state],
                    running=running,
                    thread_id=tids[area] if running and area < len(tids) else 0,
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
                    engine=_text(engine),
                )
            )
    return found
