# SPDX-License-Identifier: MIT
"""A fiber that three threads run, one after the other."""

import threading

import kfiber


def travel():
    for verb in "packs", "walks":
        print(verb, "on", threading.current_thread().name)
        kfiber.root().switch()  # back to the thread that runs it
    print("arrives on", threading.current_thread().name)


fiber = kfiber.Fiber(travel)
for name in "red", "green", "blue":
    thread = threading.Thread(target=fiber.switch, name=name)
    thread.start()
    thread.join()
print(fiber.state)
