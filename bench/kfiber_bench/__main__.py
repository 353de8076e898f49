# SPDX-License-Identifier: MIT
"""`python -m kfiber_bench bench`, `python -m kfiber_bench report`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from kfiber_bench import bench, report

COMMANDS = {"bench": bench.main, "report": report.main}


def end(number: int, _: FrameType | None) -> None:
    """Makes the signal an exception, so that machines which were started are ended."""
    sys.exit(128 + number)


def main() -> int:
    """Runs the command that the first argument names; its exit status."""
    name, words = sys.argv[1:2], sys.argv[2:]
    if not name or name[0] not in COMMANDS:
        print(f"usage: kfiber_bench {'|'.join(COMMANDS)} [options]", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    return COMMANDS[name[0]](words)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Nobody reads the output any more; the interpreter must not complain when it flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
