# SPDX-License-Identifier: MIT
"""Tests of fibers in Python.

They run on the interpreter that runs pytest; test_versions.py runs them on all others that are
here. The engine is KFIBER_ENGINE's, `local` without it.
"""

from __future__ import annotations

import array
import ctypes
import gc
import inspect
import os
import subprocess
import sys
import textwrap
import threading

import pytest

import kfiber

# So often a test runs again here, to see whether it leaves something each time: caches fill, but
# not for ever. Only without the C library's cache of a thread, which takes many rounds to fill and
# counts as memory in use.
UNCACHED = "glibc.malloc.tcache_count=0"
ROUNDS = 20 if os.environ.get("GLIBC_TUNABLES") == UNCACHED else 0

# What a process holds. Of each kind a leak grows from round to round.
HELD = ("objects", "references", "bytes", "mappings")
# So much more is growth. The interpreter asks the C library for more than 512 bytes at a time; by
# less the figure creeps for many rounds, as pieces that are too small to be of use pile up.
LEAST = (1, 1, 512, 1)
# What about everything here refers to. The counts of allocated blocks drift by themselves.
REFERRED = (kfiber.Fiber, kfiber.Local, kfiber.FiberExit, kfiber.FiberError, None, threading)


def note(held):
    gc.collect()
    held[0] = len(gc.get_objects())
    held[1] = sum(map(sys.getrefcount, REFERRED)) + sys.getrefcount(kfiber.root())
    held[2] = allocated()
    with open("/proc/self/maps") as file:
        held[3] = len(file.readlines())


class Mallinfo2(ctypes.Structure):
    """glibc's struct mallinfo2."""

    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2


def allocated():
    """Bytes in use that the C library has given out."""
    info = mallinfo2()
    return info.uordblks + info.hblkhd


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """A test that passes runs some times more, and may not hold more each time."""
    result = yield
    function = pyfuncitem.obj
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(function).parameters}
    # Another process has none of it, and a patch is remembered each time.
    if not ROUNDS or {"python", "monkeypatch"} & arguments.keys():
        return result
    if pyfuncitem.get_closest_marker("once"):
        return result
    # What is noted must not count itself.
    before = array.array("q", bytes(8 * len(HELD)))
    after = array.array("q", before)
    growing = set(range(len(HELD)))
    note(before)
    for _ in range(ROUNDS):
        function(**arguments)
        note(after)
        growing -= {kind for kind in growing if after[kind] - before[kind] < LEAST[kind]}
        if not growing:
            break
        before, after = after, before
    assert not growing, f"each run leaves {', '.join(HELD[kind] for kind in growing)}"
    return result


@pytest.fixture
def python(request):
    """Runs a program in another process, which may die, and returns what it wrote."""

    def run(program, *, status=0, **environment):
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def thread():
    """Runs a function in another thread and returns its value or raises its exception."""

    def run(function, *args):
        result = []

        def main():
            try:
                result.append((function(*args), None))
            except BaseException as error:
                result.append((None, error))

        worker = threading.Thread(target=main)
        worker.start()
        worker.join()
        value, error = result[0]
        try:
            if error is not None:
                raise error
            return value
        finally:
            # The exception's traceback refers to this frame.
            del error

    return run
