# SPDX-License-Identifier: MIT
"""The first fiber: a function that is left in the middle, and gone on with."""

import kfiber

main = kfiber.current()


def count(number):
    while True:
        number += main.switch(number)


fiber = kfiber.Fiber(count, 10)
print(fiber.switch())
print(fiber.switch(1))
print(fiber.switch(100))
