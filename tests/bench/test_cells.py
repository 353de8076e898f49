# SPDX-License-Identifier: MIT
"""The workload of the report: that it passes its own checks, and that they can fail."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("KFIBER_BUILD", Path(__file__).resolve().parents[2] / "build"))
CELLS = BUILD / "bench" / "cells"

guest = pytest.mark.guest
# Engine `local` and swapcontext() need no module.
every_engine = pytest.mark.parametrize(
    "engine",
    [
        "local",
        "swapcontext",
        pytest.param("mapped", marks=guest),
        pytest.param("kernel", marks=guest),
    ],
)


def cells(*options):
    return subprocess.run(
        [CELLS, *map(str, options)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def measure(*options):
    done = cells("--json", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


# As many calls and alarms as give some of these on a processor that is emulated, or is not.
@pytest.mark.parametrize(
    ("engine", "calls", "alarm"),
    [
        ("local", 10000, 0.001),
        ("swapcontext", 10000, 0.001),
        pytest.param("mapped", 1000, 0.01, marks=guest),
        pytest.param("kernel", 1000, 0.01, marks=guest),
    ],
)
def test_verifies_itself_with_two_threads_and_alarms(engine, calls, alarm):
    result = measure(
        *("--engine", engine, "--fibers", 64, "--calls", calls),
        *("--threads", 2, "--alarm", alarm),
    )
    assert result["verified"] is True
    assert result["engine"] == engine
    assert result["calls_completed"] == 64 * calls
    # The queue is read to take each event and to put each new one in, the cell for each event. A
    # call in progress has its end in the queue; every other event that was put in was taken.
    assert result["fls_reads"] == 3 * result["events"] + result["calls_in_progress"]
    assert result["events"] >= 2 * 64 * calls
    assert result["alarms"] >= 10
    assert result["switches"] >= 64
    assert result["init_seconds"] > 0
    # A fiber that the handler suspends is not active meanwhile.
    assert 0 < result["active_per_fiber_seconds"] <= result["work_per_fiber_seconds"]


def test_reads_storage_as_often_as_the_report():
    result = measure("--engine", "local", "--fibers", 24, "--calls", 15000)
    assert result["fls_reads"] / 24 == pytest.approx(90_000, rel=0.05)


@every_engine
def test_random_targets_are_often_running(engine):
    # Of three fibers two run, so nearly half of the switches must fail.
    result = measure(
        "--engine", engine, "--fibers", 3, "--calls", 3000, "--threads", 2, "--alarm", 0.002
    )
    assert result["switches_busy"] > 0


@every_engine
def test_what_happens_follows_from_the_seed(engine):
    keys = ("events", "calls_blocked", "calls_in_progress")
    one, again, other = (
        measure(
            *("--engine", engine, "--fibers", 8, "--calls", 2000),
            *("--threads", threads, "--seed", seed),
        )
        for threads, seed in ((1, 7), (2, 7), (2, 8))
    )
    assert [one[key] for key in keys] == [again[key] for key in keys]
    assert [one[key] for key in keys] != [other[key] for key in keys]


@every_engine
def test_calls_are_blocked_in_the_busy_hours(engine):
    result = measure("--engine", engine, "--fibers", 24, "--calls", 3000, "--threads", 2)
    assert result["calls_blocked"] > 0


@every_engine
def test_processes_at_once(engine):
    result = measure(
        "--engine", engine, "--fibers", 16, "--calls", 200, "--threads", 2, "--processes", 3
    )
    assert result["calls_completed"] == 3 * 16 * 200
    assert len(result["per_process"]) == 3


@guest
def test_table():
    done = cells("--fibers", 8, "--calls", 100, "--threads", 2)
    assert done.returncode == 0, done.stderr
    assert "verified                           yes" in done.stdout


@guest
@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("fls", "a fiber-local value was not the fiber's own"),
        ("register", "a register had changed over a switch"),
        ("mask", "the signal mask was not the fiber's own"),
    ],
)
def test_fails_when_something_leaks(kind, complaint):
    done = cells(
        *("--engine", "kernel", "--fibers", 16, "--calls", 200, "--threads", 2),
        *("--json", "--sabotage", kind),
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert complaint in line
    assert json.loads(done.stdout)["verified"] is False


def alive_in(group):
    """The processes of a process group that are no zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(folder.name))
    return found


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@every_engine
@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize(
    ("number", "whom"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill), (signal.SIGKILL, os.kill)],
    ids=["Ctrl-C", "SIGTERM", "SIGKILL"],
)
def test_ends_when_told_and_leaves_no_process(engine, processes, number, whom):
    words = ["--engine", engine, "--fibers", 8, "--calls", 10**8, "--processes", processes]
    program = subprocess.Popen(
        # A shell's background jobs ignore SIGINT, and their children would.
        ["env", "--default-signal=INT", CELLS, *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        # The children, or the threads of the only process, run.
        wait_until(
            lambda: (
                len(alive_in(program.pid)) == processes + 1
                if processes > 1
                else len(os.listdir(f"/proc/{program.pid}/task")) > 1 or os.cpu_count() == 1
            )
        )
        whom(program.pid, number)
        assert program.wait(60) == -number
        wait_until(lambda: not alive_in(program.pid))
    finally:
        for pid in alive_in(program.pid):
            os.kill(pid, signal.SIGKILL)
        program.wait()


@every_engine
def test_fails_in_one_of_many_processes(engine):
    done = cells(
        *("--engine", engine, "--fibers", 8, "--calls", 100, "--threads", 2, "--processes", 2),
        *("--sabotage", "fls"),
    )
    assert done.returncode == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--fibers", "1"),
        ("--fibers", "65001"),
        ("--fibers", "many"),
        ("--fibers", "-5"),
        ("--fibers",),
        ("--calls", "0"),
        ("--threads", "0"),
        ("--fibers", "2", "--threads", "3"),
        ("--processes", "0"),
        ("--engine", "nonsense"),
        ("--alarm", "-1"),
        ("--alarm", "0.0001"),
        ("--alarm", "nan"),
        ("--sabotage", "everything"),
        ("--nonsense",),
        ("left over",),
    ],
    ids=" ".join,
)
def test_usage_errors(options):
    done = cells(*options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_help():
    done = cells("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for option in ("fibers", "calls", "threads", "processes", "engine", "seed", "json", "sabotage"):
        assert f"--{option}" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


@pytest.mark.skipif(Path("/dev/fiber").exists(), reason="/dev/fiber is there")
def test_without_the_module():
    done = cells("--engine", "kernel", "--fibers", 2, "--calls", 1, "--threads", 1)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "kfiber module load" in done.stderr
