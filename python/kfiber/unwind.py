# SPDX-License-Identifier: MIT
"""Native frames, by elfutils' library libdw: from a fiber's registers and memory to its functions.

libdw is loaded when it is first wanted; kfiber does not depend on it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping, Sequence
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_uint64, c_void_p
from typing import NamedTuple

from kfiber import hint
from kfiber.errors import KfiberError
from kfiber.memory import Memory, Piece

# Numbers of registers in the psABI's DWARF; 16 is the return address.
RBX, RBP, RSP, R12, R13, R14, R15, PC = 3, 6, 7, 12, 13, 14, 15, 16
_FRAMES_MOST = 1000
_ABORT, _OK = 1, 0


class Start(NamedTuple):
    """Where unwinding begins: registers by their numbers, pieces of memory by their addresses."""

    registers: Mapping[int, int]
    pieces: Sequence[Piece]


class NativeFrame(NamedTuple):
    """A frame of machine code. `function` is "" where no symbol tells it."""

    address: int
    function: str
    file: str  # the program or library
    stack_pointer: int  # 0: this libdw does not tell


_FIND = CFUNCTYPE(c_int, *[c_void_p] * 8)
_NEXT = CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(c_void_p))
_GET = CFUNCTYPE(ctypes.c_bool, c_void_p, c_int, c_void_p, POINTER(c_void_p))
_READ = CFUNCTYPE(ctypes.c_bool, c_void_p, c_uint64, POINTER(c_uint64), c_void_p)
_SET = CFUNCTYPE(ctypes.c_bool, c_void_p, c_void_p)
_DETACH = CFUNCTYPE(None, c_void_p, c_void_p)
_FRAME = CFUNCTYPE(c_int, c_void_p, c_void_p)


class _Callbacks(Structure):
    _fields_ = [
        ("find_elf", c_void_p), ("find_debuginfo", c_void_p), ("section_address", c_void_p),
        ("debuginfo_path", c_void_p),
    ]  # fmt: skip


class _ThreadCallbacks(Structure):
    _fields_ = [
        ("next_thread", _NEXT), ("get_thread", _GET), ("memory_read", _READ),
        ("set_initial_registers", _SET), ("detach", _DETACH), ("thread_detach", _DETACH),
    ]  # fmt: skip


def _library() -> ctypes.CDLL:
    try:
        dw = ctypes.CDLL("libdw.so.1")
    except OSError:
        raise KfiberError(
            f"cannot unwind native frames: no libdw.so.1; hint: {hint.install('libdw1')}"
        ) from None
    for name in ("dwfl_begin", "dwfl_addrmodule", "elf_begin"):
        if hasattr(dw, name):
            getattr(dw, name).restype = c_void_p
    for name in ("dwfl_module_addrname", "dwfl_module_info", "dwfl_errmsg"):
        getattr(dw, name).restype = c_char_p
    dw.dwfl_frame_pc.restype = dw.dwfl_attach_state.restype = ctypes.c_bool
    dw.dwfl_thread_state_registers.restype = ctypes.c_bool
    return dw


class Unwinder:
    """Of one process or core file, whose modules it looks up when it is made.

    KfiberError: libdw is not there, or cannot read the process.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._dw = dw = _library()
        self._names: dict[int, tuple[str, str]] = {}
        self._start = Start({}, ())
        self._found: list[NativeFrame] = []
        # Separate debug information is not looked for: symbols and unwind tables are in the files.
        self._none = _FIND(lambda *arguments: -1)
        find = "dwfl_linux_proc_find_elf" if memory.core is None else "dwfl_build_id_find_elf"
        self._callbacks = _Callbacks(
            ctypes.cast(getattr(dw, find), c_void_p), ctypes.cast(self._none, c_void_p), None, None
        )
        self._threads = _ThreadCallbacks(
            _NEXT(lambda dwfl, argument, thread: 0),
            _GET(lambda dwfl, tid, argument, thread: True),
            _READ(self._read_word),
            _SET(self._set_registers),
            _DETACH(),
            _DETACH(),
        )
        self._take = _FRAME(self._frame)
        self._dwfl = c_void_p(dw.dwfl_begin(byref(self._callbacks)))
        if memory.core is None:
            self._check(dw.dwfl_linux_proc_report(self._dwfl, memory.pid) == 0)
        else:
            dw.elf_version(1)
            self._file = os.open(memory.core, os.O_RDONLY | os.O_CLOEXEC)
            self._elf = c_void_p(dw.elf_begin(self._file, 1, None))
            self._check(dw.dwfl_core_file_report(self._dwfl, self._elf, None) >= 0)
        self._check(dw.dwfl_report_end(self._dwfl, None, None) == 0)
        self._check(dw.dwfl_attach_state(self._dwfl, None, memory.pid, byref(self._threads), None))

    def close(self) -> None:
        """Frees what libdw has."""
        self._dw.dwfl_end(self._dwfl)
        if self._memory.core is not None:
            self._dw.elf_end(self._elf)
            os.close(self._file)

    def _check(self, well: bool) -> None:
        if not well:
            why = self._dw.dwfl_errmsg(-1) or b"libdw does not say why"
            raise KfiberError(
                f"cannot unwind process {self._memory.pid}: {why.decode()}; "
                "hint: leave --native out"
            )

    def frames(self, start: Start) -> list[NativeFrame]:
        """The frames from there on, innermost first, as far as unwind tables lead."""
        self._start, self._found = start, []
        self._dw.dwfl_getthread_frames(self._dwfl, self._memory.pid, self._take, None)
        return self._found

    def _set_registers(self, thread: int, argument: int) -> bool:
        for number, value in self._start.registers.items():
            if number != PC:
                word = c_uint64(value)
                self._dw.dwfl_thread_state_registers(
                    c_void_p(thread), number, ctypes.c_uint(1), byref(word)
                )
        self._dw.dwfl_thread_state_register_pc(
            c_void_p(thread), c_uint64(self._start.registers[PC])
        )
        return True

    def _read_word(
        self, dwfl: int, address: int, result: ctypes._Pointer[c_uint64], argument: int
    ) -> bool:
        for start, piece in self._start.pieces:
            if 0 <= address - start <= len(piece) - 8:
                (result[0],) = struct.unpack_from("<Q", piece, address - start)
                return True
        try:
            (result[0],) = struct.unpack("<Q", self._memory.read(address, 8))
        except OSError:
            return False
        return True

    def _frame(self, state: int, argument: int) -> int:
        pc, activation = c_uint64(), ctypes.c_bool()
        if not self._dw.dwfl_frame_pc(c_void_p(state), byref(pc), byref(activation)):
            return _ABORT
        # A return address may lie behind its function.
        address = pc.value - (0 if activation else 1)
        if address not in self._names:
            self._names[address] = self._name(address)
        self._found.append(NativeFrame(pc.value, *self._names[address], self._stack_pointer(state)))
        return _OK if len(self._found) < _FRAMES_MOST else _ABORT

    def _stack_pointer(self, state: int) -> int:
        value = c_uint64()
        if hasattr(self._dw, "dwfl_frame_reg"):  # from 0.188 on
            self._dw.dwfl_frame_reg(c_void_p(state), ctypes.c_uint(RSP), byref(value))
        return value.value

    def _name(self, address: int) -> tuple[str, str]:
        module = c_void_p(self._dw.dwfl_addrmodule(self._dwfl, c_uint64(address)))
        if not module:
            return "", ""
        name = self._dw.dwfl_module_addrname(module, c_uint64(address))
        file = self._dw.dwfl_module_info(module, *[None] * 7)
        return tuple(os.fsdecode(text or b"") for text in (name, file))  # type: ignore[return-value]
