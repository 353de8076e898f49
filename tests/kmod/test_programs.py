# SPDX-License-Identifier: MIT
"""Runs the C programs beside this file, each of their cases in a process of its own (harness.h)."""

import re
import subprocess

import pytest
from kmod.target import HERE, PROGRAMS

pytestmark = pytest.mark.guest

SKIPPED = 77
# They are told what to do by agent.py and target.py.
SERVANTS = ("agent", "target")


def cases():
    for source in sorted(HERE.glob("*.c")):
        if source.stem in SERVANTS:
            continue
        for name in re.findall(r"^TEST\((\w+)\)", source.read_text(), re.MULTILINE):
            yield pytest.param(source.stem, name, id=f"{source.stem}-{name}")


def run(program, name):
    done = subprocess.run(
        [PROGRAMS / f"kmod_{program}", name],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip() or "without a reason")
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(("program", "name"), list(cases()))
def test(program, name):
    run(program, name)


def test_every_program_lists_its_cases():
    """What is collected from the sources is what the programs have."""
    listed = {
        (source.stem, name)
        for source in HERE.glob("*.c")
        if source.stem not in ("harness", "caller32", *SERVANTS)
        for name in subprocess.run(
            [PROGRAMS / f"kmod_{source.stem}", "--list"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout.split()
    }
    assert listed == {tuple(case.values) for case in cases()}
