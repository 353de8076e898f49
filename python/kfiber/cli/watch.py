# SPDX-License-Identifier: MIT
"""`kfiber watch`: fibers that hold their thread for long."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys

from kfiber import holds, proc, render, stacks
from kfiber.cli import options
from kfiber.errors import KfiberError

EPILOG = """\
While a fiber runs, no other fiber of its thread can. A fiber is reported
when it has been on its thread for longer than the limit, whether it computes or
waits for something, and again when it is suspended. A root fiber that waits in
an event loop is reported too: choose a limit above the loop's pauses.

The stack that the fiber has then is printed as well, for which the process
stands still for an instant, as under a debugger; not with --no-stack.

examples:
  kfiber watch 6526                      fibers that run for 100 ms
  kfiber watch 6526 --blocked 250ms --json  a JSON object a line
  kfiber watch 6526 --command 'logger "fiber $KFIBER_NAME"'
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "watch",
        help="tell of fibers that hold their thread",
        description="Reports each fiber that holds its thread for longer than a limit.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pid", type=options.pid, metavar="PID", help="the process")
    parser.add_argument(
        "--blocked", type=options.seconds, default=0.1, metavar="TIME",
        help="the limit (default: 100ms)",
    )  # fmt: skip
    parser.add_argument("--count", type=options.count, metavar="N", help="end after N fibers")
    parser.add_argument(
        "--command", metavar="SHELL",
        help="run by the shell for each, with KFIBER_PID, KFIBER_FIBER, KFIBER_NAME, "
        "KFIBER_THREAD and KFIBER_HELD_NS",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--no-stack", action="store_true", help="do not stop the process for its stack"
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Tells until the process ends. KfiberError: there is no such process, or it is not yours."""
    proc.fibers(args.pid)
    glance = None if args.no_stack else stacks.Glance(args.pid)
    left = args.count
    for event in holds.Watcher(args.pid, args.blocked).events():
        if event.kind == "held" and glance is not None:
            event = dataclasses.replace(event, stack=_stack(glance, event))
        _print(event, args.json)
        if event.kind != "held":
            continue
        if args.command:
            _run(args.command, event)
        if left is not None:
            left -= 1
            if left == 0:
                break
    return 0


def _print(event: holds.Event, as_json: bool) -> None:
    if as_json:
        text = json.dumps(dataclasses.asdict(event))
    else:
        what = "has held" if event.kind == "held" else "let go of"
        name = render.printable(event.fiber.name) or "(no name)"
        after = "for" if event.kind == "held" else "after"
        text = (
            f"fiber {event.fiber.id} {name} {what} thread {event.thread_id} "
            f"{after} {render.duration(event.held_ns)}"
        )
        text = "\n".join([text, *(f"    {render.printable(frame)}" for frame in event.stack)])
    print(text, flush=True)


def _stack(glance: stacks.Glance, event: holds.Event) -> tuple[str, ...]:
    """The frames of that fiber, outermost first; empty where they cannot be seen, which is said."""
    try:
        found = glance.frames(event.fiber.id)
    except KfiberError as error:
        print(f"kfiber: no stack of fiber {event.fiber.id}: {error}", file=sys.stderr)
        return ()
    return tuple(map(str, reversed(found)))


def _run(command: str, event: holds.Event) -> None:
    fiber = event.fiber
    environment = {
        **os.environ,
        "KFIBER_PID": str(fiber.pid),
        "KFIBER_FIBER": str(fiber.id),
        "KFIBER_NAME": fiber.name,
        "KFIBER_THREAD": str(event.thread_id),
        "KFIBER_HELD_NS": str(event.held_ns),
    }
    try:
        status = subprocess.run(["/bin/sh", "-c", command], env=environment).returncode
    except OSError as error:
        raise KfiberError(
            f"cannot run the command: {error.strerror}; hint: /bin/sh runs it"
        ) from None
    if status:
        print(f"kfiber: the command ended with {status}", file=sys.stderr)
