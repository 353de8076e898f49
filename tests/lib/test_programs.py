# SPDX-License-Identifier: MIT
"""Runs the tests of the C programs beside this file, each in a process of its own.

A program's tests are its TEST(name) lines; see check.h for its exit status.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILD = Path(os.environ.get("KFIBER_BUILD", HERE.parents[1] / "build"))
PROGRAMS = BUILD / "tests" / "lib"
SKIPPED = 77

# Runs without the module; all others run in the guest.
HOST = {"host"}


def collect():
    for source in sorted([*HERE.glob("*.c"), *HERE.glob("*.cpp")]):
        marks = () if source.stem in HOST else (pytest.mark.guest,)
        for name in re.findall(r"^TEST\((\w+)\)", source.read_text(), re.MULTILINE):
            yield pytest.param(source.stem, name, id=f"{source.stem}-{name}", marks=marks)


def run(*command):
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(("program", "name"), list(collect()))
def test(program, name):
    run(PROGRAMS / f"lib_{program}", name)


@pytest.mark.parametrize(
    ("program", "name"), [param for param in collect() if param.values[0] == "exception"]
)
def test_loaded_later(program, name):
    # Not with the program, as extensions of an interpreter are.
    run(PROGRAMS / "lib_plugin", PROGRAMS / f"lib_{program}.so", name)
