# SPDX-License-Identifier: MIT
"""The Pythons that are here, of the versions that the extension knows, and kfiber in each."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pythons

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
# The releases of what others wrote, for tests and benchmarks.
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
# What is installed beside kfiber.
TOOLS = ("gevent", "greenlet", "pyperf", "pytest", "pytest-timeout")
# What an installation is made of.
SOURCES = (
    *("lib", "uapi", "python/kfiber", "python/native"),
    *("setup.py", "pyproject.toml", "MANIFEST.in"),
)
COPIED = (*SOURCES, "README.md", "LICENSES", "kmod")
KINDS = {".c", ".h", ".S", ".py", ".pyi", ".map", ".pth", ".toml", ".in"}

# Says where it is if it can make a virtual environment and build an extension.
_PROGRAM = """\
import ensurepip, pathlib, sys, sysconfig
header = pathlib.Path(sysconfig.get_path("include"), "Python.h")
print(sys.executable if header.exists() else "")
"""


def _commands(version: str) -> Iterator[str]:
    """Where that version may be: on the PATH, where pyenv keeps it, or fetched."""
    for folder in os.environ.get("PATH", os.defpath).split(":"):
        if command := shutil.which(f"python{version}", path=folder):
            yield command
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from map(str, sorted(kept.glob(f"{version}.*/bin/python{version}")))
    if (fetched := pythons.place(version)).exists():
        yield str(fetched)


def find(version: str) -> Path | None:
    """The executable of an installation of `version` that can build extensions, if there is one."""
    for command in _commands(version):
        done = subprocess.run([command, "-c", _PROGRAM], capture_output=True, text=True, timeout=60)
        if done.returncode == 0 and done.stdout.strip():
            return Path(done.stdout.strip()).resolve()
    return None


def _fingerprint(python: Path) -> str:
    """Of all that an installation depends on."""
    state = hashlib.sha256(f"{python.stat().st_mtime_ns} {TOOLS}".encode())
    state.update(CONSTRAINTS.read_bytes())
    for name in SOURCES:
        path = ROOT / name
        for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if each.is_file() and each.suffix in KINDS:
                state.update(f"{each.relative_to(ROOT)}\0".encode() + each.read_bytes())
    return state.hexdigest()


def _copy(target: Path) -> None:
    """The sources: a build leaves its files beside them."""
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "*.ko")
    target.mkdir(parents=True)
    for name in COPIED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, target / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(path, target / name)


def install(python: Path, *packages: str) -> str | None:
    """Installs packages, in the releases of CONSTRAINTS; why that failed, if it did."""
    done = subprocess.run(
        [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check",
         "--constraint", CONSTRAINTS, *packages],
        env={**os.environ, "CPPFLAGS": "-Werror"}, capture_output=True, text=True,
    )  # fmt: skip
    return done.stderr.strip() or f"status {done.returncode}" if done.returncode else None


def environment(version: str) -> Path | None:
    """The Python of a virtual environment of that version with this checkout's kfiber.

    It belongs to the checkout, since tests of two checkouts may run at a time, and is made anew
    when the sources have changed. None: that version is not here.
    RuntimeError: what pip said.
    """
    python = find(version)
    if python is None:
        return None
    folder = ROOT / "build" / "pythons" / version
    stamp, inside = folder / "kfiber-fingerprint", folder / "bin" / "python"
    state = _fingerprint(python)
    if stamp.exists() and stamp.read_text() == state and inside.exists():
        return inside
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    _copy(folder / "source")
    if failed := install(inside, *TOOLS, str(folder / "source")):
        raise RuntimeError(f"Python {version}: {failed}")
    stamp.write_text(state)
    return inside
