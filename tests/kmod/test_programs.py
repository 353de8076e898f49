# SPDX-License-Identifier: MIT
"""Runs the C programs here and in attacks/, each of their cases in a process of its own."""

import re
import subprocess

import pytest
from kmod.target import HERE, PROGRAMS, started

pytestmark = pytest.mark.guest

SKIPPED = 77
# They are told what to do by agent.py and target.py.
SERVANTS = ("agent", "target")
# No programs: what the others are linked with, and one for 32 bits.
PARTS = ("harness", "caller32", "fuse", "setting")


def programs():
    """Each source of a program, and its program's name."""
    for source in sorted(HERE.glob("*.c")):
        if source.stem not in (*SERVANTS, *PARTS):
            yield source, source.stem
    for source in sorted((HERE / "attacks").glob("*.c")):
        if source.stem not in PARTS:
            yield source, f"attacks_{source.stem}"


def cases():
    for source, program in programs():
        for name in re.findall(r"^TEST\((\w+)\)", source.read_text(), re.MULTILINE):
            yield pytest.param(program, name, id=f"{program}-{name}")


def run(program, name):
    pipe = subprocess.PIPE
    with started(program, name, stdout=pipe, stderr=pipe, text=True) as process:
        output, errors = process.communicate(timeout=900)
    if process.returncode == SKIPPED:
        pytest.skip(output.strip() or "without a reason")
    assert process.returncode == 0, f"status {process.returncode}\n{output}{errors}"


@pytest.mark.parametrize(("program", "name"), list(cases()))
def test(program, name):
    run(program, name)


def test_every_program_lists_its_cases():
    """What is collected from the sources is what the programs have."""
    listed = {
        (program, name)
        for _, program in programs()
        for name in subprocess.run(
            [PROGRAMS / f"kmod_{program}", "--list"],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        ).stdout.split()
    }
    assert listed == {tuple(case.values) for case in cases()}
