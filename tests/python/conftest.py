# SPDX-License-Identifier: MIT
"""Tests of fibers in Python.

They run on the interpreter that runs pytest; test_versions.py runs them on all others that are
here. The engine is KFIBER_ENGINE's, `local` without it.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading

import pytest

import kfiber


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """Set while these tests run: others are about what is chosen without it."""
    if "KFIBER_ENGINE" not in os.environ:
        monkeypatch.setenv("KFIBER_ENGINE", "local")


@pytest.fixture(autouse=True)
def leaves_nothing(engine):
    """No fiber, thread or thread state stays behind after a test."""
    kfiber.root()
    gc.collect()
    before = set(map(id, kfiber.fibers()))
    threads = threading.active_count()
    yield
    gc.collect()
    left = [fiber for fiber in kfiber.fibers() if id(fiber) not in before]
    assert not left
    assert kfiber.current() is kfiber.root()
    assert threading.active_count() == threads
    assert len(sys._current_frames()) == threads


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
