# SPDX-License-Identifier: MIT
"""kfiber.table on living processes: engine `local`, which needs no module."""

import os
import re
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


def test_what_is_now_needs_no_rate():
    """A process that has run for a day, whose rate is off by a ten thousandth."""
    native = pytest.importorskip("kfiber._native")
    rate, day = 3_000_300_000, 86_400
    begin = native.cycles() - day * 3_000_000_000
    clock = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - day * 1_000_000_000
    mult = (1_000_000_000 << 24) // rate
    head = table._Head(1, 1, 24, mult, begin, clock, 0, 0, "local", 192, 64)
    assert head.nanoseconds(abs(native.cycles() - head.now())) < 1_000_000_000


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
    # sudo has another PATH, so the whole path is told.
    assert re.fullmatch(
        r"kfiber: .* is hidden from you .*; hint: (sudo|as root:) /\S+ -m kfiber ps \d+\n",
        done.stderr,
    )


def written(folder, version, slot_size, area_size):
    """The directory in /proc of a process with one fiber, in a table of that version and layout."""
    process = folder / "7"
    process.mkdir()
    (process / "maps").write_text(
        "1000-2000 rw-p 00000000 00:01 9    /memfd:kfiber-table (deleted)\n"
    )
    areas, slots = 0x1000 + 256, 0x1000 + 512
    header = table._HEADER.pack(
        table._MAGIC, version, 2, 2, 2, 2, 0, 1, 0, 0, slots, areas, b"local", slot_size, area_size
    )
    slot = table._SLOT.pack(1, *[0] * 6, 2, 0, *[0] * 4, 0, b"one")
    memory = bytearray(0x2000)
    memory[0x1000 : 0x1000 + len(header)] = header
    memory[slots + slot_size : slots + slot_size + len(slot)] = slot
    (process / "mem").write_bytes(memory)
    return process


def test_a_later_minor_version_is_read(tmp_path):
    process = written(tmp_path, table._MAJOR << 16 | 7, slot_size=256, area_size=96)
    (fiber,) = table.fibers(process)
    assert (fiber.id, fiber.name, fiber.state) == (1, "one", "suspended")


def test_another_major_version_is_named(tmp_path):
    process = written(tmp_path, table._MAJOR + 1 << 16 | 2, slot_size=192, area_size=64)
    assert table.exists(process)
    words = rf"process 7 has status table version {table._MAJOR + 1}\.2, .* reads {table._MAJOR}\.x"
    with pytest.raises(table.VersionError, match=words):
        table.fibers(process)
    told = []
    assert proc.all_fibers(told.append, proc=tmp_path) == []
    assert [type(error) for error in told] == [table.VersionError]
