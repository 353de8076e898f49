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

# Of no engine in particular, and without the module.
HOST = {"host"}
# Engine `local` needs no module, so its tests run here.
ENGINES = {"local": (), "mapped": (pytest.mark.guest,), "kernel": (pytest.mark.guest,)}
# In seconds. There the processor is emulated, and may have a kernel that checks itself.
LIMIT = 300 if "KFIBER_GUEST" in os.environ else 60
# Switches of stress.c there.
STRESS = {"mapped": "1000000", "kernel": "100000"}


def collect():
    for source in sorted([*HERE.glob("*.c"), *HERE.glob("*.cpp")]):
        engines = {"": ()} if source.stem in HOST else ENGINES
        names = re.findall(r"^TEST\((\w+)\)", source.read_text(), re.MULTILINE)
        for engine, marks in engines.items():
            for name in names:
                case = "-".join(filter(None, (engine, source.stem, name)))
                yield pytest.param(engine, source.stem, name, id=case, marks=marks)


def run(engine, *command):
    environment = {**os.environ, **({"KFIBER_ENGINE": engine} if engine else {})}
    if engine in STRESS:
        environment["KFIBER_STRESS"] = STRESS[engine]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment,
    )
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(("engine", "program", "name"), list(collect()))
def test(engine, program, name):
    run(engine, PROGRAMS / f"lib_{program}", name)


@pytest.mark.parametrize("loader", ["lib_plugin", "lib_plugin_fiber"])
@pytest.mark.parametrize(
    ("engine", "program", "name"), [param for param in collect() if param.values[1] == "exception"]
)
def test_loaded_later(engine, program, name, loader):
    # Not with the program, as extensions of an interpreter are.
    run(engine, PROGRAMS / loader, PROGRAMS / f"lib_{program}.so", name)
