# SPDX-License-Identifier: MIT
"""For gdb: `info fibers`, and `fiber ID COMMAND` with a fiber's registers in the selected thread's.

    (gdb) source …/kfiber/gdb.py
    (gdb) info fibers
    (gdb) fiber 2 backtrace
    (gdb) fiber all backtrace 3
    (gdb) fiber all py-bt

For a living process and the engines `local` and `mapped`. Afterwards the registers are as they
were, so the command may look but must not let the program run. `py-bt` is the Python backtrace, of
running fibers as well; it needs neither debug information nor CPython's own script for gdb.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gdb

from kfiber import table
from kfiber.errors import KfiberError
from kfiber.frames import Reader
from kfiber.info import FiberInfo
from kfiber.memory import Process

# What fiber_switch() keeps below the stack pointer that is shown: lib/switch_x86_64.S.
_SAVED = struct.Struct("<6Q")
# So much of a stack may have Python frames that are needed.
_MUCH = 64 << 10
_REGISTERS = ("r15", "r14", "r13", "r12", "rbx", "rbp")


def _fibers() -> list[FiberInfo]:
    inferior = gdb.selected_inferior()
    if not inferior.pid:
        raise gdb.GdbError("no fibers: no process is being debugged; hint: run, or attach PID")
    try:
        found = table.snapshot(Path("/proc", str(inferior.pid)))
    except (KfiberError, OSError) as error:
        raise gdb.GdbError(str(error)) from None
    return sorted(found.fibers(), key=lambda fiber: fiber.id) if found else []


@contextmanager
def _registers_of(fiber: FiberInfo) -> Iterator[None]:
    """The selected thread's registers are those of a suspended fiber meanwhile."""
    memory = gdb.selected_inferior().read_memory(fiber.stack_pointer - 56, _SAVED.size)
    wanted = dict(zip(_REGISTERS, _SAVED.unpack(memory), strict=True))
    wanted |= {"rsp": fiber.stack_pointer, "rip": fiber.instruction_pointer}
    gdb.newest_frame().select()
    before = {name: int(gdb.parse_and_eval(f"(unsigned long) ${name}")) for name in wanted}
    try:
        for name, value in wanted.items():
            gdb.execute(f"set ${name} = {value}", to_string=True)
        gdb.newest_frame().select()
        yield
    finally:
        gdb.newest_frame().select()
        for name, value in before.items():
            gdb.execute(f"set ${name} = {value}", to_string=True)


def _python_backtrace(fibers: list[FiberInfo]) -> None:
    """The Python frames of each, outermost last, as CPython's py-bt writes them."""
    try:
        memory = Process(gdb.selected_inferior().pid)
        reader = Reader.of(memory)
        ends = {each.id: each.stack_start + each.stack_size for each in fibers}
        pieces = {
            each.id: (each.stack_pointer, memoryview(memory.read(each.stack_pointer, size)))
            for each in fibers
            if each.state == "suspended"
            and 0 < (size := min(ends[each.id] - each.stack_pointer, _MUCH))
        }
        taken = reader.take(pieces, {each.id for each in fibers}) if reader else {}
        if reader:
            reader.walk(taken.values())
    except (KfiberError, OSError) as error:
        raise gdb.GdbError(str(error)) from None
    for fiber in fibers:
        print(f"fiber {fiber.id} {fiber.name} ({fiber.state})")
        if not reader or fiber.id not in taken:
            print("  (no Python fiber)")
            continue
        for frame in taken[fiber.id].frames:
            at = reader.position(frame.code, frame.instruction)
            print(
                f'  File "{at.file}", line {at.line}, in {at.function}' if at else "  (not known)"
            )


class InfoFibers(gdb.Command):  # type: ignore[misc]
    """List the fibers of the process: id, state, thread, name."""

    def __init__(self) -> None:
        super().__init__("info fibers", gdb.COMMAND_STATUS)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Prints the list."""
        for fiber in _fibers():
            thread = fiber.thread_id or "-"
            print(f"{fiber.id:8} {fiber.state:9} {thread!s:>8} {fiber.name}")


class Fiber(gdb.Command):  # type: ignore[misc]
    """Run a command in a suspended fiber: fiber ID COMMAND, or fiber all COMMAND."""

    def __init__(self) -> None:
        super().__init__("fiber", gdb.COMMAND_STACK)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Runs it."""
        which, _, command = argument.partition(" ")
        fibers = _fibers()
        if which != "all":
            fibers = [fiber for fiber in fibers if str(fiber.id) == which]
            if not fibers:
                raise gdb.GdbError(f"no fiber {which or '?'}; hint: info fibers")
        if command.strip() == "py-bt":
            _python_backtrace(fibers)
            return
        for fiber in fibers:
            print(f"fiber {fiber.id} {fiber.name} ({fiber.state})")
            if fiber.state == "suspended":
                with _registers_of(fiber):
                    gdb.execute(command or "backtrace")
            elif which != "all":
                raise gdb.GdbError(f"fiber {which} is {fiber.state}; hint: info threads")


InfoFibers()
Fiber()
