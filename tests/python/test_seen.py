# SPDX-License-Identifier: MIT
"""A program's fibers as another terminal sees them, which the program takes no part in."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import kfiber

# Of each state one, and a name for each way to have one. The busy one has used this much.
BUSY_NS = 20_000_000
PROGRAM = f"""
import time
import kfiber

class Cell:
    def serve(self):
        end = time.thread_time_ns() + {BUSY_NS}
        while time.thread_time_ns() < end:
            pass
        root.switch()

def wait():
    print(root.id, *(fiber.id for fiber in fibers), flush=True)
    input()

root = kfiber.root()
fibers = [
    kfiber.Fiber(Cell().serve),
    kfiber.Fiber(wait),
    kfiber.Fiber(print, name="never started"),
    kfiber.Fiber(lambda: None),
]
fibers[0].switch()
fibers[3].switch()
fibers[1].switch()
"""


@pytest.fixture
def program():
    """Its process, in a fiber that waits for input, and the ids of its fibers."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        ids = [int(word) for word in process.stdout.readline().split()]
        yield process, ids
        process.communicate("\n")
    assert process.returncode == 0


def ps(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "kfiber", "ps", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_are_listed(program):
    process, (root, serve, wait, new, _) = program
    heading, *lines = ps(process.pid).splitlines()
    times = "RUN" if kfiber.engine() == "local" else "CPU"
    assert heading.split() == [
        *("PID", "FIBER", "STATE", "TID", times, "SWITCHES", "FAILED", "NAME")
    ]
    rows = {int(line.split()[1]): line.split(maxsplit=7) for line in lines}
    # The lambda has finished, and so is not there.
    assert list(rows) == [root, serve, wait, new]
    assert {row[0] for row in rows.values()} == {str(process.pid)}
    assert [row[2] for row in rows.values()] == ["suspended", "suspended", "running", "new"]
    assert [row[3] for row in rows.values()] == ["-", "-", str(process.pid), "-"]
    assert [row[5] for row in rows.values()] == ["2", "1", "1", "0"]
    assert [row[7:] for row in rows.values()] == [[], ["Cell.serve"], ["wait"], ["never started"]]


def test_json_has_all_that_is_known(program):
    process, ids = program
    fibers = {fiber["id"]: fiber for fiber in json.loads(ps("--json", process.pid))}
    assert {fiber["engine"] for fiber in fibers.values()} == {kfiber.engine()}
    known, unknown = "cpu_time_ns", "run_time_ns"
    if kfiber.engine() == "local":
        known, unknown = unknown, known
    assert {fiber[unknown] for fiber in fibers.values()} == {None}
    busy, waits, new = (fibers[number] for number in ids[1:4])
    # What the thread's own clock says, and the module's at its edges.
    assert busy[known] >= busy["longest_run_ns"] >= BUSY_NS * 9 // 10
    assert (new[known], new["activations"]) == (0, 0)
    assert waits["thread_id"] == process.pid
    assert busy["stack_start"] <= busy["stack_pointer"] < busy["stack_start"] + busy["stack_size"]


def test_time_passes_for_the_one_that_runs(program):
    process, ids = program
    if kfiber.engine() != "local":
        pytest.skip("waiting takes no CPU time")
    first, second = (json.loads(ps("--json", process.pid)) for _ in range(2))
    passed = {
        new["id"]: new["run_time_ns"] - old["run_time_ns"]
        for old, new in zip(first, second, strict=True)
    }
    assert passed.pop(ids[2]) > 0
    assert set(passed.values()) == {0}
