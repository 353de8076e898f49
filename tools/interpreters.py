# SPDX-License-Identifier: MIT
"""The Pythons that are here, of the versions that the extension knows."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

VERSIONS = ("3.10", "3.11", "3.12", "3.13")

# Says where it is if it can make a virtual environment and build an extension.
_PROGRAM = """\
import ensurepip, pathlib, sys, sysconfig
header = pathlib.Path(sysconfig.get_path("include"), "Python.h")
print(sys.executable if header.exists() else "")
"""


def _commands(version: str) -> Iterator[str]:
    """Where that version may be: on the PATH, or where pyenv keeps it."""
    for folder in os.environ.get("PATH", os.defpath).split(":"):
        if command := shutil.which(f"python{version}", path=folder):
            yield command
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from map(str, sorted(kept.glob(f"{version}.*/bin/python{version}")))


def find(version: str) -> Path | None:
    """The executable of an installation of `version` that can build extensions, if there is one."""
    for command in _commands(version):
        done = subprocess.run([command, "-c", _PROGRAM], capture_output=True, text=True, timeout=60)
        if done.returncode == 0 and done.stdout.strip():
            return Path(done.stdout.strip()).resolve()
    return None
