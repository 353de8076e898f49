#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows fibers: the report's workload in a virtual machine, looked at from outside with ls and cat.

Without arguments it starts the machine and itself in it; `guest` is the part in there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kfiber import proc

ROOT = Path(__file__).resolve().parents[1]
CELLS = ROOT / "build" / "bench" / "cells"
FIBERS = 512
THREADS = 2
# The report's 15,000 take two minutes under emulation.
CALLS = 3000


def say(text: str) -> None:
    print(text, flush=True)


def show(command: Sequence[str]) -> None:
    say(f"$ {' '.join(command)}")
    subprocess.run(command, check=True)


def look(pid: int) -> None:
    """The workload's fibers as anybody can see them, while it runs."""
    directory = f"/proc/{pid}/fiber"
    say(f"$ ls {directory} | wc -l")
    say(
        subprocess.run(f"ls {directory} | wc -l", shell=True, text=True, capture_output=True).stdout
    )
    busiest = max(proc.fibers(pid), key=lambda fiber: fiber.cpu_time_ns or 0)
    say("The fiber that has used most CPU time so far:")
    show(["cat", f"{directory}/{busiest.id}"])


def guest() -> int:
    say(f"{FIBERS} cells of a mobile network, a fiber each, on {THREADS} threads;")
    say(f"{CALLS} calls a cell instead of the report's 15,000, since this CPU is emulated.\n")
    words = [
        str(CELLS),
        "--engine",
        "kernel",
        "--fibers",
        str(FIBERS),
        "--calls",
        str(CALLS),
        "--threads",
        str(THREADS),
    ]
    say(f"$ {' '.join(['cells', *words[1:], '--json'])} &")
    workload = subprocess.Popen([*words, "--json"], stdout=subprocess.PIPE, text=True)
    while workload.poll() is None and len(proc.fibers(workload.pid)) < FIBERS + THREADS - 1:
        time.sleep(0.05)
    if workload.poll() is None:
        look(workload.pid)
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
    if sys.argv[1:] == ["guest"]:
        return guest()
    kfiber = str(Path(sys.executable).with_name("kfiber"))
    return subprocess.run([kfiber, "vm", "run", "--", sys.executable, __file__, "guest"]).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
