# SPDX-License-Identifier: MIT
"""`kfiber ps`: the fibers of processes."""

from __future__ import annotations

import argparse
import shutil
import sys

from kfiber import module, proc, render
from kfiber.errors import KfiberError

EPILOG = """\
columns:
  TID       thread that runs it
  CPU       CPU time, where the kernel watches (engine kernel)
  RUN       time on a thread, waiting included (engine local)
  SWITCHES  times it was switched to; FAILED: times that was refused

examples:
  kfiber ps                     all processes that have fibers
  kfiber ps 6526                one process
  kfiber ps --json | jq '.[] | select(.cpu_time_ns > 1e9).name'
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "ps",
        help="list fibers",
        description="Lists the fibers of the processes named, or of all.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pid", nargs="*", type=int, metavar="PID", help="only this process")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, with all that is known")
    form.add_argument("--prometheus", action="store_true", help="as Prometheus' text format")
    parser.set_defaults(main=main)


def _report(error: KfiberError) -> None:
    """Says why a process is left out."""
    print(f"kfiber: {error}", file=sys.stderr)


def main(args: argparse.Namespace) -> int:
    """Prints the list. KfiberError: a process named is not there, or nothing shows fibers."""
    if args.pid:
        fibers = [fiber for pid in sorted(set(args.pid)) for fiber in proc.fibers(pid)]
    else:
        fibers = proc.all_fibers(_report)
    if not fibers and not args.pid and not module.SYSFS.exists():
        raise KfiberError(
            "no fibers: the module is not loaded, and no process that you may debug has any of "
            "engine local; hint: sudo kfiber ps, or look inside kfiber vm run"
        )
    if args.json:
        text = render.to_json(fibers)
    elif args.prometheus:
        text = render.prometheus(fibers)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
        text = render.table(fibers, width=width)
    sys.stdout.write(text)
    return 0
