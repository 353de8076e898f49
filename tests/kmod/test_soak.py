# SPDX-License-Identifier: MIT
"""Loading, four busy processes, unloading, again and again: nothing piles up.

KFIBER_SOAK is for how many seconds; `make soak` takes ten minutes.
"""

import os
import statistics
import subprocess
import time
from pathlib import Path

import pytest
from kmod.target import PROGRAMS, load, loaded, parameter, unload_when_free, wait_for

SECONDS = float(os.environ.get("KFIBER_SOAK", 10))
PROCESSES = 4
LIVES = 8
# In KiB. Slabs that are partly used come and go with everything that the system does.
SLACK = 2048

pytestmark = [pytest.mark.guest, pytest.mark.timeout(SECONDS + 600)]


def kernel_memory():
    """What the kernel uses for itself and cannot give back, in KiB."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    names = ("SUnreclaim", "KernelStack", "PageTables", "VmallocUsed", "Percpu")
    return sum(int(fields[name].split()[0]) for name in names)


def settle():
    """Waits until ended processes are gone altogether."""
    before = -1

    def still():
        nonlocal before
        last, before = before, kernel_memory()
        return abs(before - last) < 64

    wait_for(still, "the kernel's memory settles")
    return before


def live(seed):
    """Four processes whose threads and fibers come and go, until they all have ended."""
    environment = {**os.environ, "CHURN_LIVES": str(LIVES)}
    processes = [
        subprocess.Popen(
            [PROGRAMS / "kmod_churn", "lives"],
            env={**environment, "CHURN_SEED": str(seed * PROCESSES + number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, said


@pytest.fixture
def put_back():
    yield
    if not loaded():
        load()


@pytest.mark.usefixtures("put_back")
def test_memory_returns():
    memory = []
    start = time.monotonic()
    unload_when_free()
    while time.monotonic() - start < SECONDS or len(memory) < 6:
        load()
        live(len(memory))
        for name in ("processes", "threads", "fibers"):
            wait_for(lambda name=name: parameter(name) == "0", f"no {name}")
        unload_when_free()
        memory.append(settle())
    third = len(memory) // 3
    first, last = statistics.median(memory[:third]), statistics.median(memory[-third:])
    print(
        f"soak: {len(memory)} loads, {len(memory) * PROCESSES * LIVES} processes, "
        f"{time.monotonic() - start:.0f} s, kernel memory {first:.0f} KiB, then {last:.0f} KiB"
    )
    # What KASAN has been freed it keeps for a while; there kmemleak tells.
    if not Path("/sys/kernel/debug/kmemleak").exists():
        assert last - first < SLACK, memory
