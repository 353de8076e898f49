# SPDX-License-Identifier: MIT
"""The kernel module `fiber`: build, load, unload, status. Nothing here needs root but loading."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kfiber.errors import KfiberError

DEVICE = Path("/dev/fiber")
SYSFS = Path("/sys/module/fiber")

# What this package speaks; the module answers FIBER_IOC_VERSION with its own.
ABI_VERSION = 1
_IOC_VERSION = 0xFB00

_SOURCES = Path(__file__).parent


def cache() -> Path:
    """The user's cache folder of this project (XDG_CACHE_HOME, which counts if it is absolute)."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "kfiber"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time holds the lock file `path`; the others wait.

    KfiberError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise KfiberError(
            f"cannot write {path}: {error.strerror}; mend: set XDG_CACHE_HOME to a folder of yours"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sources() -> list[Path]:
    """The module's files, relative to this package, in a fixed order."""
    patterns = ("kmod/Kbuild", "kmod/*.[ch]", "kmod/x86/*.[ch]", "uapi/*.h")
    files = (path for pattern in patterns for path in _SOURCES.glob(pattern))
    return sorted(path.relative_to(_SOURCES) for path in files if not path.name.endswith(".mod.c"))


def _fingerprint(build_dir: Path) -> str:
    """Changes with the sources and with the kernel's configuration."""
    state = hashlib.sha256(os.fsencode(build_dir.resolve()))
    for source in _sources():
        state.update(f"{source}\0".encode() + (_SOURCES / source).read_bytes())
    for name in ("include/config/auto.conf", "Module.symvers"):
        path = build_dir / name
        if path.exists():
            state.update(path.read_bytes())
    return state.hexdigest()[:16]


def running_build_dir() -> Path:
    """Where the running kernel's headers are. KfiberError: they are not installed."""
    release = platform.release()
    build_dir = Path("/lib/modules") / release / "build"
    if not os.access(build_dir / "Makefile", os.R_OK):
        raise KfiberError(
            f"no headers of the running kernel {release}, which building needs; "
            f"mend: apt-get install linux-headers-{release}"
        )
    return build_dir


def build(build_dir: Path | None = None, release: str | None = None) -> Path:
    """Builds the module against a kernel and returns the path of fiber.ko.

    `build_dir` is a configured kernel tree or an unpacked headers package, and `release` its
    version; without them the running kernel's. Works in the user's cache and builds only when
    sources or kernel have changed. KfiberError: headers or compiler are missing, or the compiler
    reported errors.
    """
    if build_dir is None:
        build_dir = running_build_dir()
    if release is None:
        release = platform.release()
    if not shutil.which("make"):
        raise KfiberError("no make, which building needs; mend: apt-get install make gcc")

    target = cache() / "modules" / f"{release}-{_fingerprint(build_dir)}"
    product = target / "fiber.ko"
    with locked(target.with_suffix(".lock")):
        if not product.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                built = _compile(build_dir, Path(scratch))
                target.mkdir(exist_ok=True)
                # Last, and in one step: where the file is, it is whole.
                built.replace(product)
    return product


def _compile(build_dir: Path, scratch: Path) -> Path:
    for source in _sources():
        copy = scratch / source
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_SOURCES / source, copy)
    make = [
        "make",
        "-C",
        str(build_dir),
        f"-j{os.cpu_count() or 1}",
        f"M={scratch / 'kmod'}",
        "modules",
    ]
    result = subprocess.run(
        make, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        sys.stderr.write(result.stdout)
        raise KfiberError(
            "the module does not build against this kernel, see above; "
            "mend: install the compiler that the kernel's headers ask for, or use another kernel"
        )
    return scratch / "kmod" / "fiber.ko"


def _privileged(command: list[str], action: str, mend: str) -> None:
    """Runs a command that needs root, or says how; `mend` is for when it fails."""
    if os.geteuid() != 0:
        raise KfiberError(f"{action} needs root; mend: sudo {shlex.join(command)}")
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        why = " ".join(result.stderr.split()) or f"status {result.returncode}"
        raise KfiberError(f"{action} failed: {why}; mend: {mend}")


def _tool(name: str) -> str:
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        raise KfiberError(f"no {name}; mend: apt-get install kmod")
    return path


def load(path: Path, parameters: Mapping[str, str] | None = None) -> None:
    """Loads fiber.ko into the running kernel. KfiberError: no right to, or the kernel refused."""
    words = [f"{name}={value}" for name, value in (parameters or {}).items()]
    command = [_tool("insmod"), str(path.resolve()), *words]
    _privileged(command, "loading the module", "dmesg tells why")


def unload() -> None:
    """Unloads the module. KfiberError: it is in use, not loaded, or there is no right to."""
    if not SYSFS.exists():
        raise KfiberError("the module is not loaded; mend: kfiber module load")
    command = [_tool("rmmod"), "fiber"]
    _privileged(command, "unloading the module", "end its users, kfiber ps lists them")


@dataclass(frozen=True)
class Status:
    """What can be said about the module; None for what is not to be known without it.

    `parameters` has the read-only counters too: processes, threads and fibers alive now.
    """

    loaded: bool
    device: bool
    version: str | None
    abi: int | None
    users: int | None
    parameters: dict[str, str]

    @property
    def usable(self) -> bool:
        """Whether this package can use it."""
        return self.abi == ABI_VERSION


def _abi() -> int | None:
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return fcntl.ioctl(descriptor, _IOC_VERSION)
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        return None
    finally:
        os.close(descriptor)


def _attribute(path: Path) -> str | None:
    """What an attribute says; None without the module, which may go at any time."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _parameters() -> dict[str, str]:
    values = {path.name: _attribute(path) for path in sorted(SYSFS.glob("parameters/*"))}
    return {name: value for name, value in values.items() if value is not None}


def status() -> Status:
    """Looks. The calling process has an entry in the module from then on, if it is loaded."""
    users = _attribute(SYSFS / "refcnt")
    return Status(
        loaded=SYSFS.exists(),
        device=DEVICE.exists(),
        version=_attribute(SYSFS / "version"),
        abi=_abi(),
        users=int(users) if users is not None else None,
        parameters=_parameters(),
    )
