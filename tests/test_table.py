# SPDX-License-Identifier: MIT
"""kfiber.table on living processes: engine `local`, which needs no module."""

import os
import re
import struct
import subprocess
import time
from pathlib import Path

import pytest

from kfiber import proc, table
from kfiber.cli import main

ROOT = Path(__file__).resolve().parents[1]
CELLS = Path(os.environ.get("KFIBER_BUILD", ROOT / "build")) / "bench" / "cells"
FIBERS = 16
THREADS = 2

pytestmark = pytest.mark.skipif("KFIBER_GUEST" in os.environ, reason="tested outside the guest")


@pytest.fixture
def workload():
    """The workload, for longer than any test, with all its fibers made."""
    words = [CELLS, "--engine", "local", "--fibers", str(FIBERS), "--calls", "100000000"]
    words += ["--threads", str(THREADS), "--alarm", "0.01"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(proc.fibers(process.pid)) < FIBERS + THREADS - 1:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    yield process.pid
    process.kill()
    process.wait()


def test_a_process_shows_its_fibers(workload):
    fibers = proc.fibers(workload)
    assert [fiber.id for fiber in fibers] == list(range(1, FIBERS + THREADS))
    assert {fiber.name for fiber in fibers} >= {f"cell {i}" for i in range(1, FIBERS)}
    assert {fiber.engine for fiber in fibers} == {"local"}
    assert {fiber.cpu_time_ns for fiber in fibers} == {None}
    for fiber in fibers:
        assert fiber.longest_run_ns <= fiber.run_time_ns
        assert (fiber.stack_size >= 65536) == fiber.name.startswith("cell ")


def test_the_running_ones_are_on_the_processes_threads(workload):
    # Of a switch that is just happening one may see neither fiber or both.
    for _ in range(1000):
        running = [fiber for fiber in proc.fibers(workload) if fiber.running]
        tids = {fiber.thread_id for fiber in running}
        if len(running) == THREADS and len(tids) == THREADS:
            break
    assert tids <= {int(task.name) for task in Path(f"/proc/{workload}/task").iterdir()}
    assert len(tids) == THREADS


def test_run_times_add_up_to_the_threads_time(workload):
    first, begin = sum(fiber.run_time_ns for fiber in proc.fibers(workload)), time.monotonic_ns()
    time.sleep(0.2)
    last, end = sum(fiber.run_time_ns for fiber in proc.fibers(workload)), time.monotonic_ns()
    assert last - first == pytest.approx(THREADS * (end - begin), rel=0.2)


def test_ps_lists_them(workload, capsys):
    assert main(["ps", str(workload)]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert "RUN" in heading.split() and "CPU" not in heading.split()
    assert len(lines) == FIBERS + THREADS - 1
    assert workload in proc.processes()


def test_a_process_without_a_table_has_none():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        folder = Path(f"/proc/{process.pid}")
        assert table.fibers(folder) == []
        assert not table.exists(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_strangers_are_refused_in_one_line(workload):
    command = ["setpriv", "--reuid", "12345", "--clear-groups", "env", f"PYTHONPATH={ROOT}/python"]
    command += [os.path.realpath("/usr/bin/python3"), "-m", "kfiber", "ps", str(workload)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.fullmatch(
        r"kfiber: .* is hidden from you .*; mend: sudo kfiber ps \d+\n", done.stderr
    )


def test_another_version_shows_nothing(tmp_path):
    process = tmp_path / "7"
    process.mkdir()
    (process / "maps").write_text(
        "1000-2000 rw-p 00000000 00:01 9    /memfd:kfiber-table (deleted)\n"
    )
    header = struct.pack("<Q6I5Q16s", table._MAGIC, 99, *[1] * 5, *[1] * 5, b"local")
    (process / "mem").write_bytes(bytes(0x1000) + header)
    assert table.exists(process)
    assert table.fibers(process) == []
