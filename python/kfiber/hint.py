# SPDX-License-Identifier: MIT
"""Command lines for hints that work on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import sys


def install(*packages: str) -> str:
    """How to get these packages of Debian; without apt-get only their names can be told."""
    names = " ".join(packages)
    if shutil.which("apt-get"):
        return f"apt-get install {names}"
    return f"install what Debian's packages {names} have, from your distribution"


def as_root(*words: str) -> str:
    """The line that runs `kfiber WORDS` as root.

    sudo sets its own PATH, which has no virtual environment, so the line names this Python.
    """
    line = shlex.join([sys.executable, "-m", "kfiber", *words])
    if os.geteuid() == 0:
        return line
    return f"sudo {line}" if shutil.which("sudo") else f"as root: {line}"


def to_see(*words: str) -> str:
    """As as_root(), for what a user may not see. Root lacks a capability then, in a container."""
    return "CAP_SYS_PTRACE is needed" if os.geteuid() == 0 else as_root(*words)
