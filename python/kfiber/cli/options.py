# SPDX-License-Identifier: MIT
"""Options that several verbs have in common."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def seconds(text: str) -> float:
    """A time above 0: a number of seconds, or one with its unit (us, ms, s, m)."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(us|ms|s|m)?", text)
    value = float(found[1]) * _UNITS[found[2] or "s"] if found else 0.0
    if not 0 < value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0, such as 100ms or 2")
    return value


def number(least: int, most: int) -> Callable[[str], int]:
    """A type of whole numbers."""

    def convert(text: str) -> int:
        digits = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
        if not digits or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} to {most}")
        return int(text)

    return convert


count = number(1, 999_999_999)
pid = number(1, 2**22)


def add_pid(parser: argparse.ArgumentParser) -> None:
    """PID, and -p PID."""
    parser.add_argument("pid", nargs="?", type=pid, metavar="PID", help="the process")
    parser.add_argument("-p", "--pid", dest="same_pid", type=pid, metavar="PID", help="the same")


def the_pid(args: argparse.Namespace) -> int | None:
    """The process that was named; None: none was."""
    found: int | None = args.pid if args.same_pid is None else args.same_pid
    return found


def add_pids(parser: argparse.ArgumentParser) -> None:
    """PID …, and -p PID for those who are used to it."""
    parser.add_argument("pids", nargs="*", type=pid, metavar="PID", help="only this process")
    parser.add_argument(
        "-p", "--pid", dest="more_pids", action="append", type=pid, default=[], metavar="PID",
        help="the same; may be given again",
    )  # fmt: skip


def pids(args: argparse.Namespace) -> list[int]:
    """The processes that were named, ascending; empty: all."""
    return sorted({*args.pids, *args.more_pids})


def add_interval(parser: argparse.ArgumentParser, default: str) -> None:
    """--interval and --count."""
    parser.add_argument(
        "--interval", type=seconds, default=seconds(default), metavar="TIME",
        help=f"between two looks (default: {default})",
    )  # fmt: skip
    parser.add_argument("--count", type=count, metavar="N", help="end after N looks")
