# SPDX-License-Identifier: MIT
"""Reports a fiber that does not let others run."""

import time

import kfiber


def tell(event):
    if event.kind == "held":
        print(f"{event.fiber.name} holds its thread:", event.stack[-1].split()[0])


def careless():
    time.sleep(0.5)
    kfiber.root().switch()


with kfiber.watch(0.1, tell):
    kfiber.Fiber(careless, name="careless").switch()
