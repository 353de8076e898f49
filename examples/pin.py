# SPDX-License-Identifier: MIT
"""A lock that belongs to a thread: no other thread may resume the fiber that holds it."""

import threading

import kfiber

lock = threading.RLock()


def job():
    with kfiber.pin(), lock:
        kfiber.root().switch("suspended with the lock")


def intrude():
    try:
        fiber.switch()
    except kfiber.FiberPinnedError as error:
        print(type(error).__name__)


fiber = kfiber.Fiber(job)
print(fiber.switch())
thread = threading.Thread(target=intrude)
thread.start()
thread.join()
fiber.switch()
print(fiber.state)
