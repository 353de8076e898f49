# SPDX-License-Identifier: MIT
"""Python frames of fibers, read from outside: a program of any version that the extension knows.

The extension says where everything is (python/native/outside.c), so nothing here depends on
a release but how an instruction leads to its line. Taking the frames from the memory and making
sense of them are two steps: the process has to stand still for the first one only.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kfiber.errors import KfiberError
from kfiber.memory import Memory, Piece
from kfiber.symbols import exported

_SYMBOL = "kfiber_python"
_EXTENSION = "_native."
_HEAD = struct.Struct("<8sIIQQI")
_WORD = struct.Struct("<Q")
_NONE = 0xFFFFFFFF
_FIELDS = (
    *("fiber_id", "fiber_state", "fiber_creator", "fiber_created_at"),
    *("state_frame", "cframe_frame", "state_chunk", "state_top"),
    *("frame_back", "frame_code", "frame_instruction", "frame_owner", "frame_entry"),
    *("code_name", "code_file", "code_line", "code_lines", "code_instructions"),
    *("text_length", "text_state", "text_ascii", "text_compact", "bytes_length", "bytes_data"),
    "state_base",
)
# What is larger is garbage, or not what anybody wants to read.
_FIBERS_MOST = 1 << 24
_PIECE_MOST = 1 << 20
_TEXT_MOST = 1 << 16
_LINES_MOST = 1 << 22
_DEPTH_MOST = 100_000
# 3.12 and newer: frames of no function, at the entry of the evaluation loop.
_OWNED_BY_C = 3


class Position(NamedTuple):
    """A place in a program. `line` is 0 where it is not known."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{self.function} ({where})" if where else self.function


class Frame(NamedTuple):
    """What is taken of a frame: addresses."""

    code: int
    instruction: int
    # Not 0: C code entered the evaluation loop here; from 3.12 on, where on the native stack.
    entry: int


@dataclass
class Taken:
    """What was taken of one fiber."""

    creator: int
    created_at: int
    state: int = 0
    # The next frame to be read, and pieces of memory where it may lie: address and content.
    next: int = 0
    pieces: list[Piece] = field(default_factory=list)
    # Innermost first.
    frames: list[Frame] = field(default_factory=list)
    # Some frames were read later than the pieces.
    late: bool = False
    # What lies beyond could not be read.
    torn: bool = False


class _Layout:
    """The places of fields, as attributes by the names of _FIELDS."""

    fiber_id: int
    fiber_state: int
    fiber_creator: int
    fiber_created_at: int
    state_frame: int
    cframe_frame: int
    state_chunk: int
    state_top: int
    frame_back: int
    frame_code: int
    frame_instruction: int
    frame_owner: int
    frame_entry: int
    code_name: int
    code_file: int
    code_line: int
    code_lines: int
    code_instructions: int
    text_length: int
    text_state: int
    text_ascii: int
    text_compact: int
    bytes_length: int
    bytes_data: int
    state_base: int

    def __init__(self, raw: bytes) -> None:
        magic, version, _, *words = _HEAD.unpack_from(raw)
        self.fibers, self.count, self.python = map(int, words)
        if magic != b"kfiberPy" or version != 1:
            raise KfiberError(
                f"cannot read Python frames: that program's kfiber describes them in version "
                f"{version}, and this one reads 1; hint: use the kfiber of that program"
            )
        places = struct.unpack_from(f"<{len(_FIELDS)}I", raw, _HEAD.size)
        for name, place in zip(_FIELDS, places, strict=True):
            setattr(self, name, place)


_SIZE = _HEAD.size + 4 * len(_FIELDS)


def _base(memory: Memory) -> Iterator[tuple[int, str]]:
    """Where extensions that may be kfiber's begin."""
    for mapping in memory.mappings:
        path = Path(mapping.path)
        if (
            mapping.offset == 0
            and path.name.startswith(_EXTENSION)
            and path.parent.name == "kfiber"
        ):
            yield mapping.start, mapping.path


class Reader:
    """The fibers of one process as its extension has them."""

    def __init__(self, memory: Memory, layout: _Layout) -> None:
        self._memory = memory
        self._layout = layout
        self._codes: dict[int, _Code | None] = {}
        # Where the objects of fibers were.
        self._places: dict[int, int] = {}

    @classmethod
    def of(cls, memory: Memory) -> Reader | None:
        """None: no fibers in Python there. KfiberError: another version than this package's."""
        for start, path in _base(memory):
            try:
                place = exported(memory.open_file(path), _SYMBOL)
                if place is not None:
                    return cls(memory, _Layout(memory.read(start + place, _SIZE)))
            except OSError:
                continue
        return None

    @property
    def uses_stack(self) -> bool:
        """Whether some frames lie on the native stack: those at the entry of the loop."""
        return self._layout.python >= 0x030C0000

    def take(
        self, stacks: Mapping[int, Piece], only: Collection[int] | None = None
    ) -> dict[int, Taken]:
        """What is needed of each fiber's memory, by id; walk() then finds the frames in it.

        `stacks` are pieces of fibers' stacks, if uses_stack. `only`: of these, which costs little
        from the second time on. OSError.
        """
        at, read = self._layout, self._memory.read_many
        if only is not None and set(only) <= self._places.keys():
            found = self._take_from([self._places[each] for each in only], stacks)
            if found.keys() == set(only):
                return found
        where, number = (
            _WORD.unpack(self._memory.read(address, 8))[0] for address in (at.fibers, at.count)
        )
        if not number or number > _FIBERS_MOST:
            return {}
        objects = struct.unpack(f"<{number}Q", self._memory.read(where, 8 * number))
        if only is None:
            return self._take_from(objects, stacks)
        pick = _Picker((at.fiber_id, "Q"))
        ids = pick.all(read(objects, [pick.size] * number))
        self._places = {each: place for (each,), place in zip(ids, objects, strict=True)}
        return self._take_from([self._places[n] for n in only if n in self._places], stacks)

    def _take_from(self, objects: Sequence[int], stacks: Mapping[int, Piece]) -> dict[int, Taken]:
        """As take(), of the fibers whose objects are there."""
        at, read = self._layout, self._memory.read_many
        pick = _Picker(
            (at.fiber_id, "Q"), (at.fiber_state, "Q"), (at.fiber_creator, "Q"),
            (at.fiber_created_at, "i"),
        )  # fmt: skip
        found: dict[int, Taken] = {}
        states = []
        for fiber, state, creator, place in pick.all(read(objects, [pick.size] * len(objects))):
            taken = found[fiber] = Taken(creator, place)
            if fiber in stacks:
                taken.pieces.append(stacks[fiber])
            if state:
                states.append((state, taken))
        self._take_states(states)
        return found

    def _take_states(self, states: list[tuple[int, Taken]]) -> None:
        at, read = self._layout, self._memory.read_many
        addresses = [state for state, _ in states]
        if at.state_chunk == _NONE:
            pick = _Picker((at.state_frame, "Q"))
            chunks = [(0, 0)] * len(states)
            tops = [top for (top,) in pick.all(read(addresses, [pick.size] * len(states)))]
        else:
            pick = _Picker((at.state_frame, "Q"), (at.state_chunk, "Q"), (at.state_top, "Q"))
            words = list(pick.all(read(addresses, [pick.size] * len(states))))
            tops = [top for top, _, _ in words]
            chunks = [
                (start, end - start if 0 < end - start <= _PIECE_MOST else 0)
                for _, start, end in words
            ]
        if at.cframe_frame != _NONE:
            raw = read([top + at.cframe_frame for top in tops], [8] * len(tops))
            tops = [top for (top,) in _WORD.iter_unpack(raw)]
        for (state, taken), top in zip(states, tops, strict=True):
            taken.next, taken.state = top, state
        # Most frames lie there.
        raw = read([start for start, _ in chunks], [size for _, size in chunks])
        place = 0
        for (_, taken), (start, size) in zip(states, chunks, strict=True):
            if size:
                taken.pieces.append((start, raw[place : place + size]))
            place += size

    def walk(self, fibers: Iterable[Taken]) -> None:
        """Finds the frames of these fibers in what was taken, or else in the memory now."""
        at = self._layout
        shims = self.uses_stack
        flag = at.frame_owner if shims else at.frame_entry
        pick = _Picker(
            (at.frame_back, "Q"), (at.frame_code, "Q"),
            (at.frame_instruction, "i" if at.python < 0x030B0000 else "Q"),
            (0 if flag == _NONE else flag, "B"),
        )  # fmt: skip
        unpack, size = pick.one, pick.size
        # References carry tags there.
        tag = ~3 if at.python >= 0x030E0000 else ~0
        for taken in fibers:
            frames, address = taken.frames, taken.next
            while address:
                if address == taken.state + at.state_base:
                    break
                for start, piece in taken.pieces:
                    place = address - start
                    if 0 <= place <= len(piece) - size:
                        break
                else:
                    place, taken.late = 0, True
                    try:
                        piece = memoryview(self._memory.read(address, size))
                    except OSError:
                        taken.torn = True
                        break
                here = address
                address, code, instruction, mark = unpack(piece, place)
                if shims and mark >= _OWNED_BY_C:
                    if frames:
                        frames[-1] = frames[-1]._replace(entry=here)
                    continue
                entry = int(not shims and (flag == _NONE or mark != 0))
                frames.append(Frame(code & tag, instruction, entry))
                if len(frames) > _DEPTH_MOST:
                    taken.torn = True
                    break
            taken.next, taken.pieces = 0, []
            for code in {taken.creator, *(frame.code for frame in frames)} - self._codes.keys():
                self._codes[code] = _read_code(self._memory, at, code) if code else None

    def position(self, code: int, instruction: int, *, counted: bool = False) -> Position | None:
        """Where that instruction is in the program; None: the code could not be read.

        `counted`: it is an index and no address. After walk(), which reads the code.
        """
        found = self._codes.get(code)
        if found is None:
            return None
        if not counted and found.instructions:
            instruction = (instruction - found.instructions) // 2
        return Position(found.name, found.file, found.line(instruction))


class _Picker:
    """Takes fields out of structures: (place, struct's format) of each, in any order."""

    def __init__(self, *fields: tuple[int, str]) -> None:
        text, self.size = "<", 0
        for place, kind in sorted(fields):
            text += f"{place - self.size}x{kind}"
            self.size = place + struct.calcsize(f"<{kind}")
        self._struct = struct.Struct(text)
        order = [sorted(fields).index(each) for each in fields]
        self._arranged = None if order == sorted(order) else operator.itemgetter(*order)

    def all(self, raw: memoryview) -> Iterable[tuple[int, ...]]:
        """Of structures that lie one behind the other."""
        found = self._struct.iter_unpack(raw)
        return found if self._arranged is None else map(self._arranged, found)

    def one(self, raw: memoryview, place: int) -> tuple[int, ...]:
        """Of the structure at that place."""
        found = self._struct.unpack_from(raw, place)
        return found if self._arranged is None else self._arranged(found)


@dataclass
class _Code:
    """A code object. `instructions` is where they begin; 0: places in it are counted already."""

    name: str
    file: str
    first: int
    lines: bytes
    instructions: int
    python: int
    known: dict[int, int] = field(default_factory=dict)

    def line(self, index: int) -> int:
        """The line of the instruction with that index; 0 for none."""
        if index not in self.known:
            find = _line_by_location if self.python >= 0x030B0000 else _line_by_delta
            self.known[index] = find(self.lines, self.first, index)
        return self.known[index]


def _line_by_delta(table: bytes, line: int, index: int) -> int:
    """By 3.10's table: lengths in bytes, and differences of lines, -128 for no line."""
    end = 0
    for at in range(0, len(table) - 1, 2):
        length, delta = struct.unpack_from("<Bb", table, at)
        if delta != -128:
            line += delta
        end += length
        if index * 2 < end:
            return 0 if delta == -128 else line
    return line


def _line_by_location(table: bytes, line: int, index: int) -> int:
    """By the table of 3.11 and newer: CPython's Objects/locations.md."""
    at = end = 0
    while at < len(table):
        kind, length = table[at] >> 3 & 15, (table[at] & 7) + 1
        at += 1
        if kind in (13, 14):
            number = shift = 0
            while at < len(table):
                byte = table[at]
                at += 1
                number |= (byte & 63) << shift
                shift += 6
                if not byte & 64:
                    break
            line += -(number >> 1) if number & 1 else number >> 1
        elif 10 <= kind <= 12:
            line += kind - 10
        # The columns, and whatever else, until the next entry.
        while at < len(table) and not table[at] & 128:
            at += 1
        end += length
        if index < end:
            return 0 if kind == 15 else line
    return line


def _read_code(memory: Memory, at: _Layout, code: int) -> _Code | None:
    size = max(at.code_name, at.code_file, at.code_line, at.code_lines) + 8
    try:
        raw = memory.read(code, size)
        name, file, lines = (
            _WORD.unpack_from(raw, place)[0]
            for place in (at.code_name, at.code_file, at.code_lines)
        )
        (first,) = struct.unpack_from("<i", raw, at.code_line)
        counted = at.code_instructions == _NONE
        return _Code(
            name=_read_text(memory, at, name),
            file=_read_text(memory, at, file),
            first=first,
            lines=_read_bytes(memory, at, lines),
            instructions=0 if counted else code + at.code_instructions,
            python=at.python,
        )
    except (OSError, ValueError):
        # It has gone meanwhile, or never was a code object.
        return None


def _length(memory: Memory, address: int, most: int) -> int:
    length: int = _WORD.unpack(memory.read(address, 8))[0]
    if length > most:
        raise ValueError("too long")
    return length


def _read_bytes(memory: Memory, at: _Layout, address: int) -> bytes:
    length = _length(memory, address + at.bytes_length, _LINES_MOST)
    return memory.read(address + at.bytes_data, length) if length else b""


def _read_text(memory: Memory, at: _Layout, address: int) -> str:
    length = _length(memory, address + at.text_length, _TEXT_MOST)
    (state,) = struct.unpack("<I", memory.read(address + at.text_state, 4))
    # struct state of PyASCIIObject: interned:2, kind:3, compact:1, ascii:1.
    kind, compact, ascii_only = state >> 2 & 7, state >> 5 & 1, state >> 6 & 1
    if not compact or kind not in (1, 2, 4):
        raise ValueError("no text")
    raw = memory.read(address + (at.text_ascii if ascii_only else at.text_compact), length * kind)
    return raw.decode({1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[kind], "replace")
