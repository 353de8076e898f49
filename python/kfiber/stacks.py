# SPDX-License-Identifier: MIT
"""The stacks of all fibers of a process, from outside: Python frames, native ones, or both."""

from __future__ import annotations

import contextlib
import gc
import itertools
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kfiber import proc, stop, table
from kfiber.core import Core
from kfiber.errors import KfiberError
from kfiber.frames import Frame, Position, Reader, Taken
from kfiber.info import FiberInfo
from kfiber.memory import Memory, Piece, Process
from kfiber.unwind import PC, R12, R13, R14, R15, RBP, RBX, RSP, NativeFrame, Start, Unwinder

# How much of a stack is taken: enough for the entries of the evaluation loop; for native frames.
_LITTLE, _MUCH = 8 << 10, 64 << 10
# What fiber_switch() keeps below the stack pointer that is shown: lib/switch_x86_64.S.
_SAVED = struct.Struct("<8x7Q")
_SAVED_REGISTERS = (R15, R14, R13, R12, RBX, RBP)
# struct user_regs_struct, by words.
_USER_REGISTERS = {R15: 0, R14: 1, R13: 2, R12: 3, RBP: 4, RBX: 5, PC: 16, RSP: 19}
_LOOP = "_PyEval_EvalFrame"
_NO_CALLER = NativeFrame(0, "", "", 0)


@dataclass(frozen=True)
class Stack:
    """A fiber and where it is. Frames are innermost first."""

    fiber: FiberInfo
    created: Position | None  # None: not by Python code, or not known
    frames: tuple[Position, ...]
    torn: bool  # there are more that could not be read, or some are of another moment


@dataclass(frozen=True)
class Look:
    """All stacks of a process, by fiber id, and for how long it stood still for that."""

    stacks: list[Stack]
    stopped_ns: int


def look(pid: int, *, still: bool = True, native: bool = False) -> Look:
    """The stacks of a living process, which stands still meanwhile unless `still` is false.

    KfiberError: it cannot be looked at, or stopped, or unwound.
    """
    try:
        taking = _Taking(Process(pid), native)
        begin = end = 0
        with _no_collections():
            with stop.stopped(pid) if still else contextlib.nullcontext():
                begin = time.monotonic_ns()
                taking.take(*_known(pid), stop.registers)
                end = time.monotonic_ns()
            taking.understand()
            if late := taking.late():
                # A fiber that was switched to meanwhile is not where it was.
                taking.mark_moved(late, *_known(pid))
        return Look(taking.stacks(), end - begin if still else 0)
    except (PermissionError, FileNotFoundError, ProcessLookupError) as error:
        # It says why, if that is so for all of the process.
        proc.fibers(pid)
        raise KfiberError(
            f"cannot look at process {pid}: {error.strerror}; hint: run it again"
        ) from None


class Glance:
    """The stack of one fiber at a time of a living process, whose other fibers cost nothing."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._reader: Reader | None = None

    def frames(self, fiber: int) -> tuple[Position, ...]:
        """Innermost first; empty where that is not known. The process stands still meanwhile.

        Python frames of Python fibers, native ones of others. KfiberError: as look().
        """
        with contextlib.suppress(OSError):
            self._reader = self._reader or Reader.of(Process(self._pid))
        if not self._reader:
            found = look(self._pid, native=True).stacks
            return next((stack.frames for stack in found if stack.fiber.id == fiber), ())
        try:
            with stop.stopped(self._pid):
                taken = self._reader.take({}, {fiber})
                self._reader.walk(taken.values())
        except OSError:
            return ()
        frames = taken[fiber].frames if fiber in taken else []
        found_at = (self._reader.position(each.code, each.instruction) for each in frames)
        return tuple(position for position in found_at if position)


def look_in_core(path: Path, *, native: bool = False) -> Look:
    """The stacks in a core file, of engine `local` only: the fibers of the others are the kernel's.

    KfiberError: it cannot be read, or is none.
    """
    core = Core(path)
    taking = _Taking(core, native)
    taking.take(table.in_core(core), [], lambda thread: core.registers[thread])
    taking.understand()
    return Look(taking.stacks(), 0)


def _known(pid: int) -> tuple[table.Snapshot | None, list[FiberInfo]]:
    return table.snapshot(proc.PROC / str(pid)), proc.of_module(pid)


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """A collection of garbage takes as long as the rest."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Taking:
    """One look at a process, in steps: it stands still for take() only."""

    def __init__(self, memory: Memory, native: bool) -> None:
        self._memory = memory
        self._python = Reader.of(memory)
        # Fibers of other languages have no other frames.
        self._unwinder = Unwinder(memory) if native or not self._python else None
        self._snapshot: table.Snapshot | None = None
        self._others: list[FiberInfo] = []
        self._pieces: dict[int, Piece] = {}
        self._taken: dict[int, Taken] = {}
        self._native: dict[int, list[NativeFrame]] = {}
        self._moved: set[int] = set()

    def take(
        self,
        snapshot: table.Snapshot | None,
        others: list[FiberInfo],
        registers: Callable[[int], bytes],
    ) -> None:
        """Takes what is needed: fibers of the table, others, registers of threads that run some."""
        self._snapshot, self._others = snapshot, others
        ends = snapshot.suspended() if snapshot else {}
        running = snapshot.running() if snapshot else {}
        for fiber in others:
            if fiber.state == "suspended":
                ends[fiber.id] = fiber.stack_pointer, fiber.stack_start + fiber.stack_size
            elif fiber.running:
                running[fiber.id] = fiber.thread_id
        if self._unwinder or (self._python and self._python.uses_stack):
            self._take_stacks(ends)
        if self._python:
            self._taken = self._python.take(self._pieces)
            # These will not wait until they are understood.
            self._python.walk(self._taken[each] for each in running if each in self._taken)
        if self._unwinder:
            for number, thread in running.items():
                with contextlib.suppress(OSError, KeyError):
                    words = struct.unpack("<27Q", registers(thread))
                    start = {name: words[place] for name, place in _USER_REGISTERS.items()}
                    self._native[number] = self._unwinder.frames(Start(start, ()))

    def _take_stacks(self, ends: dict[int, tuple[int, int]]) -> None:
        most = _MUCH if self._unwinder else _LITTLE
        # A root fiber's stack has no end that is known.
        known = [(n, sp - _SAVED.size, end) for n, (sp, end) in ends.items() if end > sp]
        starts = [start for _, start, _ in known]
        sizes = [min(end - start, most) for _, start, end in known]
        raw = self._memory.read_many(starts, sizes)
        place = 0
        for (number, start, _), size in zip(known, sizes, strict=True):
            self._pieces[number] = start, raw[place : place + size]
            place += size

    def understand(self) -> None:
        """Finds the frames."""
        if self._python:
            self._python.walk(taken for taken in self._taken.values() if not taken.frames)

    def late(self) -> dict[int, int]:
        """Fibers of which something was read after take(), and how often they had been active."""
        late = {number for number, taken in self._taken.items() if taken.late}
        return {each.id: each.activations for each in self._fibers() if each.id in late}

    def mark_moved(
        self, before: dict[int, int], snapshot: table.Snapshot | None, others: list[FiberInfo]
    ) -> None:
        """Notes which of these have been active since."""
        now = snapshot.activations() if snapshot else {}
        now.update({fiber.id: fiber.activations for fiber in others})
        self._moved = {number for number, count in before.items() if now.get(number) != count}

    def _fibers(self) -> list[FiberInfo]:
        fibers = self._others + (self._snapshot.fibers() if self._snapshot else [])
        return sorted(fibers, key=lambda fiber: fiber.id)

    def stacks(self) -> list[Stack]:
        """What was found."""
        found = [self._stack(fiber) for fiber in self._fibers()]
        if self._unwinder:
            self._unwinder.close()
        return found

    def _stack(self, fiber: FiberInfo) -> Stack:
        taken, created = self._taken.get(fiber.id), None
        frames: list[Position] = []
        torn = fiber.id in self._moved
        if taken and self._python:
            created = self._python.position(taken.creator, taken.created_at, counted=True)
            torn |= taken.torn
        if self._unwinder:
            frames = self._merged(self._native_frames(fiber), taken.frames if taken else ())
        elif taken:
            frames = list(self._positions(taken.frames))
        return Stack(fiber, created, tuple(frames), torn)

    def _positions(self, frames: Iterable[Frame]) -> Iterator[Position]:
        for frame in frames:
            found = self._python and self._python.position(frame.code, frame.instruction)
            yield found or Position("(not known)", "", 0)

    def _native_frames(self, fiber: FiberInfo) -> list[NativeFrame]:
        if fiber.id in self._native or fiber.state != "suspended" or not self._unwinder:
            return self._native.get(fiber.id, [])
        registers = {PC: fiber.instruction_pointer, RSP: fiber.stack_pointer}
        piece = self._pieces.get(fiber.id)
        if fiber.engine != "kernel":
            with contextlib.suppress(OSError, struct.error):
                saved = (
                    piece[1][: _SAVED.size]
                    if piece
                    else self._memory.read(fiber.stack_pointer - _SAVED.size, _SAVED.size)
                )
                registers.update(zip(_SAVED_REGISTERS, _SAVED.unpack(saved), strict=False))
        return self._unwinder.frames(Start(registers, (piece,) if piece else ()))

    def _merged(self, native: Sequence[NativeFrame], python: Sequence[Frame]) -> list[Position]:
        """Native frames, with Python's in the place of the evaluation loop's."""
        frames, left = [], list(python)
        for each, caller in itertools.pairwise([*native, _NO_CALLER]):
            count = next((at for at, frame in enumerate(left, 1) if frame.entry), len(left))
            # A stripped interpreter names no part of the loop that the compiler put elsewhere.
            entry = left[count - 1].entry if left else 0
            inside = each.stack_pointer <= entry < caller.stack_pointer
            loop = inside or each.function.startswith(_LOOP)
            if not (left and loop):
                name = each.function or f"{each.address:#x}"
                frames.append(Position(name, Path(each.file).name, 0))
                continue
            frames += self._positions(left[:count])
            left = left[count:]
        return frames + list(self._positions(left))


def grouped(stacks: Iterable[Stack]) -> list[list[Stack]]:
    """Those with equal frames, state and creation site together; the largest group first."""
    groups: dict[object, list[Stack]] = {}
    for stack in stacks:
        groups.setdefault((stack.frames, stack.fiber.state, stack.created), []).append(stack)
    return sorted(groups.values(), key=lambda group: -len(group))
