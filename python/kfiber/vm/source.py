# SPDX-License-Identifier: MIT
"""Linux's source as this distribution patches it: the archive in its package linux-source."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kfiber.cache import cache, locked
from kfiber.vm import distribution
from kfiber.vm.apt import Apt, debian_sources, machine_sources
from kfiber.vm.errors import MISSING, VmError


def archive() -> Path:
    """The archive (.tar.xz), from the cache, else fetched. VmError: it cannot be had."""
    codename = distribution.codename()
    series = distribution.SERIES.get(codename)
    if series is None:
        raise VmError(
            f"do not know the kernel's source of {codename or 'this distribution'}; "
            "hint: use Debian 12 or 13",
            status=MISSING,
        )
    target = cache() / "sources" / f"linux-source-{series}.tar.xz"
    with locked(target.with_suffix(".lock")):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as name:
                _fetch(target.name.removesuffix(".tar.xz"), codename, Path(name)).rename(target)
    return target


def _fetch(package: str, codename: str, scratch: Path) -> Path:
    apt = Apt(scratch / "apt", debian_sources(machine_sources(), codename, codename))
    apt.update()
    for file in apt.download([package], scratch / "packages"):
        apt.unpack(file, scratch / "unpacked")
    return scratch / "unpacked/usr/src" / f"{package}.tar.xz"
