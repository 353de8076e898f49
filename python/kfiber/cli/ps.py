# SPDX-License-Identifier: MIT
"""`kfiber ps`: the fibers of processes."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable

from kfiber import proc, rates, render, symbols
from kfiber.cli import options
from kfiber.errors import KfiberError
from kfiber.info import FiberInfo

SORTS: dict[str, Callable[[FiberInfo], tuple[object, ...]]] = {
    "fiber": lambda fiber: (fiber.pid, fiber.id),
    "name": lambda fiber: (fiber.name, fiber.pid, fiber.id),
    "state": lambda fiber: (fiber.state, fiber.pid, fiber.id),
    "cpu": lambda fiber: (-rates.time_of(fiber), fiber.pid, fiber.id),
    "switches": lambda fiber: (-fiber.activations, fiber.pid, fiber.id),
    "longest": lambda fiber: (-fiber.longest_run_ns, fiber.pid, fiber.id),
}

EPILOG = """\
columns:
  COMMAND   the program; left out if one process was named
  TID       thread that runs it
  CPU       CPU time, where the kernel watches (engine kernel)
  RUN       time on a thread, waiting included (engine local)
  SWITCHES  switches to it; FAILED: switches to it that were refused
  NAME      its name; without one, its function, if the symbols say it

examples:
  kfiber ps                     all processes that have fibers
  kfiber ps 6526                one process
  kfiber ps --sort cpu | head   fibers that used most CPU time
  kfiber ps --json | jq '.[] | select(.cpu_time_ns > 1e9).name'
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "ps",
        help="list fibers",
        description="Lists the fibers of these processes, or of all processes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_pids(parser)
    parser.add_argument(
        "--sort", choices=tuple(SORTS), default="fiber", help="order (default: fiber)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, with everything that is known")
    form.add_argument("--prometheus", action="store_true", help="as Prometheus' text format")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Prints the list; 1 if a process is left out, of which standard error has the reason."""
    left_out = []

    def report(error: KfiberError) -> None:
        print(f"kfiber: {error}", file=sys.stderr)
        left_out.append(error)

    pids = options.pids(args)
    fibers = proc.fibers_of(pids, report) if pids else proc.all_fibers(report)
    fibers = sorted(symbols.named(fibers), key=SORTS[args.sort])
    if args.json:
        text = render.to_json(fibers)
    elif args.prometheus:
        text = render.prometheus(fibers)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        commands = {pid: proc.command(pid) for pid in {fiber.pid for fiber in fibers}}
        text = render.table(fibers, width=width, commands={} if len(pids) == 1 else commands)
    sys.stdout.write(text)
    return 1 if left_out else 0
