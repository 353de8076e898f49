# SPDX-License-Identifier: MIT
"""Kernels to boot: Debian's packages, unpacked into the user's cache and never installed.

kernels/bookworm -> 6.1.0-56-amd64     the release of this suite when it was fetched
kernels/6.1.0-56-amd64/                one kernel: its packages as `dpkg -x` unpacks them,
    vmlinux                            and its image, unpacked
The one with the name "debug" is built from source: debug.py.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from kfiber.module import cache, locked
from kfiber.vm import debug, distribution
from kfiber.vm.apt import Apt, debian_sources, machine_sources
from kfiber.vm.errors import MISSING, VmError
from kfiber.vm.kernel import Kernel, unpack_image
from kfiber.vm.progress import clear, say, show

NAMES = (*distribution.SERIES.values(), "debug")
"""What can be asked for: a series, or the kernel that checks itself."""


def get(name: str | None = None) -> Kernel:
    """The kernel of a series ("6.1"), "debug", or this distribution's own.

    From the cache, else fetched; "debug" is built, which takes minutes. Raises VmError if it cannot
    be had. No network is touched for one that is in the cache.
    """
    if name == "debug":
        return debug.get()
    codename = distribution.codename()
    suite = _suite(name, codename)
    kernels = cache() / "kernels"
    link = kernels / suite
    if not link.exists():
        kernels.mkdir(parents=True, exist_ok=True)
        show("waiting for another kfiber that gets a kernel")
        with locked(kernels / ".lock"):
            clear()
            if not link.exists():
                _fetch(suite, codename, link)
    return _load(link.resolve())


def _suite(series: str | None, codename: str) -> str:
    """The suite that has `series`, for a machine that runs the release `codename`."""
    if series is None:
        if codename not in distribution.SERIES:
            raise VmError(
                f"do not know the kernel of {codename or 'this distribution'}; "
                "mend: name one, --kernel " + "|".join(NAMES),
                status=MISSING,
            )
        return codename
    for suite, its_series in distribution.SERIES.items():
        if its_series == series:
            # The backport is built by this release's compiler and against its libraries, so that
            # modules can be built here; trixie's own wants trixie's.
            return "bookworm-backports" if (suite, codename) == ("trixie", "bookworm") else suite
    raise VmError(f"no kernel {series}; mend: --kernel {'|'.join(NAMES)}", status=MISSING)


def _load(directory: Path) -> Kernel:
    release = directory.name
    return Kernel(
        release=release,
        image=directory / "vmlinux",
        modules=directory / "lib/modules" / release,
        build=directory / "usr/src" / f"linux-headers-{release}",
    )


def _fetch(suite: str, codename: str, link: Path) -> None:
    """Get the kernel of `suite` beside `link`, and let that name it once it is whole."""
    # Of one that was killed: we have the lock, so nobody is at it.
    for stale in link.parent.glob(".fetch-*"):
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=link.parent) as name:
        scratch = Path(name)
        apt = Apt(scratch / "apt", debian_sources(machine_sources(), codename, suite))
        apt.update()
        image = _linux_dependencies(apt, "linux-image-amd64")[0]
        release = image.removeprefix("linux-image-")
        headers = f"linux-headers-{release}"
        packages = list(dict.fromkeys([image, headers, *_linux_dependencies(apt, headers)]))
        tree = scratch / release
        files = apt.download(packages, scratch / "packages")
        say("unpacking")
        for file in files:
            apt.unpack(file, tree)
        relocate(tree)
        bootable = unpack_image((tree / "boot" / f"vmlinuz-{release}").read_bytes())
        (tree / "vmlinux").write_bytes(bootable)
        final = link.parent / release
        # It may be there by another suite's name, and in use.
        if not final.exists():
            tree.rename(final)
        new_link = scratch / "link"
        new_link.symlink_to(release)
        new_link.rename(link)


def _linux_dependencies(apt: Apt, package: str) -> list[str]:
    """What `package` depends on, as far as it is built from the kernel's source."""
    depends = apt.show(package).get("depends", "")
    return re.findall(r"(?:^|,)\s*(linux-(?:image|headers|kbuild|compiler)-[a-z0-9.+-]+)", depends)


def relocate(tree: Path) -> None:
    """Make the packages unpacked in `tree` work from where they are.

    Their links and Makefiles name each other by absolute paths.
    """
    for directory, directories, files in os.walk(tree):
        for name in [*directories, *files]:
            path = Path(directory, name)
            if path.is_symlink() and (target := path.readlink()).is_absolute():
                path.unlink()
                path.symlink_to(os.path.relpath(tree / target.relative_to("/"), directory))
    # From trixie on the packages put below usr/lib what was below lib.
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    for headers in (tree / "usr/src").glob("linux-headers-*"):
        makefile = headers / "Makefile"
        if makefile.is_file() and not makefile.is_symlink():
            here = "$(dir $(lastword $(MAKEFILE_LIST)))"
            text = makefile.read_text()
            makefile.write_text(
                re.sub(r"^include /usr/src/", f"include {here}../", text, flags=re.MULTILINE)
            )
        # Type information for modules would need the kernel's own, which no package has here.
        for config in (headers / "include/config").glob("auto.conf*"):
            config.write_text(
                re.sub(r"(?m)^CONFIG_DEBUG_INFO_BTF_MODULES=y\n", "", config.read_text())
            )
