# SPDX-License-Identifier: MIT
"""Kernels to boot: Debian's packages, unpacked into the user's cache and never installed.

kernels/7.3 -> 7.3.4+deb13-amd64       the release of this series when it was fetched
kernels/7.3.4+deb13-amd64/             one kernel: its packages as `dpkg -x` unpacks them,
    vmlinux                            its image, unpacked if that is possible,
    sysroot/                           and the C library of its build tools if ours is older
The table of series is in distribution.py. The kernel "debug" is built from source: debug.py.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kfiber.cache import cache, locked
from kfiber.vm import debug, distribution, headers
from kfiber.vm.apt import Apt, debian_sources, machine_sources
from kfiber.vm.distribution import KERNELS, Offer
from kfiber.vm.errors import MISSING, VmError
from kfiber.vm.kernel import Kernel, unpack_image
from kfiber.vm.progress import say

NAMES = (*KERNELS, "debug")
"""What can be asked for: a series, or the kernel that checks itself."""

# Packages that are built from the kernel's source; all but the compiler's name their release.
_PARTS = re.compile(
    r"linux-(?:(?:image|headers|kbuild|binary|modules|base)-\d|compiler-)[a-z0-9.+-]*"
)


def get(name: str | None = None) -> Kernel:
    """The kernel of a series ("6.1"), "debug", or this distribution's own.

    From the cache, else fetched; "debug" is built, which takes minutes. Raises VmError if it cannot
    be had. No network is touched for one that is in the cache.
    """
    if name == "debug":
        return debug.get()
    codename = distribution.codename()
    series = distribution.SERIES.get(codename) if name is None else name
    if series is None:
        raise VmError(
            f"no default kernel: kfiber does not know {codename or 'this distribution'}; "
            f"hint: name a kernel, --kernel {'|'.join(NAMES)}",
            status=MISSING,
        )
    if series not in KERNELS:
        raise VmError(f"no kernel {series}; hint: --kernel {'|'.join(NAMES)}", status=MISSING)
    kernels = cache() / "kernels"
    link = kernels / series
    if not link.exists():
        with locked(
            kernels / ".lock", lambda: say("waiting for another kfiber that gets a kernel")
        ):
            if not link.exists():
                _fetch(series, codename, link)
    return _load(link.resolve())


def _load(directory: Path) -> Kernel:
    release = directory.name
    return Kernel(
        release=release,
        image=directory / "vmlinux",
        modules=directory / "lib/modules" / release,
        build=directory / "usr/src" / f"linux-headers-{release}",
    )


@dataclass(frozen=True)
class _Candidate:
    """A kernel that can be fetched. `version` is the upstream part, as numbers."""

    offer: Offer
    apt: Apt
    release: str
    version: tuple[int, ...]


def _fetch(series: str, codename: str, link: Path) -> None:
    """Get the newest kernel of `series` beside `link`, and let that name it once it is whole."""
    # Leftovers of a process that was killed: we hold the lock, so nobody uses them.
    for stale in link.parent.glob(".fetch-*"):
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=link.parent) as name:
        scratch = Path(name)
        found = _newest(series, codename, scratch)
        final = link.parent / found.release
        # It may be there by another series' name, and in use.
        if not final.exists():
            _unpack(found, codename, scratch).rename(final)
        new_link = scratch / "link"
        new_link.symlink_to(found.release)
        new_link.rename(link)


def _newest(series: str, codename: str, scratch: Path) -> _Candidate:
    """The newest kernel of `series` that the mirror has. VmError: it has none."""
    found: list[_Candidate] = []
    # Of two equal versions the one built for this release is better: its tools run here as they
    # are, and this release's compiler is the one that it was built with.
    offers = sorted(KERNELS[series], key=lambda offer: offer.release != codename)
    for offer in offers:
        try:
            found.append(_look(series, offer, codename, scratch / f"apt-{offer.suite}"))
        except VmError as error:
            if len(offers) == 1:
                raise
            if offer == offers[-1] and not found:
                raise VmError(
                    f"no suite has a kernel {series}, the last one tried says: {error}",
                    status=MISSING,
                ) from None
            say(f"passing over {offer.suite}: {error}")
    return max(found, key=lambda candidate: candidate.version)


def _look(series: str, offer: Offer, codename: str, home: Path) -> _Candidate:
    """The kernel that `offer` is now. VmError: its suite cannot be read, or has another series."""
    apt = Apt(home, debian_sources(machine_sources(), codename, offer.suite))
    apt.update()
    fields = apt.show(offer.image)
    image = re.search(r"linux-image-(\d[a-z0-9.+-]*)", fields.get("depends", ""))
    if image is None or not image[1].startswith(f"{series.removesuffix('-rt')}."):
        raise VmError(
            f"{offer.suite} has no kernel {series}: its {offer.image} is "
            f"{fields.get('version', 'of no version')}; hint: choose another with --kernel",
            status=MISSING,
        )
    upstream = fields["version"].rpartition("-")[0]
    return _Candidate(offer, apt, image[1], tuple(map(int, re.findall(r"\d+", upstream))))


def _unpack(found: _Candidate, codename: str, scratch: Path) -> Path:
    """Fetch and unpack the packages of a kernel, and make them work from where they are."""
    tree = scratch / found.release
    parts = [f"linux-image-{found.release}", f"linux-headers-{found.release}"]
    packages = found.apt.closure(parts, _PARTS)
    files = found.apt.download(packages, scratch / "packages")
    say("unpacking")
    for file in files:
        found.apt.unpack(file, tree)
    headers.relocate(tree)
    kbuild = next((name for name in packages if name.startswith("linux-kbuild-")), "")
    if kbuild and headers.needs_newer_libraries(depends := found.apt.show(kbuild)["depends"]):
        release = debian_sources(machine_sources(), codename, found.offer.release)
        apt = Apt(scratch / "apt-libraries", release)
        apt.update()
        libraries = apt.closure(re.findall(headers.LIBRARIES, depends), headers.LIBRARIES)
        for file in apt.download(libraries, scratch / "libraries"):
            apt.unpack(file, tree / headers.SYSROOT)
        headers.wrap_tools(tree)
    (tree / "vmlinux").write_bytes(unpack_image(_image(tree, found.release).read_bytes()))
    return tree


def _image(tree: Path, release: str) -> Path:
    """The image among unpacked packages, which have it in one of two places."""
    for path in (tree / "boot" / f"vmlinuz-{release}", tree / "lib/modules" / release / "vmlinuz"):
        if path.exists():
            return path
    raise VmError(
        f"the packages of Linux {release} have no image where Debian puts it; "
        "hint: choose another with --kernel",
        status=MISSING,
    )
