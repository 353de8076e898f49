# SPDX-License-Identifier: MIT
"""`kfiber record`: what fibers do over some time, for Perfetto, speedscope, pprof, flame graphs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kfiber import profiles, record
from kfiber.cli import options
from kfiber.errors import KfiberError

EPILOG = """\
formats:
  chrome       a timeline: ui.perfetto.dev or chrome://tracing; a track a fiber
               and one a thread
  speedscope   www.speedscope.app; a profile a fiber
  pprof        go tool pprof; labels fiber and name
  collapsed    flamegraph.pl, and many others

A timeline has the runs that a look found: the start of each is exact, its end
is when it was last seen, and runs between two looks are not there. With --exact
the process itself notes every switch, so all runs are there; each switch takes
some 60 ns more meanwhile, and the process keeps 40 MiB for the notes. The other
formats have the Python stacks of fibers that were on a thread, for which the
process stands still for an instant at each look, unless --no-stop is given.

examples:
  kfiber record 6526 -o trace.json --duration 5s
  kfiber record 6526 -o trace.json --duration 500ms --exact
  kfiber record 6526 -o profile.json --format speedscope --duration 5s
  kfiber record 6526 -o cpu.pb.gz --format pprof --interval 20ms --duration 5s
  kfiber record 6526 --format collapsed --duration 5s | sort -n -k2
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "record",
        help="record a timeline or a profile",
        description="Samples a process from outside: a timeline of its fibers, or a profile.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_pid(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: standard output"
    )
    parser.add_argument(
        "--format", choices=tuple(profiles.FORMATS), default="chrome", help="default: chrome"
    )
    parser.add_argument(
        "--interval", type=options.seconds, default=0.01, metavar="TIME",
        help="between two looks (default: 10ms)",
    )  # fmt: skip
    parser.add_argument(
        "--duration", type=options.seconds, metavar="TIME", help="default: until Ctrl-C"
    )
    parser.add_argument("--no-stop", action="store_true", help="let the process run on")
    parser.add_argument(
        "--exact", action="store_true", help="a timeline of every switch, noted by the process"
    )
    parser.set_defaults(main=lambda args: main(parser, args))


def main(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Records. KfiberError: the process cannot be looked at, or the file not be written."""
    pid = options.the_pid(args)
    if pid is None:
        parser.error("the following arguments are required: PID")
    if args.output is None and args.format == "pprof" and sys.stdout.isatty():
        parser.error("a terminal cannot show pprof's format; hint: -o FILE")
    if args.exact and args.format != "chrome":
        parser.error("--exact makes timelines only; hint: leave out --format")
    try:
        # Before anything is recorded for it.
        file = (args.output or Path("/dev/stdout")).open("wb")
    except OSError as error:
        raise KfiberError(
            f"cannot write {args.output}: {error.strerror}; hint: choose another -o FILE"
        ) from None
    with file:
        found = (
            record.record_exactly(pid, interval=args.interval, duration=args.duration)
            if args.exact
            else record.record(
                pid,
                interval=args.interval,
                duration=args.duration,
                stacks=args.format != "chrome",
                still=not args.no_stop,
            )
        )
        if found.lapses:
            print(
                f"kfiber: the recording has {found.lapses} gaps, in which this command had no "
                "processor for 10 s; hint: run it again when the machine is less busy",
                file=sys.stderr,
            )
        if found.lost:
            print(
                f"kfiber: {found.lost} switches are not in the recording: they came faster than "
                "they could be read; hint: a shorter --duration",
                file=sys.stderr,
            )
        text = profiles.FORMATS[args.format](found)
        file.write(text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace"))
    return 0
