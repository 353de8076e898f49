# SPDX-License-Identifier: MIT
"""Which fiber burns the CPU? Asked from outside; the program does nothing for it."""

import subprocess
import sys

from kfiber import proc

PROGRAM = """
import kfiber

def work(rounds):
    for number in range(rounds * 100_000):
        number * number
    kfiber.root().switch()

fibers = [kfiber.Fiber(work, rounds, name=name) for name, rounds in
          [("read", 1), ("parse", 100), ("write", 1)]]
for fiber in fibers:
    fiber.switch()
input("ready\\n")
"""

with subprocess.Popen(
    [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
) as program:
    program.stdout.readline()

    # For people:
    subprocess.run([sys.executable, "-m", "kfiber", "ps", str(program.pid)], check=True)

    # For programs:
    busiest = max(
        (fiber for fiber in proc.fibers(program.pid) if fiber.name),
        key=lambda fiber: fiber.cpu_time_ns or fiber.run_time_ns or 0,
    )
    print("busiest:", busiest.name)

    program.communicate("\n")
