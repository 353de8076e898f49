#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Builds Debian's packages in one clean chroot and tries them in another: `make deb`.

python tools/deb.py             both chroots are Debian 13 from this machine's mirror, and removed
                                afterwards; needs mmdebstrap, and root or subordinate ids
python tools/deb.py --here      builds on this machine, and tries nothing

The packages come into dist/debian. The source is the source distribution with packaging/debian. The
smoke test loads no module: a chroot has its host's kernel.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kfiber import __version__
from kfiber.cache import cache, locked
from kfiber.errors import KfiberError
from kfiber.vm.apt import debian_sources, machine_sources
from kfiber.vm.distribution import codename

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist/debian"
# The first release with a meson and a setuptools that are new enough.
SUITE = "trixie"
TESTS = ROOT / "packaging/debian/tests"


def run(*command: str | Path, folder: Path | None = None) -> None:
    if subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL).returncode:
        raise KfiberError(f"{command[0]} failed; hint: the lines above say why")


def need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise KfiberError(f"there is no {program}; hint: apt-get install {package}")


def source(scratch: Path) -> Path:
    """The unpacked source package in `scratch`, with the upstream archive beside it."""
    make = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", make, scratch], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        raise KfiberError("no source distribution could be made; hint: the lines above say why")
    (made,) = scratch.glob("*.tar.gz")
    archive = made.rename(scratch / f"kfiber_{__version__}.orig.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(scratch)
    folder = scratch / f"kfiber-{__version__}"
    shutil.copytree(ROOT / "packaging/debian", folder / "debian")
    return folder


def chroot(variant: str, packages: Sequence[str], hooks: Sequence[str]) -> None:
    """Makes a chroot with these packages, runs the hooks in its making, and removes it."""
    mirror = debian_sources(machine_sources(), codename(), SUITE)[0].uri
    archives = cache() / "debian/archives"
    archives.mkdir(parents=True, exist_ok=True)
    debs = "/var/cache/apt/archives"
    with locked(cache() / "debian/lock", lambda: print("deb: another one runs; waiting for it")):
        run(
            "mmdebstrap",
            f"--variant={variant}",
            f"--include={','.join(packages)}",
            # They share the kernel with this machine, and installing some sets what these say.
            "--dpkgopt=path-exclude=/usr/lib/sysctl.d/*",
            "--dpkgopt=path-exclude=/etc/sysctl.d/*",
            # Each package is fetched once.
            "--skip=download/empty,essential/unlink,cleanup/apt",
            f'--setup-hook=mkdir -p "$1{debs}" && cp -n {archives}/*.deb "$1{debs}" || true',
            *(f"--customize-hook={hook}" for hook in hooks),
            f'--customize-hook=cp -n "$1{debs}"/*.deb {archives}',
            SUITE,
            "/dev/null",
            mirror,
        )


def build(folder: Path) -> None:
    """Builds the packages in a chroot, and looks at them with lintian."""
    inside = f"/build/{folder.name}"
    # The project has no mail address yet, and the packages are not for Debian's archive.
    known = "bogus-mail-host,bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs"
    lintian = f"lintian --allow-root --suppress-tags {known} --fail-on error,warning ../*.changes"
    chroot(
        "buildd",
        ["ca-certificates", "lintian"],
        [
            f'cp -r {folder.parent} "$1/build"',
            f'chroot "$1" sh -c "cd {inside} && apt-get build-dep -y -q ./"',
            f'chroot "$1" sh -c "cd {inside} && dpkg-buildpackage -us -uc"',
            f'chroot "$1" sh -c "cd {inside} && {lintian}"',
            f'find "$1/build" -maxdepth 1 -type f -exec cp -t {DIST} {{}} +',
        ],
    )


def build_here(folder: Path) -> None:
    need("dpkg-buildpackage", "dpkg-dev debhelper")
    run("dpkg-buildpackage", "-us", "-uc", folder=folder)
    for made in folder.parent.iterdir():
        if made.is_file():
            shutil.copy(made, DIST)


def smoke() -> None:
    """Installs the packages in a chroot of their own, and tries them."""
    (depends,) = re.findall(r"^Depends: @, (.*)$", (TESTS / "control").read_text(), re.MULTILINE)
    chroot(
        "apt",
        depends.split(", "),
        [
            f'mkdir "$1/debs" && cp {DIST}/*.deb "$1/debs" && cp {TESTS}/smoke "$1/smoke"',
            'chroot "$1" sh -c "apt-get install -y -q --no-install-recommends /debs/*.deb"',
            'chroot "$1" /smoke',
            'chroot "$1" sh -c "apt-get purge -y -q kfiber-dkms libfiber0 python3-kfiber"',
            'test -z "$(find "$1/usr/src" "$1/lib/modules" -name \'fiber*\')"',
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--here", action="store_true", help="build on this machine, in no chroot")
    arguments = parser.parse_args()
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="kfiber-deb-") as scratch:
        folder = source(Path(scratch))
        if arguments.here:
            build_here(folder)
        else:
            need("mmdebstrap", "mmdebstrap")
            build(folder)
            smoke()
    for made in sorted(DIST.glob("*.deb")):
        print(made.relative_to(ROOT))


if __name__ == "__main__":
    try:
        main()
    except KfiberError as error:
        sys.exit(f"deb: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
