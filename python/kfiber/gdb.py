# SPDX-License-Identifier: MIT
"""For gdb: `info fibers`, and `fiber ID COMMAND` with a fiber's registers in the selected thread's.

    (gdb) source …/kfiber/gdb.py
    (gdb) info fibers
    (gdb) fiber 2 backtrace
    (gdb) fiber all backtrace 3

For a living process and the engines `local` and `mapped`. Afterwards the registers are as they
were, so the command may look but must not let the program run. Python frames: `kfiber stacks PID`.
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
from kfiber.info import FiberInfo

# What fiber_switch() keeps below the stack pointer that is shown: lib/switch_x86_64.S.
_SAVED = struct.Struct("<6Q")
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
        for fiber in fibers:
            print(f"fiber {fiber.id} {fiber.name} ({fiber.state})")
            if fiber.state == "suspended":
                with _registers_of(fiber):
                    gdb.execute(command or "backtrace")
            elif which != "all":
                raise gdb.GdbError(f"fiber {which} is {fiber.state}; hint: info threads")


InfoFibers()
Fiber()
