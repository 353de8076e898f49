# SPDX-License-Identifier: MIT
"""The memory of another process, many pieces at a time, and what is mapped there."""

from __future__ import annotations

import ctypes
import errno
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

# IOV_MAX: pieces of one system call.
_PIECES = 1024


class Mapping(NamedTuple):
    """A part of a process' memory that a file is mapped to."""

    start: int
    end: int
    offset: int
    path: str


def mappings(process: Path) -> list[Mapping]:
    """Those of `process`, a directory of /proc, that have a name. OSError."""
    found = []
    for line in (process / "maps").read_text(errors="surrogateescape").splitlines():
        addresses, _, offset, _, _, *path = line.split(None, 5)
        start, _, end = addresses.partition("-")
        if path:
            found.append(Mapping(int(start, 16), int(end, 16), int(offset, 16), path[0]))
    return found


Piece = tuple[int, memoryview]
"""An address and what is there."""


class Memory(Protocol):
    """Where bytes of a process come from: it lives, or left a core file."""

    pid: int
    mappings: Sequence[Mapping]
    core: Path | None  # None: it lives

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes; OSError: not all of them are there."""

    def read_many(self, addresses: Sequence[int], sizes: Sequence[int]) -> memoryview:
        """The bytes at each address one after the other; zeros for pieces that are not there."""

    def open_file(self, path: str) -> bytes:
        """The content of a file as the process sees it. OSError."""


class Process:
    """A living process. PermissionError, ProcessLookupError, from all of its methods.

    Words are whole, but what belongs together may be of two moments unless the process is stopped.
    """

    def __init__(self, pid: int, *, proc: Path = Path("/proc")) -> None:
        self.pid = pid
        self.core: Path | None = None
        self._folder = proc / str(pid)
        self._readv = ctypes.CDLL(None, use_errno=True).process_vm_readv
        self._readv.restype = ctypes.c_ssize_t
        self.mappings: Sequence[Mapping] = mappings(self._folder)

    def read(self, address: int, size: int) -> bytes:
        found = bytearray(size)
        if self._read_into(found, array("Q", [address, size])) != size:
            raise OSError(f"nothing at {address:#x} in process {self.pid}")
        return bytes(found)

    def read_many(self, addresses: Sequence[int], sizes: Sequence[int]) -> memoryview:
        # struct iovec: address, size.
        pieces = array("Q", bytes(16 * len(addresses)))
        pieces[0::2] = array("Q", addresses)
        pieces[1::2] = array("Q", sizes)
        found = memoryview(bytearray(sum(sizes)))
        done = start = 0
        while done < len(addresses):
            some = pieces[2 * done : 2 * (done + _PIECES)]
            size = sum(some[1::2])
            got = self._read_into(found[start : start + size], some)
            start += size
            if got == size:
                done += _PIECES
                continue
            # It ended at a piece that is not there: go on behind that one.
            start -= size
            for length in some[1::2]:
                start += length
                done += 1
                if got < length:
                    break
                got -= length
        return found

    def _read_into(self, buffer: bytearray | memoryview, pieces: array[int]) -> int:
        """How many bytes there are until the first piece that is not there."""
        if not buffer:
            return 0
        place = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        local = array("Q", [ctypes.addressof(place), len(buffer)])
        got: int = self._readv(
            ctypes.c_int(self.pid),
            ctypes.c_void_p(local.buffer_info()[0]),
            ctypes.c_ulong(1),
            ctypes.c_void_p(pieces.buffer_info()[0]),
            ctypes.c_ulong(len(pieces) // 2),
            ctypes.c_ulong(0),
        )
        if got >= 0:
            return got
        number = ctypes.get_errno()
        if number in (errno.EFAULT, errno.EINVAL):
            return 0
        raise OSError(number, os.strerror(number))

    def open_file(self, path: str) -> bytes:
        # As the process sees it, which may be in a container.
        return (self._folder / "root" / path.lstrip("/")).read_bytes()
