# SPDX-License-Identifier: MIT
"""`kfiber top`: which fibers use the time, live."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator

from kfiber import proc, rates, render
from kfiber.cli import options
from kfiber.errors import KfiberError
from kfiber.info import FiberInfo
from kfiber.rates import Rate

EPILOG = """\
columns:
  %         of one processor since the last look: CPU time where the kernel
            watches (engines kernel and mapped), else time on a thread, waiting
            included (engine local)
  TIME      the same since the fiber's start
  SW/S      switches to it per second
  LONGEST   its longest single run
  HELD      for how long it has been on its thread now

keys:
  s sort by the next column, n by name or by fiber, / filter, space pause,
  Enter everything known about a fiber, q quit

examples:
  kfiber top                    all processes that have fibers
  kfiber top --by name 6526     the fibers of a process, added up by name
  kfiber top --once             one look, as text
  kfiber top --json --count 5   five looks, a JSON object a line
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "top",
        help="watch which fibers use the time",
        description="Shows which fibers use the time: live on a terminal, as text into a pipe.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_pids(parser)
    options.add_interval(parser, "1s")
    parser.add_argument(
        "--by",
        choices=("fiber", "name"),
        default="fiber",
        help="whether a line is a fiber or a name",
    )
    parser.add_argument(
        "--sort", choices=tuple(rates.SORTS), default="share", help="order (default: share)"
    )
    parser.add_argument("--match", default="", metavar="TEXT", help="only names that contain TEXT")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--once", action="store_true", help="one look, as text")
    form.add_argument("--batch", action="store_true", help="as text, look after look")
    form.add_argument("--json", action="store_true", help="one JSON object a look")
    parser.set_defaults(main=main)


class Source:
    """Looks at the processes that were named, or at all."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids
        self._sampler = rates.Sampler()
        self.fibers: list[FiberInfo] = []

    def look(self) -> list[Rate]:
        """The rates since the last look. NoProcessError: all that were named have ended."""
        if not self.pids:
            self.fibers = proc.all_fibers(lambda error: None)
        else:
            found, gone = [], None
            for pid in self.pids:
                try:
                    found += proc.fibers(pid)
                except proc.NoProcessError as error:
                    gone = error
                else:
                    if proc.has_ended(pid):
                        gone = proc.NoProcessError(f"process {pid} has ended")
            if gone is not None and not found:
                raise gone
            self.fibers = found
        return self._sampler.compare(self.fibers, time.monotonic_ns())


def looks(source: Source, interval: float, count: int | None) -> Iterator[list[Rate]]:
    """Rates, one interval apart, `count` times or until the processes have ended."""
    source.look()
    for number in itertools.count() if count is None else range(count):
        time.sleep(interval)
        try:
            yield source.look()
        except proc.NoProcessError:
            if number == 0:
                raise
            return


def main(args: argparse.Namespace) -> int:
    """Shows it. KfiberError: a process named is not there; no textual for the live form."""
    source = Source(options.pids(args))
    if not (args.once or args.batch or args.json) and sys.stdout.isatty() and sys.stdin.isatty():
        return _live(source, args)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    first = True
    for found in looks(source, args.interval, 1 if args.once else args.count):
        lines = rates.by_name(found) if args.by == "name" else found
        lines = rates.arranged(lines, sort=args.sort, match=args.match)
        if args.json:
            record = {"time": time.time(), "rates": [dataclasses.asdict(each) for each in lines]}
            print(json.dumps(record), flush=True)
        else:
            print(("" if first else "\n") + render.rates(lines, width=width), end="", flush=True)
        first = False
    return 0


def _live(source: Source, args: argparse.Namespace) -> int:
    try:
        from kfiber.screen import Screen
    except ImportError:
        raise KfiberError(
            "the live form needs textual; hint: pip install 'kfiber[tools]', or kfiber top --batch"
        ) from None
    source.look()
    screen = Screen(
        source.look,
        lambda: source.fibers,
        interval=args.interval,
        looks=args.count,
        by_name=args.by == "name",
        sort=args.sort,
        match=args.match,
    )
    screen.run()
    if screen.error is not None:
        raise screen.error
    return screen.return_code or 0
