#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows fibers: a Python program's here and in a virtual machine, and the report's workload there.

They are looked at from outside, with `kfiber ps`, ls and cat. Without arguments it does all of it;
`guest` is the part in the machine, in which it starts itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kfiber import proc, rates

ROOT = Path(__file__).resolve().parents[1]
JOBS = "tools/jobs.py"
# What its fibers have run together before they are looked at.
ENOUGH_NS = 500_000_000
CELLS = "build/bench/cells"
FIBERS = 512
THREADS = 2
# The report's 15,000 take two minutes under emulation.
CALLS = 3000


def say(text: str = "") -> None:
    print(text, flush=True)


def show(line: str) -> None:
    """A command as one would type it in the checkout's folder, and what it says."""
    say(f"$ {line}")
    subprocess.run(line, shell=True, check=True)


def show_busiest(pid: int) -> None:
    busiest = max(proc.fibers(pid), key=rates.time_of)
    say("\nThe fiber that has used most CPU time so far:")
    show(f"cat /proc/{pid}/fiber/{busiest.id}")


@contextmanager
def jobs(engine: str) -> Iterator[int]:
    """The process of the Python program on that engine, which ends with the block."""
    say(f"$ KFIBER_ENGINE={engine} python {JOBS} &")
    environment = {**os.environ, "KFIBER_ENGINE": engine}
    with subprocess.Popen([sys.executable, JOBS], env=environment) as program:
        try:
            while sum(map(rates.time_of, proc.fibers(program.pid))) < ENOUGH_NS:
                if program.poll() is not None:
                    sys.exit("demo: the Python program ended too early, see above")
                time.sleep(0.05)
            yield program.pid
        finally:
            program.terminate()


def here() -> None:
    say("Three jobs in Python take turns on one thread:\n")
    show(f"cat {JOBS}")
    say("\nWhich of them burns the CPU? The kernel module is not needed to see that:\n")
    with jobs("local") as pid:
        show(f"kfiber ps {pid}")
    say("\nWhere the module is loaded, the kernel knows. A virtual machine starts:\n")


def guest() -> int:
    with jobs("mapped") as pid:
        show(f"kfiber ps {pid}")
        show(f"ls /proc/{pid}/fiber")
        show_busiest(pid)
    return cells()


def cells() -> int:
    """The report's workload on engine `kernel`; its exit status."""
    say(f"\n{FIBERS} cells of a mobile network, a fiber each, on {THREADS} threads;")
    say(f"{CALLS} calls a cell instead of the report's 15,000, since this CPU is emulated.\n")
    line = f"{CELLS} --engine kernel --fibers {FIBERS} --calls {CALLS} --threads {THREADS} --json"
    say(f"$ {line} &")
    workload = subprocess.Popen(line.split(), stdout=subprocess.PIPE, text=True)
    while workload.poll() is None and len(proc.fibers(workload.pid)) < FIBERS + THREADS - 1:
        time.sleep(0.05)
    if workload.poll() is None:
        show(f"ls /proc/{workload.pid}/fiber | wc -l")
        show_busiest(workload.pid)
    output, _ = workload.communicate()
    if workload.returncode:
        print("demo: the workload failed, see above", file=sys.stderr)
        return workload.returncode
    say("\nIts result, which it has verified itself:")
    result = json.loads(output)
    del result["per_process"]
    for key, value in result.items():
        say(f"  {key}: {value}")
    return 0


def main() -> int:
    os.chdir(ROOT)
    # For `kfiber` and `python` as they are shown.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    if sys.argv[1:] == ["guest"]:
        return guest()
    here()
    line = "kfiber vm run -- .venv/bin/python tools/demo.py guest"
    say(f"$ {line}")
    return subprocess.run(line.split()).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
