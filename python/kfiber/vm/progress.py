# SPDX-License-Identifier: MIT
"""What a person who waits gets to see: on standard error, and nothing fleeting in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def say(what: str) -> None:
    """One line for something that takes a while and happens once."""
    print(f"kfiber: {what} …", file=sys.stderr, flush=True)


def fleeting() -> bool:
    """Whether show() shows anything: standard error is a terminal."""
    return sys.stderr.isatty()


def show(what: str) -> None:
    """A line that the next one, or clear(), overwrites. Seen on a terminal only."""
    if fleeting():
        print(f"\r\033[Kkfiber: {what} …", end="", file=sys.stderr, flush=True)


def clear() -> None:
    """Take the line of show() away."""
    if fleeting():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextmanager
def shown(what: str) -> Iterator[None]:
    """show() for as long as the block runs."""
    show(what)
    try:
        yield
    finally:
        clear()
