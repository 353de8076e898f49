# SPDX-License-Identifier: MIT
"""The first fiber: a function that is suspended in the middle, and resumed there."""

import kfiber


def count(number):
    while True:
        number += kfiber.root().switch(number)  # back to the thread that runs it


fiber = kfiber.Fiber(count, 10)
print(fiber.switch())  # 10
print(fiber.switch(1))  # 11
print(fiber.switch(100))  # 111
