# SPDX-License-Identifier: MIT
"""Every switch of a process, which notes them itself as long as somebody outside asks for it.

The process has libfiber's `kfiber_trace` (lib/trace.h). It is told by writes to its memory, as by a
debugger, and its events are read from a ring. It stops by itself soon after the last renewal.
"""

from __future__ import annotations

import os
import struct
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kfiber.errors import KfiberError
from kfiber.memory import Process
from kfiber.symbols import exported

_SYMBOL = "kfiber_trace"
_TRACE = struct.Struct("<8sIIQ2QQIIQ")
_UNTIL, _RING = 16, 40
_EVENT = 5  # words: number, time, from, to, thread
# For so long the process goes on if this one dies.
_LEASE_NS = 10_000_000_000
# Libraries that may have it, and the program itself.
_NAMES = ("_native.", "libfiber.so")
_AT_ONCE = 1 << 16


class Switch(NamedTuple):
    """A thread suspended a fiber and resumed another; 0: it was no fiber, or is none any more."""

    at_ns: int  # monotonic
    left: int
    entered: int
    thread_id: int


class Switches:
    """The switches of a process from the start of a `with` block on.

    KfiberError: the process does not let itself be told, or is not yours.
    """

    def __init__(self, pid: int) -> None:
        self.lost = 0  # overwritten before they were read
        self.lapses = 0  # times when nobody asked for too long, so that some were not noted
        self._memory = Process(pid)
        self._at = self._find()
        self._folder = Path("/proc", str(pid))
        *_, first, second, _, self._room, size, self._count = _TRACE.unpack(
            self._memory.read(self._at, _TRACE.size)
        )
        self._routes = first, second
        if size != 8 * _EVENT:
            raise KfiberError(
                f"cannot record process {pid} exactly: its libfiber writes other events; "
                "hint: use the kfiber of that program"
            )

    def _find(self) -> int:
        memory = self._memory
        program = os.path.realpath(f"/proc/{memory.pid}/exe")
        for mapping in memory.mappings:
            name = Path(mapping.path).name
            if mapping.offset or not (name.startswith(_NAMES) or mapping.path == program):
                continue
            try:
                place = exported(memory.open_file(mapping.path), _SYMBOL)
                if place is None:
                    continue
                # A program that is not relocatable has addresses.
                for start in (mapping.start, 0):
                    if memory.read(start + place, 8) == b"kfiberTr":
                        return start + place
            except OSError:
                continue
        raise KfiberError(
            f"cannot record process {memory.pid} exactly: it has no libfiber that can do so; "
            "hint: leave out --exact"
        )

    def __enter__(self) -> Switches:
        self._ask()
        return self

    def __exit__(self, *_: object) -> None:
        # Its next switch ends it.
        self._write(self._at + _UNTIL, struct.pack("<Q", 1))

    def renew(self) -> None:
        """To be called once a second."""
        try:
            if not any(self._memory.read(self._at + _UNTIL, 8)):
                self.lapses += 1
        except OSError:
            raise ProcessLookupError from None
        self._ask()

    def _ask(self) -> None:
        self._write(self._at + _UNTIL, struct.pack("<Q", time.monotonic_ns() + _LEASE_NS))
        for route in self._routes:
            self._write(route, bytes(4))

    def _write(self, address: int, data: bytes) -> None:
        try:
            with (self._folder / "mem").open("r+b", buffering=0) as memory:
                os.pwrite(memory.fileno(), data, address)
        except PermissionError:
            raise KfiberError(
                f"cannot record process {self._memory.pid} exactly: its memory is not yours to "
                "write; hint: leave out --exact"
            ) from None
        except OSError:
            # It has ended.
            raise ProcessLookupError from None

    def read(self) -> Iterator[Switch]:
        """Those since the last call. ProcessLookupError: the process has ended."""
        try:
            ring, _, _, count = struct.unpack("<QIIQ", self._memory.read(self._at + _RING, 24))
            while self._count < count:
                if count - self._count > self._room:
                    self._skip(count - self._room // 2)
                place = self._count % self._room
                some = min(count - self._count, self._room - place, _AT_ONCE)
                words = array("Q", self._memory.read(ring + 8 * _EVENT * place, 8 * _EVENT * some))
                expected = self._count + 1
                for at in range(0, len(words), _EVENT):
                    number = words[at]
                    if number < expected:
                        return  # being written
                    if number > expected:
                        self._skip(number - 1)
                        break
                    self._count = expected
                    expected += 1
                    yield Switch(words[at + 1], words[at + 2], words[at + 3], words[at + 4])
        except OSError:
            raise ProcessLookupError from None

    def _skip(self, count: int) -> None:
        self.lost += count - self._count
        self._count = count
