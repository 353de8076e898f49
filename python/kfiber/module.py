# SPDX-License-Identifier: MIT
"""The kernel module `fiber`: build, load, unload, status. Nothing here needs root but loading."""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import grp
import hashlib
import os
import platform
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kfiber import hint
from kfiber.cache import cache, locked
from kfiber.errors import KfiberError

DEVICE = Path("/dev/fiber")
SYSFS = Path("/sys/module/fiber")

GROUP = "fiber"
"""The group whose members may use the device, where the machine has such a group."""

# FIBER_IOC_VERSION. Its answer is shown to people; nothing compares it.
_IOC_VERSION = 0xFB00

_SOURCES = Path(__file__).parent

_UNLOAD_SECONDS = 3.0


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
            f"hint: {hint.install(f'linux-headers-{release}')}"
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
    if not re.fullmatch(r"[\w.+~-]+", release):
        raise KfiberError(
            f"cannot build: {release!r} is no kernel's version; hint: --release 6.1.0-57-amd64"
        )
    if not shutil.which("make"):
        raise KfiberError(f"no make, which building needs; hint: {hint.install('make', 'gcc')}")

    target = cache() / "modules" / f"{release}-{_fingerprint(build_dir)}"
    product = target / "fiber.ko"
    with locked(target.with_suffix(".lock")):
        if not product.exists():
            if not (build_dir / "Makefile").is_file():
                raise KfiberError(
                    f"cannot build: {build_dir} has no kernel's build; "
                    "hint: --kernel-dir /lib/modules/VERSION/build"
                )
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                built = _compile(build_dir, Path(scratch))
                target.mkdir(exist_ok=True)
                # Last, and in one step: where the file is, it is whole.
                built.replace(product)
    return product


# What Kbuild runs of LLVM for a module, and the Debian package that has it.
_LLVM = {
    "clang": "clang",
    "ld.lld": "lld",
    "llvm-ar": "llvm",
    "llvm-nm": "llvm",
    "llvm-objcopy": "llvm",
    "llvm-strip": "llvm",
}


def _toolchain(build_dir: Path) -> list[str]:
    """The words of make's line that choose the compiler. KfiberError: it is not installed.

    A kernel that clang built has options in its configuration that gcc does not know.
    """
    try:
        configuration = (build_dir / "include/config/auto.conf").read_text()
    except OSError:
        # Not configured; Kbuild says so.
        return []
    if not re.search(r"(?m)^CONFIG_CC_IS_CLANG=y$", configuration):
        return []
    if missing := [tool for tool in _LLVM if shutil.which(tool) is None]:
        packages = sorted({_LLVM[tool] for tool in missing})
        raise KfiberError(
            f"cannot build the module: this kernel was built by clang, and {', '.join(missing)} "
            f"cannot be found; hint: {hint.install(*packages)}"
        )
    return ["LLVM=1"]


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
        *_toolchain(build_dir),
        "modules",
    ]
    result = subprocess.run(
        make, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        sys.stderr.write(result.stdout)
        why, advice = _why_not_built(result.stdout)
        raise KfiberError(f"the module does not build against this kernel: {why}; hint: {advice}")
    return scratch / "kmod" / "fiber.ko"


def _why_not_built(output: str) -> tuple[str, str]:
    """What make's output says, and what helps."""
    if "No space left on device" in output:
        return f"the disk of {cache()} is full", "free some space, or set XDG_CACHE_HOME"
    # Debian's headers name the compiler that built the kernel.
    if missing := re.search(r"\b((?:gcc|clang)-\d+): (?:command )?not found", output):
        return f"{missing[1]}, which built it, is not installed", hint.install(missing[1])
    return "see above", "use a kernel that README.md lists"


def _need_root(action: str, *words: str) -> None:
    if os.geteuid() != 0:
        raise KfiberError(
            f"cannot {action} the module: that needs root; hint: "
            f"{hint.as_root('module', action, *words)}"
        )


def _complaint(result: subprocess.CompletedProcess[str]) -> str:
    """What a program that failed said, as one line."""
    return " ".join(result.stderr.split()) or f"status {result.returncode}"


def _tool(name: str) -> str:
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        raise KfiberError(f"no {name}; hint: {hint.install('kmod')}")
    return path


@dataclass(frozen=True)
class Parameter:
    """A parameter that a module file says it has."""

    name: str
    description: str

    @property
    def read_only(self) -> bool:
        """Whether it only shows a value. The file does not have its mode, the description does."""
        return self.description.endswith("(read-only)")


def parameters(path: Path) -> dict[str, Parameter]:
    """The parameters of the module file `path`, by name. KfiberError: it is no module."""
    found = {}
    for entry in _section(path, b".modinfo").split(b"\0"):
        key, _, value = entry.decode(errors="replace").partition("=")
        name, _, description = value.partition(":")
        if key == "parm":
            found[name] = Parameter(name, description)
        elif key == "parmtype":
            found.setdefault(name, Parameter(name, ""))
    return found


def _section(path: Path, name: bytes) -> bytes:
    """The content of a section of the 64-bit ELF file `path`. KfiberError: it has none."""
    content = path.read_bytes()
    with contextlib.suppress(struct.error, IndexError, OverflowError):
        # e_shoff, then e_shentsize, e_shnum and e_shstrndx.
        (table,) = struct.unpack_from("<Q", content, 40)
        size, number, names = struct.unpack_from("<HHH", content, 58)
        if content.startswith(b"\x7fELF\x02\x01") and size >= 64:
            # sh_name, sh_offset, sh_size.
            headers = [
                struct.unpack_from("<I20xQQ", content, table + index * size)
                for index in range(number)
            ]
            _, start, length = headers[names]
            strings = content[start : start + length]
            for offset, start, length in headers:
                if strings[offset:].split(b"\0", 1)[0] == name:
                    return content[start : start + length]
    raise KfiberError(
        f"cannot read {path}: it is no kernel module; hint: kfiber module build makes one"
    )


def check_parameters(path: Path, wanted: Mapping[str, str]) -> None:
    """KfiberError: the module file `path` has no such parameter, or one only shows a value.

    The kernel itself ignores a parameter that it does not know. Values are the module's to check.
    """
    known = parameters(path)
    settable = [name for name, parameter in known.items() if not parameter.read_only]
    for name in wanted:
        # As the kernel compares them.
        canonical = name.replace("-", "_")
        if canonical in settable:
            continue
        if canonical in known:
            why = f"{name} is read-only"
        else:
            close = difflib.get_close_matches(canonical, settable, 1)
            why = f"it has no parameter {name}" + (f", did you mean {close[0]}?" if close else "")
        raise KfiberError(
            f"cannot load the module: {why}; hint: its parameters are {', '.join(settable)}"
        )


def load(path: Path, wanted: Mapping[str, str] | None = None) -> None:
    """Loads fiber.ko into the running kernel with the parameters `wanted`.

    KfiberError: no right to, a parameter is wrong, or the kernel refused.
    """
    values = wanted or {}
    words = [f"{name}={value}" for name, value in values.items()]
    _need_root("load", *words)
    command = [_tool("insmod"), str(path.resolve()), *words]
    check_parameters(path, values)
    result = subprocess.run(command, capture_output=True, text=True)
    if not result.returncode:
        return
    why, advice = _complaint(result), "dmesg tells why"
    # As kmod words EINVAL and EEXIST.
    if values and re.search("invalid parameter", why, re.IGNORECASE):
        known = parameters(path)
        why = f"the module refused a value in {' '.join(words)}"
        told = (known.get(name.replace("-", "_")) for name in values)
        advice = "; ".join(f"{each.name}: {each.description}" for each in told if each)
    elif SYSFS.exists() and "File exists" in why:
        known = parameters(path)
        have = " ".join(
            f"{name}={value}"
            for name, value in _parameters().items()
            if name in known and not known[name].read_only
        )
        why, advice = f"it is loaded already, with {have}", hint.as_root("module", "unload")
    # As kmod words EKEYREJECTED and ENOKEY.
    elif re.search("key (was rejected|not available)", why, re.IGNORECASE):
        advice = "this kernel wants a signature: docs/howto/secureboot.md, or turn Secure Boot off"
    raise KfiberError(f"loading the module failed: {why}; hint: {advice}")


@dataclass(frozen=True)
class Access:
    """Who may open the device: its mode, and the name of its group."""

    mode: int
    group: str

    def __str__(self) -> str:
        return f"{DEVICE} has mode {self.mode:04o} and group {self.group}: {self.users}"

    @property
    def users(self) -> str:
        """The users, in words."""
        read_write = stat.S_IROTH | stat.S_IWOTH
        if self.mode & read_write == read_write:
            return "every user may use it"
        read_write = stat.S_IRGRP | stat.S_IWGRP
        if self.mode & read_write == read_write and self.group != "root":
            return f"root and the members of group {self.group} may use it"
        return "only root may use it"

    @property
    def hint(self) -> str | None:
        """How another user gets to use it; None if every user may."""
        if self.users.startswith("every"):
            return None
        if self.users.startswith("only"):
            return f"groupadd --system {GROUP}, then kfiber module load gives it to that group"
        return f"usermod -aG {self.group} USER, then USER logs in again"


def access() -> Access | None:
    """Who may open the device now; None without a device."""
    try:
        status = DEVICE.stat()
    except OSError:
        return None
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return Access(stat.S_IMODE(status.st_mode), group)


def group_id(name: str) -> int:
    """The number of the group `name`, which may be a number. KfiberError: there is none."""
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise KfiberError(
            f"cannot give {DEVICE} to group {name}: there is no such group; "
            f"hint: groupadd --system {name}"
        ) from None


def share(group: str | None = None, mode: int | None = None) -> Access:
    """Gives the device to `group` with `mode`, and returns who may use it now.

    Without `group` it is the group `fiber` if there is one, else root. Without `mode` it is 0660
    for a group that is not root, else 0600, which is the kernel's. KfiberError: there is no such
    group, or no device.
    """
    if group is None:
        group = GROUP if any(entry.gr_name == GROUP for entry in grp.getgrall()) else "root"
    number = group_id(group)
    if mode is None:
        mode = 0o660 if number else 0o600
    # udev may be about to apply its own rule.
    if udevadm := shutil.which("udevadm"):
        subprocess.run([udevadm, "settle", "--timeout=10"], capture_output=True, check=False)
    try:
        # Never open to the wrong group, not for a moment.
        DEVICE.chmod(0o600)
        os.chown(DEVICE, 0, number)
        DEVICE.chmod(mode)
    except OSError as error:
        raise KfiberError(
            f"cannot give {DEVICE} to its users: {error.strerror}; "
            "hint: the module is loaded, but this /dev does not show its devices (a container?)"
        ) from None
    return Access(mode, group)


def unload() -> None:
    """Unloads the module. KfiberError: it is in use, not loaded, or there is no right to.

    Each look into /proc/PID, by anybody, uses it for an instant; so this tries for a few seconds.
    """
    if not SYSFS.exists():
        raise KfiberError(
            f"the module is not loaded; hint: {hint.as_root('module', 'load')} loads it"
        )
    _need_root("unload")
    command = [_tool("rmmod"), "fiber"]
    deadline = time.monotonic() + _UNLOAD_SECONDS
    result = subprocess.run(command, capture_output=True, text=True)
    while result.returncode and "in use" in result.stderr and time.monotonic() < deadline:
        time.sleep(0.05)
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise KfiberError(
            f"unloading the module failed: {_complaint(result)}; "
            "hint: end its users, kfiber ps lists them"
        )


@dataclass(frozen=True)
class Status:
    """What can be said about the module; None for what is not to be known without it.

    `abi` is the version that the module reports: None if the device cannot be opened or does not
    answer. `denied` says that this user may not open it. `access` says who may. `parameters` has
    the read-only counters too: processes, threads and fibers alive now.
    """

    loaded: bool
    device: bool
    denied: bool
    access: str | None
    version: str | None
    abi: int | None
    users: int | None
    parameters: dict[str, str]

    @property
    def usable(self) -> bool:
        """Whether this user can use the module. Which requests it knows is found by using them."""
        return self.abi is not None


def _ask_abi() -> tuple[int | None, bool]:
    """The ABI version that the module reports, or None; and whether we may not open the device."""
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return None, error.errno in (errno.EACCES, errno.EPERM)
    try:
        return fcntl.ioctl(descriptor, _IOC_VERSION), False
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        return None, False
    finally:
        os.close(descriptor)


def _attribute(path: Path) -> str | None:
    """The content of an attribute; None without the module, which may go at any time."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _parameters() -> dict[str, str]:
    values = {path.name: _attribute(path) for path in sorted(SYSFS.glob("parameters/*"))}
    return {name: value for name, value in values.items() if value is not None}


def status() -> Status:
    """Reads the counters, then opens the device.

    The calling process has an entry in the module from then on, if it is loaded.
    """
    users = _attribute(SYSFS / "refcnt")
    parameters = _parameters()
    abi, denied = _ask_abi()
    may = access()
    return Status(
        loaded=SYSFS.exists(),
        device=may is not None,
        denied=denied,
        access=str(may) if may else None,
        version=_attribute(SYSFS / "version"),
        abi=abi,
        users=int(users) if users is not None else None,
        parameters=parameters,
    )
