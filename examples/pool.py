# SPDX-License-Identifier: MIT
"""A few threads resume many fibers: each takes the next one that is ready."""

import queue
import threading

import kfiber

JOBS, STEPS, THREADS = 100, 20, 4

ready, done = queue.SimpleQueue(), queue.SimpleQueue()


def job(number):
    for _ in range(STEPS):
        kfiber.root().switch()  # now the thread can resume another job
    done.put(number)


def work():
    while (fiber := ready.get()) is not None:
        fiber.switch()
        if fiber.state != "finished":
            # Only now, because another thread may resume it at once.
            ready.put(fiber)


for number in range(JOBS):
    ready.put(kfiber.Fiber(job, number, name=f"job {number}"))
threads = [threading.Thread(target=work) for _ in range(THREADS)]
for thread in threads:
    thread.start()
finished = [done.get() for _ in range(JOBS)]
for _ in threads:
    ready.put(None)
for thread in threads:
    thread.join()
print(len(finished), "jobs, their sum", sum(finished))
