#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the module's style and types: checkpatch and sparse, warnings being errors.

checkpatch comes out of Debian's linux-source, into the cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from kfiber.cache import cache, locked
from kfiber.errors import KfiberError
from kfiber.vm import kernels, source

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("checkpatch.pl", "spelling.txt", "const_structs.checkpatch")


def checkpatch() -> Path:
    """A folder with scripts/checkpatch.pl, which is taken out of the source if need be."""
    archive = source.archive()
    target = cache() / "checkpatch" / archive.name.removesuffix(".tar.xz")
    with locked(target.with_suffix(".lock")):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as name:
                _extract(archive, Path(name) / "tree/scripts")
                Path(name, "tree").rename(target)
    return target


def _extract(archive: Path, scripts: Path) -> None:
    scripts.mkdir(parents=True)
    wanted = set(SCRIPTS)
    with tarfile.open(archive, "r|xz") as members:
        for member in members:
            folder, _, name = member.name.partition("/scripts/")
            if name in wanted and "/" not in folder:
                content = members.extractfile(member)
                assert content is not None
                (scripts / name).write_bytes(content.read())
                wanted.remove(name)
                if not wanted:
                    break


def main() -> int:
    """0 if there is nothing to complain about."""
    kernel = kernels.get()
    with tempfile.TemporaryDirectory() as name:
        # Kbuild writes beside the sources.
        for folder in ("kmod", "uapi"):
            shutil.copytree(ROOT / folder, Path(name) / folder)
        command = ["make", "-s", "-C", f"{name}/kmod", "check", f"KDIR={kernel.build}"]
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        return subprocess.run([*command, f"KSRC={checkpatch()}"], env=environment).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KfiberError as error:
        sys.exit(f"check: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
