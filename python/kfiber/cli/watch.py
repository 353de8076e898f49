# SPDX-License-Identifier: MIT
"""`kfiber watch`: fibers that hold their thread for long."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys

from kfiber import holds, proc, render
from kfiber.cli import options
from kfiber.errors import KfiberError

EPILOG = """\
While a fiber runs, no other fiber of its thread can. A fiber is reported
when it has been on its thread for longer than the limit, whether it computes or
waits for something, and again when it is suspended. A root fiber that waits in
an event loop is reported too: choose a limit above the loop's pauses.

With py-spy installed, the Python stack of that thread is printed as well.

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
    parser.add_argument("--no-stack", action="store_true", help="do not ask py-spy")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Tells until the process ends. KfiberError: there is no such process, or it is not yours."""
    proc.fibers(args.pid)
    spy = None if args.no_stack else shutil.which("py-spy")
    left = args.count
    for event in holds.Watcher(args.pid, args.blocked).events():
        if event.kind == "held" and spy is not None:
            event = dataclasses.replace(event, stack=_stack(spy, args.pid, event.thread_id))
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


def _stack(spy: str, pid: int, thread: int) -> tuple[str, ...]:
    """The Python frames of that thread, outermost first; empty where py-spy sees none."""
    done = subprocess.run(
        [spy, "dump", "--json", "--pid", str(pid)], stdin=subprocess.DEVNULL, capture_output=True
    )
    if done.returncode:
        return ()
    try:
        threads = json.loads(done.stdout)
    except ValueError:
        return ()
    for each in threads:
        if each.get("os_thread_id") == thread:
            frames = each.get("frames", [])
            return tuple(f"{f['name']} ({f['filename']}:{f['line']})" for f in reversed(frames))
    return ()


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
