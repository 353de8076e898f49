# SPDX-License-Identifier: MIT
"""The command `kfiber`. A verb is a file here: add_parser(subparsers), main(args) -> status."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kfiber import __version__
from kfiber.errors import KfiberError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

VERBS = ("doctor", "ps", "top", "stacks", "watch", "record", "export", "module", "vm", "completion")

EPILOG = """\
examples:
  kfiber doctor                 what this machine can do, and how to get what is missing
  kfiber vm run -- ls -l /dev/fiber
                                a command in a virtual machine with the module loaded
  sudo kfiber module load       build the module and load it here
  kfiber ps                     the fibers of all processes
  kfiber top                    which of them use the time, live
  kfiber stacks 6526            where each fiber of a process is
  kfiber record 6526 -o trace.json --duration 5s
                                a timeline, for ui.perfetto.dev
"""


class _Parser(argparse.ArgumentParser):
    """Errors are one line with a hint, told by the verb that they are about."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse hides a write that failed; a full disk is to be told.
        if message:
            (file or sys.stderr).write(message)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            # Not left to the top parser, which cannot tell whose they are.
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        _, _, verb = self.prog.partition(" ")
        if "; hint: " not in message:
            message += f"; hint: {self.usage or f'{self.prog} --help'}"
        self.exit(2, f"kfiber: {verb}: {message}\n" if verb else f"kfiber: {message}\n")


def parser(verbs: Iterable[str] = VERBS) -> argparse.ArgumentParser:
    """The parser of these verbs."""
    top = _Parser(
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


def _prepare_streams() -> None:
    """A closed stream is one that nobody reads; a character it cannot encode is escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Points the output at /dev/null, so that Python does not complain at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit status. SystemExit 2: it was wrong."""
    words = sys.argv[1:] if arguments is None else arguments
    # The others' imports would take more time than `kfiber ps` itself.
    named = [verb for verb in VERBS if verb in words[:1]]
    _prepare_streams()
    try:
        try:
            args = parser(named or VERBS).parse_args(words)
            status: int = args.main(args)
        finally:
            # Here a full disk is still an error that can be told; at Python's end it is noise.
            sys.stdout.flush()
        return status
    except KfiberError as error:
        print(f"kfiber: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is None:
            _drop_output()
        what, why = error.filename or "output", error.strerror or error
        # A file of a process goes with the process.
        gone = re.match(r"/proc/(\d+)/", str(what))
        if gone and not Path(gone[0]).exists():
            what, why = f"cannot look at process {gone[1]}", "it has ended"
        print(f"kfiber: {what}: {why}; hint: {_advice(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        if "KFIBER_TRACEBACK" in os.environ:
            raise
        print(
            f"kfiber: internal error: {type(error).__name__}: {' '.join(str(error).split())}; "
            "hint: KFIBER_TRACEBACK=1 shows where, please report it",
            file=sys.stderr,
        )
        return 1


def _advice(error: OSError) -> str:
    """What helps against an error of the operating system that nobody expected."""
    if error.filename is None:
        return "let the output go to another place"
    if error.errno in (errno.ENOENT, errno.ESRCH) and str(error.filename).startswith("/proc/"):
        return "kfiber ps lists the processes with fibers"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space there; the cache is where XDG_CACHE_HOME says"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a place that you may write; the cache is where XDG_CACHE_HOME says"
    return "KFIBER_TRACEBACK=1 shows where"


def run() -> None:
    """Entry point of the script."""
    sys.exit(main())
