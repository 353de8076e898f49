#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the bytes of each idle handler of a Flask application on gevent.

handlers.py COUNT SIDE

SIDE is greenlet or kfiber.greenlet. Each handler waits in its view, as deep as Flask calls it. What
page tables take is not counted: the kernel does not count it as the process's memory either.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any


def resident() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - allocates little
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def main() -> None:
    count = int(sys.argv[1])
    if sys.argv[2] == "kfiber.greenlet":
        import_module("kfiber.greenlet").install()
    gevent: Any = import_module("gevent")
    event = import_module("gevent.event").Event()
    flask: Any = import_module("flask")
    create_environ = import_module("werkzeug.test").create_environ
    application = flask.Flask("handlers")
    waiting = 0

    @application.route("/<int:number>")  # type: ignore[untyped-decorator]
    def idle(number: int) -> str:
        nonlocal waiting
        waiting += 1
        event.wait()
        return str(number)

    def handle(number: int) -> None:
        list(application(create_environ(f"/{number}"), lambda status, headers: None))

    def start(numbers: range) -> list[Any]:
        made = [gevent.spawn(handle, number) for number in numbers]
        while waiting < numbers.stop:
            gevent.sleep(0)
        return made

    # What the first one imports and caches is no handler's.
    start(range(1))
    before = resident()
    made = start(range(1, 1 + count))
    print((resident() - before) / len(made))
    os._exit(0)


if __name__ == "__main__":
    main()
