# SPDX-License-Identifier: MIT
"""The memory that a process left in a core file."""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from kfiber.errors import KfiberError
from kfiber.memory import Mapping

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_NOTE = struct.Struct("<III")
_LOAD, _NOTES = 1, 4
_CORE = 4
_PRSTATUS, _PRPSINFO, _FILES = 1, 3, 0x46494C45
# struct elf_prstatus: pr_pid, and pr_reg, which is struct user_regs_struct.
_PID_AT, _REGISTERS_AT = 32, 112


class Core:
    """As memory.Process. KfiberError: the file is no core file of x86-64, or cannot be read."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise KfiberError(
                f"cannot read {path}: {getattr(error, 'strerror', None) or error}; "
                "hint: --core FILE"
            ) from None
        self.core: Path | None = path
        self.mappings: Sequence[Mapping] = []
        self.pid = 0
        self.registers: dict[int, bytes] = {}
        self._parts: list[tuple[int, int, int]] = []
        try:
            self._parse()
        except (struct.error, IndexError):
            self._parts = []
        if not self._parts:
            raise KfiberError(
                f"cannot read {path}: it is no core file of this architecture; "
                "hint: the kernel writes one where ulimit -c allows it"
            )

    def _parse(self) -> None:
        header = _HEADER.unpack_from(self._data)
        if not header[0].startswith(b"\x7fELF\x02\x01") or header[1] != _CORE:
            return
        for number in range(header[10]):
            kind, _, offset, address, _, size, _, _ = _PROGRAM.unpack_from(
                self._data, header[5] + number * _PROGRAM.size
            )
            if kind == _LOAD and size:
                self._parts.append((address, size, offset))
            elif kind == _NOTES:
                for note, content in self._notes(offset, offset + size):
                    self._note(note, content)
        self._parts.sort()

    def _notes(self, at: int, end: int) -> Iterator[tuple[int, bytes]]:
        while at + _NOTE.size <= end:
            name, size, kind = _NOTE.unpack_from(self._data, at)
            at += _NOTE.size + (name + 3 & ~3)
            yield kind, self._data[at : at + size]
            at += size + 3 & ~3

    def _note(self, kind: int, content: bytes) -> None:
        if kind == _PRSTATUS:
            (thread,) = struct.unpack_from("<i", content, _PID_AT)
            self.registers[thread] = content[_REGISTERS_AT : _REGISTERS_AT + 27 * 8]
        elif kind == _PRPSINFO:
            (self.pid,) = struct.unpack_from("<i", content, 24)
        elif kind == _FILES:
            count, page = struct.unpack_from("<QQ", content)
            names = content[16 + 24 * count :].split(b"\0")
            words = struct.iter_unpack("<QQQ", content[16 : 16 + 24 * count])
            self.mappings = [
                Mapping(start, end, offset * page, name.decode(errors="surrogateescape"))
                for (start, end, offset), name in zip(words, names, strict=False)
            ]

    def read(self, address: int, size: int) -> bytes:
        """What memory.Memory says."""
        found = b""
        while len(found) < size:
            at = bisect_right(self._parts, (address, 1 << 64, 0)) - 1
            start, length, offset = self._parts[at] if at >= 0 else (0, 0, 0)
            inside = address - start
            if not 0 <= inside < length:
                raise OSError(f"nothing at {address:#x} in {self.core}")
            some = min(size - len(found), length - inside)
            found += self._data[offset + inside : offset + inside + some]
            address += some
        return found

    def read_many(self, addresses: Sequence[int], sizes: Sequence[int]) -> memoryview:
        """What memory.Memory says."""
        found = bytearray()
        for address, size in zip(addresses, sizes, strict=True):
            try:
                found += self.read(address, size)
            except OSError:
                found += bytes(size)
        return memoryview(found)

    def open_file(self, path: str) -> bytes:
        """The file on this machine, which may be another one's."""
        return Path(path).read_bytes()
