# SPDX-License-Identifier: MIT
"""`python -m kfiber.greenlet PROGRAM ...` runs it over greenlets that are fibers."""

import os
import shutil
import sys
from pathlib import Path

from kfiber.greenlet import START, VARIABLE, starts

USAGE = """\
usage: python -m kfiber.greenlet PROGRAM ...
       python -m kfiber.greenlet -m MODULE ...

Runs a Python program or a command that is one, such as gunicorn, so that `import greenlet` gets
kfiber.greenlet there and in the Pythons that it starts. The environment variable KFIBER_GREENLET=1
does the same.
"""


def _interpreter() -> list[str]:
    """This one, with its options."""
    before = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    # -m kfiber.greenlet, in one word or two.
    return [sys.executable, *before[1 : -2 if before[-2] == "-m" else -1]]


def main(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        sys.exit(0 if words else 2)
    if not starts():
        sys.exit(f"kfiber: {START} is not beside this Python's packages; hint: pip install kfiber")
    if not words[0].startswith("-") and not Path(words[0]).exists():
        words[0] = shutil.which(words[0]) or words[0]
    os.execve(sys.executable, [*_interpreter(), *words], {**os.environ, VARIABLE: "1"})


if __name__ == "__main__":
    main(sys.argv[1:])
