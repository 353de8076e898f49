# SPDX-License-Identifier: MIT
"""The program that measures the rate of switches: that it switches, on each engine."""

import json
import os
import subprocess
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("KFIBER_BUILD", Path(__file__).resolve().parents[2] / "build"))
SWITCHES = BUILD / "bench" / "switches"

guest = pytest.mark.guest
every_engine = pytest.mark.parametrize(
    "engine",
    [
        "local",
        "swapcontext",
        pytest.param("mapped", marks=guest),
        pytest.param("kernel", marks=guest),
    ],
)


def switches(*options):
    return subprocess.run(
        [SWITCHES, *map(str, options)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@every_engine
@pytest.mark.parametrize("threads", [1, 2])
def test_switches_among_all(engine, threads):
    done = switches("--engine", engine, "--fibers", 64, "--threads", threads, "--seconds", 0.2)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["engine"] == engine
    assert result["switches"] > 64
    assert result["ns"] * result["switches"] == pytest.approx(
        result["seconds"] * 1e9 * threads, rel=1e-3
    )


@every_engine
def test_of_one_thread_no_switch_is_refused(engine):
    done = switches("--engine", engine, "--fibers", 8, "--threads", 1, "--seconds", 0.1)
    assert json.loads(done.stdout)["refused"] == 0


@every_engine
def test_a_fiber_that_runs_is_refused(engine):
    # Of three fibers two run, as soon as two processors have the threads.
    done = switches("--engine", engine, "--fibers", 3, "--threads", 2, "--seconds", 0.5)
    assert json.loads(done.stdout)["refused"] > 0


@pytest.mark.parametrize(
    "options",
    [
        ("--fibers", "1"),
        ("--fibers", "2", "--threads", "2"),
        ("--seconds", "0"),
        ("--seconds", "soon"),
        ("--engine", "nonsense"),
        ("--nonsense",),
        ("left over",),
    ],
    ids=" ".join,
)
def test_usage_errors(options):
    done = switches(*options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(Path("/dev/fiber").exists(), reason="/dev/fiber is there")
def test_without_the_module():
    done = switches("--engine", "kernel", "--seconds", 0.1)
    assert done.returncode == 1
    assert "convert" in done.stderr
