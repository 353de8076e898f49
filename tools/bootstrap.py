#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sets a checkout up: Debian packages, `.venv` with the project and its tools.

Needs nothing but Python 3.10, and does nothing, fast, when all is there. Lists what it will
install and asks first; no question without a terminal or with YES=1. A `.venv` that is there is
kept, whichever Python made it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "kfiber-setup"
START = ROOT / "python/kfiber/greenlet/kfiber-greenlet.pth"
# As Debian's packages are called.
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"


class Need(NamedTuple):
    """Something a Debian package gives: a name that all releases have, and a test."""

    package: str
    present: Callable[[], bool]


def command(name: str) -> Callable[[], bool]:
    # Debian keeps modprobe and the like where only root's PATH looks.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return lambda: shutil.which(name, path=path) is not None


def static_busybox() -> bool:
    """Whether there is one without a loader: the guest starts without libraries."""
    path = Path("/bin/busybox")
    return path.exists() and b"/ld-linux" not in path.read_bytes()[:4096]


NEEDS = (
    Need("gcc", command("gcc")),
    Need("g++", command("g++")),
    Need("libc6-dev", lambda: Path("/usr/include/stdlib.h").exists()),
    Need("make", command("make")),
    Need("pkgconf", command("pkg-config")),
    Need("kmod", command("modinfo")),
    Need("sparse", command("sparse")),
    # The kernel's build tool objtool is linked with its library, and built for the debug kernel.
    Need("libelf-dev", lambda: Path("/usr/include/libelf.h").exists()),
    # For building the debug kernel.
    Need("bc", command("bc")),
    Need("bison", command("bison")),
    Need("flex", command("flex")),
    # A test looks at fibers through it.
    Need("gdb", command("gdb")),
    Need("xz-utils", command("xz")),
    Need("ca-certificates", lambda: Path("/etc/ssl/certs/ca-certificates.crt").exists()),
    Need("busybox-static", static_busybox),
    Need("qemu-system-x86", command("qemu-system-x86_64")),
    # The extension is built with the interpreter's headers.
    Need(f"{PYTHON}-dev", lambda: Path(sysconfig.get_path("include"), "Python.h").exists()),
    Need(f"{PYTHON}-venv", lambda: find_spec("ensurepip") is not None),
)


def fail(message: str) -> NoReturn:
    sys.exit(f"setup: {message}")


def run(arguments: Sequence[str], failure: str) -> None:
    """Runs a command with the terminal's streams; ends the program with `failure` if it fails."""
    print("+", *arguments, file=sys.stderr, flush=True)
    if subprocess.run(arguments, stdin=subprocess.DEVNULL).returncode:
        fail(failure)


def missing() -> list[Need]:
    return [need for need in NEEDS if not need.present()]


def confirm(packages: Sequence[str]) -> None:
    print(f"setup: these Debian packages will be installed: {' '.join(packages)}", file=sys.stderr)
    if os.environ.get("YES") == "1" or not sys.stdin.isatty():
        return
    print("Install them? [Y/n] ", end="", file=sys.stderr, flush=True)
    # Nothing at all, not even a line, is Ctrl-D: no.
    if sys.stdin.readline().strip(" ").lower() not in ("\n", "y\n", "yes\n"):
        fail("nothing was installed; hint: install them yourself, then run this again")


def install_packages(needs: Sequence[Need]) -> None:
    names = [need.package for need in needs]
    if not shutil.which("apt-get"):
        fail(f"no apt-get here to install {' '.join(names)}; hint: install them by other means")
    root: list[str] = [] if os.geteuid() == 0 else ["sudo"]
    if root and not shutil.which("sudo"):
        fail(f"{' '.join(names)} missing; hint: as root, apt-get install {' '.join(names)}")
    confirm(names)
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive"]
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *names]
    run([*root, "apt-get", "update", "-q"], "apt-get update failed; hint: the lines above say what")
    run(
        [*root, *quiet, *install],
        f"apt-get could not install them; hint: apt-get install {' '.join(names)}",
    )
    still = [need.package for need in missing()]
    if still:
        fail(f"still missing after the installation: {' '.join(still)}")


def fingerprint() -> str:
    """Changes with everything that decides what is in `.venv`. Its first line is where that is."""
    state = hashlib.sha256()
    for path in (Path(__file__), ROOT / "pyproject.toml", ROOT / "setup.py", VENV / "pyvenv.cfg"):
        if path.exists():
            state.update(path.read_bytes())
    return f"{VENV}\n{state.hexdigest()}\n"


def usable() -> bool:
    """Whether `.venv` is where it was made, its Python still there."""
    moved = STAMP.exists() and STAMP.read_text().partition("\n")[0] != str(VENV)
    return (VENV / "bin" / "python").exists() and not moved


def make_venv() -> None:
    python = str(VENV / "bin" / "python")
    failure = f"no {VENV.name} could be made; hint: the lines above say what, then run this again"
    if not usable():
        print(f"setup: making {VENV.name} with Python {sys.version.split()[0]}", file=sys.stderr)
        run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)], failure)
    STAMP.unlink(missing_ok=True)
    # On its own, because it takes seconds, and may have been interrupted the last time.
    if subprocess.run([python, "-c", "import pip"], stderr=subprocess.DEVNULL).returncode:
        run([python, "-m", "ensurepip", "--upgrade"], failure)
    # Errors only: that some index is unusable is not this user's problem if another one is not.
    pip = [python, "-m", "pip", "-qq", "--disable-pip-version-check"]
    run(
        [*pip, "install", "-e", f"{ROOT}[dev]"],
        "pip could not install the project; hint: the lines above say what, then run this again",
    )
    # An installation that refers to the checkout leaves it out.
    for folder in (VENV / "lib").glob("python*/site-packages"):
        shutil.copy(START, folder)
    # Last: an installation that did not come this far is done again.
    STAMP.write_text(fingerprint())


def main() -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        fail(
            f"kfiber is for Linux on x86-64, and this is {sys.platform} on {platform.machine()}; "
            "hint: use such a machine, a virtual one will do"
        )
    needs = missing()
    if needs:
        install_packages(needs)
    if not usable() or not STAMP.exists() or STAMP.read_text() != fingerprint():
        make_venv()


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 - whoever runs it may have an older one
        fail("Python 3.10 or newer is needed; hint: make PYTHON=python3.11 (or newer)")
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
