# SPDX-License-Identifier: MIT
"""A little of what fuzz.py does at length, with seeds that are known to be enough."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from kmod.target import parameter, wait_for

BUILD = Path(os.environ.get("KFIBER_BUILD", Path(__file__).parents[2] / "build"))
PROGRAM = BUILD / "tests" / "fuzz" / "fuzz"
TABLE = BUILD / "tests" / "fuzz" / "table"


def plan(seed):
    command = [PROGRAM, "--plan", f"--seed={seed}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_seed_is_a_plan():
    first = plan(1)
    assert len(first.splitlines()) > 100
    assert plan(1) == first
    assert plan(2) != first


def test_each_thread_has_its_own_plan():
    steps = {}
    for line in plan(1).splitlines():
        process, turn, thread, step = line.split(" ", 3)
        steps.setdefault((process, turn, thread), []).append(step)
    assert len(steps) > 4
    assert len({tuple(each) for each in steps.values()}) == len(steps)


@pytest.mark.guest
@pytest.mark.timeout(300)
def test_the_table_is_hostile_input():
    done = subprocess.run([TABLE, "1", "10000"], stdout=subprocess.PIPE, text=True)
    summary = json.loads(done.stdout)
    assert summary["failure"] is None
    assert done.returncode == 0
    assert summary["requests"] >= 10000
    assert summary["reads"] > 0
    for name in ("processes", "threads"):
        wait_for(lambda name=name: parameter(name) == "0", f"{name} are 0")


@pytest.mark.guest
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_found(seed):
    command = [PROGRAM, f"--seed={seed}", "--calls=20000", "--seconds=240"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    summary = json.loads(done.stdout)
    assert summary["failure"] is None
    assert done.returncode == 0
    assert summary["calls"] >= 20000
    for name, results in summary["commands"].items():
        # No request is meant to succeed by its unknown number, nor VERSION to fail.
        if name != "UNKNOWN":
            assert results.get("ok"), f"{name} never succeeded"
        if name != "VERSION":
            assert set(results) - {"ok"}, f"{name} never failed"
    for name in ("processes", "threads", "fibers"):
        wait_for(lambda name=name: parameter(name) == "0", f"{name} are 0")
