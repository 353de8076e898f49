# SPDX-License-Identifier: MIT
"""The command `kfiber`. A verb is a file here: add_parser(subparsers), main(args) -> status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module

from kfiber import __version__
from kfiber.errors import KfiberError

VERBS = ("doctor", "ps", "module", "vm")

EPILOG = """\
examples:
  kfiber doctor                 what this machine can do, and how to get the rest
  kfiber vm run -- cat /dev/fiber
                                a command in a virtual machine with the module loaded
  sudo kfiber module load       build the module and load it here
  kfiber ps                     the fibers of all processes
"""


def parser(verbs: Iterable[str] = VERBS) -> argparse.ArgumentParser:
    """The parser of these verbs."""
    top = argparse.ArgumentParser(
        prog="kfiber",
        description="Fibers that the Linux kernel knows.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"kfiber {__version__}")
    subparsers = top.add_subparsers(metavar="VERB", required=True)
    for verb in verbs:
        import_module(f"kfiber.cli.{verb}").add_parser(subparsers)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit status. SystemExit 2: it was wrong."""
    words = sys.argv[1:] if arguments is None else arguments
    # The others' imports would take more time than `kfiber ps` itself.
    named = [verb for verb in VERBS if verb in words[:1]]
    args = parser(named or VERBS).parse_args(words)
    try:
        status: int = args.main(args)
        sys.stdout.flush()
        return status
    except KfiberError as error:
        print(f"kfiber: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        # The reader has seen enough; nor may Python complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def run() -> None:
    """Entry point of the script."""
    sys.exit(main())
