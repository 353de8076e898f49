# SPDX-License-Identifier: MIT
"""Names of functions by their addresses in a process, from the symbols of its files."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from kfiber.info import FiberInfo
from kfiber.memory import mappings
from kfiber.proc import PROC

# ELF-64, little-endian: its header, a program header, a section header, a symbol.
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_LOAD = 1
_SYMTAB, _DYNSYM = 2, 11
_FUNCTION, _IFUNC = 2, 10
# Of fibers in Python this is the entry point, the same for all.
_EXTENSION = "_native."


class _Symbol(NamedTuple):
    kind: int
    section: int
    value: int
    name: int  # where it is written in the file


def _symbols(data: bytes) -> Iterator[_Symbol]:
    """The symbols of an ELF file; those of its whole table last. Empty: it is none, or has none."""
    if len(data) < _HEADER.size or not data.startswith(b"\x7fELF\x02\x01"):
        return
    header = _HEADER.unpack_from(data)
    sections_at, sections = header[6], header[12]
    tables = [_SECTION.unpack_from(data, sections_at + i * _SECTION.size) for i in range(sections)]
    for wanted in (_DYNSYM, _SYMTAB):
        for table in tables:
            if table[1] != wanted:
                continue
            strings = tables[table[6]][4]
            symbols = data[table[4] : table[4] + table[5] // _SYMBOL.size * _SYMBOL.size]
            for name, info, _, section, value, _ in _SYMBOL.iter_unpack(symbols):
                yield _Symbol(info & 15, section, value, strings + name)


def exported(data: bytes, name: str) -> int | None:
    """The address of an ELF file's symbol, counted from where it is loaded; None: it has none."""
    text = name.encode() + b"\0"
    for symbol in _symbols(data):
        if symbol.section and data.startswith(text, symbol.name):
            return symbol.value
    return None


def functions(data: bytes) -> dict[int, str]:
    """The functions of an ELF file, by their place in the file. Empty: it is none, or has none."""
    found: dict[int, str] = {}
    loads: list[tuple[int, int, int]] = []
    for symbol in _symbols(data):
        if symbol.kind not in (_FUNCTION, _IFUNC) or not symbol.section:
            continue
        loads = loads or _loads(data)
        for vaddr, filesz, offset in loads:
            if vaddr <= symbol.value < vaddr + filesz:
                text = data[symbol.name : data.index(b"\0", symbol.name)].decode(errors="replace")
                # Names of the whole table come later, and count where both have one.
                found[symbol.value - vaddr + offset] = text
    return found


def _loads(data: bytes) -> list[tuple[int, int, int]]:
    """Address, size and place in the file of each part that is loaded."""
    header = _HEADER.unpack_from(data)
    programs_at, programs = header[5], header[10]
    return [
        (vaddr, filesz, offset)
        for kind, _, offset, vaddr, _, filesz, _, _ in (
            _PROGRAM.unpack_from(data, programs_at + i * _PROGRAM.size) for i in range(programs)
        )
        if kind == _LOAD
    ]


class Symbols:
    """Of one process; each of its files is read once."""

    def __init__(self, pid: int, *, proc: Path = PROC) -> None:
        self._process = proc / str(pid)
        self._files: dict[str, dict[int, str]] = {}
        try:
            self._mappings = [each for each in mappings(self._process) if each.path[0] == "/"]
        except OSError:
            self._mappings = []

    def name(self, address: int) -> str:
        """The function that begins there; "" if none does, or if it may not be known."""
        for mapping in self._mappings:
            if mapping.start <= address < mapping.end:
                if Path(mapping.path).name.startswith(_EXTENSION):
                    return ""
                if mapping.path not in self._files:
                    self._files[mapping.path] = self._read(mapping.path)
                place = address - mapping.start + mapping.offset
                return self._files[mapping.path].get(place, "")
        return ""

    def _read(self, path: str) -> dict[int, str]:
        # As the process sees it, which may be in a container.
        try:
            return functions((self._process / "root" / path.lstrip("/")).read_bytes())
        except (OSError, ValueError, IndexError, struct.error):
            return {}


def named(fibers: Iterable[FiberInfo], *, proc: Path = PROC) -> list[FiberInfo]:
    """The fibers; those that were given no name have that of their function, as far as known."""
    symbols: dict[int, Symbols] = {}
    result = []
    for fiber in fibers:
        if not fiber.name and fiber.entry:
            if fiber.pid not in symbols:
                symbols[fiber.pid] = Symbols(fiber.pid, proc=proc)
            fiber = replace(fiber, name=symbols[fiber.pid].name(fiber.entry))
        result.append(fiber)
    return result
