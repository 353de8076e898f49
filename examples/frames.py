# SPDX-License-Identifier: MIT
"""Where each suspended fiber of this process stands."""

import traceback

import kfiber


def wait():
    kfiber.root().switch()


job = kfiber.Fiber(wait, name="job")
job.switch()
for fiber in kfiber.fibers():
    if fiber.frame and fiber.state == "suspended":
        function = traceback.extract_stack(fiber.frame)[-1].name
        print(fiber.name, "is in", function)
