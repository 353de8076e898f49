# SPDX-License-Identifier: MIT
"""A program with fibers, for what looks at it from outside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("workload.py")
LIMIT = 120


@pytest.fixture
def command():
    """Runs `kfiber` with these arguments."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "kfiber", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def program(request):
    """workload.py on engine `local`, or on the test's parameter; its pid."""
    with subprocess.Popen(
        [sys.executable, PROGRAM],
        stdout=subprocess.PIPE,
        env={**os.environ, "KFIBER_ENGINE": getattr(request, "param", "local")},
    ) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()
