# SPDX-License-Identifier: MIT
"""A process that stands still for a moment, without it or its parent taking notice."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

from kfiber.errors import KfiberError
from kfiber.hint import to_see
from kfiber.proc import PROC

_REGISTERS, _DETACH, _SEIZE, _INTERRUPT = 12, 17, 0x4206, 0x4207
_ALL_CHILDREN = 0x40000000
_EVENT_STOP = 128
# A thread that sleeps in the kernel uninterruptibly does not stop.
_SECONDS = 5.0

_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, thread: int, data: int = 0) -> None:
    if _libc.ptrace(
        ctypes.c_ulong(request), ctypes.c_long(thread), ctypes.c_void_p(), ctypes.c_void_p(data)
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def registers(thread: int) -> bytes:
    """struct user_regs_struct of a thread that is stopped. OSError: it is not."""
    found = ctypes.create_string_buffer(27 * 8)
    _ptrace(_REGISTERS, thread, ctypes.addressof(found))
    return found.raw


def _threads(pid: int) -> set[int]:
    return {int(each.name) for each in (PROC / str(pid) / "task").iterdir()}


def _stop(thread: int, pid: int) -> int | None:
    """Stops a thread; the signal that it is to get when it runs on. None: it has ended."""
    try:
        _ptrace(_SEIZE, thread)
    except ProcessLookupError:
        return None
    except PermissionError as error:
        if _is_zombie(pid, thread):
            return None
        raise KfiberError(
            f"cannot stop process {pid}: {error.strerror}, another debugger has it, or it is not "
            f"yours; hint: --no-stop, or {to_see('stacks', str(pid))}"
        ) from None
    _ptrace(_INTERRUPT, thread)
    deadline = time.monotonic() + _SECONDS
    while True:
        found, status = os.waitpid(thread, _ALL_CHILDREN | os.WNOHANG)
        if found:
            break
        if time.monotonic() > deadline:
            raise KfiberError(
                f"cannot stop process {pid}: its thread {thread} sleeps in the kernel; "
                "hint: --no-stop"
            )
        time.sleep(0.0001)
    if not os.WIFSTOPPED(status):
        return None
    return 0 if status >> 16 == _EVENT_STOP else os.WSTOPSIG(status)


def _is_zombie(pid: int, thread: int) -> bool:
    with contextlib.suppress(OSError):
        stat = Path(PROC, str(pid), "task", str(thread), "stat").read_text(errors="replace")
        return stat.rpartition(")")[2].split()[0] in "ZX"
    return True


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """All threads of the process stand still meanwhile.

    A system call that one waits in is begun again by the kernel, or ends with EINTR where that is
    what it does on a signal. If this process dies the threads run on. KfiberError: it cannot be
    stopped.
    """
    signals: dict[int, int] = {}
    try:
        while new := _threads(pid) - signals.keys():
            for thread in new:
                signals[thread] = -1
                found = _stop(thread, pid)
                if found is not None:
                    signals[thread] = found
        yield
    except FileNotFoundError:
        raise KfiberError(
            f"cannot look at process {pid}: there is none; hint: kfiber ps lists those with fibers"
        ) from None
    finally:
        for thread, number in signals.items():
            with contextlib.suppress(OSError):
                _ptrace(_DETACH, thread, max(number, 0))
