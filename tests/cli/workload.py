# SPDX-License-Identifier: MIT
"""A program with fibers of engine `local`: prints a line when they are there.

Fiber `spinner` holds its thread for half a second each time, `nimble` lets go of it at once.
"""

import time

import kfiber


def spinner(root):
    while True:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass
        root.switch()


def nimble(root):
    while True:
        root.switch()


root = kfiber.current()
fibers = [kfiber.Fiber(each, root, name=each.__name__) for each in (spinner, nimble, nimble)]
for fiber in fibers:
    fiber.switch()
print("ready", flush=True)
while True:
    for fiber in fibers:
        fiber.switch()
