# SPDX-License-Identifier: MIT
"""`kfiber stacks`: where each fiber of a process is."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kfiber import render, stacks
from kfiber.cli import options
from kfiber.errors import KfiberError

EPILOG = """\
Frames are innermost first. Those of Python fibers are Python's; of others they
are functions of machine code, for which libdw (elfutils) is needed. --native
shows both: with it a fiber's C functions stand between its Python functions.

The process stands still for some milliseconds a thousand fibers, as under a
debugger, and takes no notice. With --no-stop it does not, and a fiber that ran
meanwhile is marked "torn": some of its frames may be of another moment.

A core file that the kernel wrote has the fibers of engine local. gcore leaves
out their stacks, since it cannot read the guards between them.

examples:
  kfiber stacks 6526                     all fibers of the process
  kfiber stacks 6526 --group             equal stacks once, the largest first
  kfiber stacks 6526 --fiber 2 --native  one fiber, its C functions too
  kfiber stacks 6526 --state suspended --no-stop
  kfiber stacks 6526 --json | jq '.fibers[0].frames[0]'
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "stacks",
        help="show where each fiber is",
        description="Shows the stack of each fiber of a process, or of one that left a core file.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_pid(parser)
    parser.add_argument("--core", type=Path, metavar="FILE", help="a core file, instead of PID")
    parser.add_argument(
        "--fiber", type=options.number(1, 2**63 - 1), action="append", default=[], metavar="ID",
        help="only this fiber; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--state", choices=("new", "running", "suspended", "finished"),
        help="only fibers in this state",
    )  # fmt: skip
    parser.add_argument("--native", action="store_true", help="with frames of machine code")
    parser.add_argument("--no-stop", action="store_true", help="let the process run on")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--group", action="store_true", help="equal stacks once, with their number")
    form.add_argument("--json", action="store_true", help="as JSON, with all that is known")
    parser.set_defaults(main=lambda args: main(parser, args))


def main(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Prints the stacks. KfiberError: the process cannot be looked at, or has no such fiber."""
    pid = options.the_pid(args)
    if (pid is None) == (args.core is None):
        parser.error("either PID or --core FILE is needed")
    if pid is None:
        look = stacks.look_in_core(args.core, native=args.native)
    else:
        look = stacks.look(pid, still=not args.no_stop, native=args.native)
    found = [
        stack
        for stack in look.stacks
        if (not args.fiber or stack.fiber.id in args.fiber)
        and args.state in (None, stack.fiber.state)
    ]
    if missing := set(args.fiber) - {stack.fiber.id for stack in look.stacks}:
        raise KfiberError(
            f"cannot show fiber {min(missing)}: the process has none of that number; "
            "hint: kfiber ps PID lists them"
        )
    if args.json:
        record = {"stopped_ns": look.stopped_ns, "fibers": list(map(render.stack_record, found))}
        text = json.dumps(record, indent=2) + "\n"
    elif args.group:
        text = render.stack_groups(stacks.grouped(found))
    else:
        text = render.stacks(found)
    sys.stdout.write(text)
    return 0
