# SPDX-License-Identifier: MIT
"""A fiber is as safe as a thread: each kind of recursion ends in both alike."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("recursion.py")


@pytest.mark.timeout(1800)
def test_a_fiber_does_what_a_thread_does():
    done = subprocess.run(
        [sys.executable, PROGRAM],
        env={**os.environ, "KFIBER_ENGINE": os.environ.get("KFIBER_ENGINE", "local")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert len(found) >= 90
    different = {name: outcomes for name, outcomes in found.items() if len({*outcomes}) > 1}
    assert different == {}
    # The two would agree as well if nothing worked.
    assert sum(thread == "RecursionError" for thread, _ in found.values()) > 40
    assert sum(thread == "ok" for thread, _ in found.values()) > 20


def test_an_overflow_that_nobody_counts_is_named(python):
    done = python(
        """
        import ctypes, kfiber
        def parse():
            pattern = b"(" * 300_000 + b"a" + b")" * 300_000
            ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(256), pattern, 1)
        kfiber.Fiber(parse, name="parser").switch()
        """,
        status=-signal.SIGSEGV,
    )
    assert "(parser) overflowed its stack of 8388608 bytes" in done.stderr
    assert "stack_size" in done.stderr
