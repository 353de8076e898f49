# SPDX-License-Identifier: MIT
"""Three jobs take turns on one thread, for a minute. Which of them burns the CPU?"""

import hashlib
import json
import time

import kfiber

main = kfiber.current()
text = json.dumps(["fiber"] * 20_000)


def parse() -> None:
    while True:
        json.loads(text)
        main.switch()


def hash_password() -> None:
    while True:
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 10_000)
        main.switch()


def count() -> None:
    while True:
        text.count("fiber")
        main.switch()


jobs = [kfiber.Fiber(parse), kfiber.Fiber(hash_password), kfiber.Fiber(count)]
end = time.monotonic() + 60
while time.monotonic() < end:
    for job in jobs:
        job.switch()
