# SPDX-License-Identifier: MIT
"""`kfiber ps` on living fibers: the workload's, seen from outside."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kfiber import render
from kfiber.cli import main

pytestmark = pytest.mark.guest

ROOT = Path(__file__).resolve().parents[2]
CELLS = Path(os.environ.get("KFIBER_BUILD", ROOT / "build")) / "bench" / "cells"
FIBERS = 16


@pytest.fixture(params=["kernel", "mapped"])
def engine(request):
    return request.param


@pytest.fixture
def workload(engine):
    """A run that takes longer than any test, with all its fibers made."""
    words = [
        CELLS,
        "--engine",
        engine,
        "--fibers",
        str(FIBERS),
        "--calls",
        "100000000",
        "--threads",
        "2",
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    directory = Path(f"/proc/{process.pid}/fiber")
    deadline = time.monotonic() + 60
    while not directory.is_dir() or len(list(directory.iterdir())) < FIBERS + 1:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    yield process.pid
    process.kill()
    process.wait()


def test_all_processes_are_listed(workload, capsys):
    # Of a switch that is just happening one may see neither fiber or both.
    for _ in range(100):
        assert main(["ps"]) == 0
        lines = capsys.readouterr().out.splitlines()
        if sum(" running " in line for line in lines) == 2:
            break
    # The kernel knows CPU time, so nobody needs run time.
    assert lines[0].split() == [column for column in render.COLUMNS if column != "RUN"]
    assert len(lines) == 1 + FIBERS + 1
    assert all(line.split()[0] == str(workload) for line in lines[1:])
    assert sum(" running " in line for line in lines) == 2


def test_json_has_names_and_times(workload, engine, capsys):
    assert main(["ps", "--json", str(workload)]) == 0
    fibers = json.loads(capsys.readouterr().out)
    assert {fiber["name"] for fiber in fibers} >= {f"cell {i}" for i in range(1, FIBERS)}
    assert {fiber["engine"] for fiber in fibers} == {engine}
    assert sum(fiber["cpu_time_ns"] for fiber in fibers) > 0
    running = [fiber for fiber in fibers if fiber["running"]]
    assert {fiber["state"] for fiber in running} == {"running"}
    assert workload in {fiber["thread_id"] for fiber in running}


def test_prometheus_counts_them(workload, capsys):
    assert main(["ps", "--prometheus", str(workload)]) == 0
    out = capsys.readouterr().out
    assert out.count("kfiber_cpu_seconds_total{") == FIBERS + 1


def test_a_process_without_fibers_has_an_empty_table(workload, capsys):
    assert main(["ps", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.usefixtures("workload")
def test_status_counts_what_is_alive(engine):
    # Not in this process, which would have an entry in the module from then on.
    command = [sys.executable, "-m", "kfiber", "module", "status", "--json"]
    # What an earlier test's workload had is freed by and by.
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        alive = json.loads(done.stdout)["parameters"]
        # Those of `mapped` are the process' own memory.
        if alive["fibers"] == str(FIBERS + 1 if engine == "kernel" else 0):
            break
        assert time.monotonic() < deadline, alive
    assert alive["threads"] == "2"
