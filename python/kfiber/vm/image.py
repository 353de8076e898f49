# SPDX-License-Identifier: MIT
"""The initial file system that a guest starts from: a cpio archive in memory."""

from __future__ import annotations

import lzma
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from kfiber import hint
from kfiber.vm.errors import MISSING, VmError
from kfiber.vm.kernel import Kernel

# What Debian builds as modules and the guest needs before it has its root.
_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
# What init.sh, session.sh and the command's script use, besides what is built into the shell.
_APPLETS = (
    *("cat", "chmod", "cp", "dmesg", "env", "grep", "hostname", "ifconfig", "insmod", "ln"),
    *("mkdir", "mkfifo", "mount", "mv", "poweroff", "rmmod", "sed", "setsid", "sh", "sleep"),
    "switch_root",
)
_SCRIPTS = Path(__file__).parent


class Cpio:
    """An archive in the kernel's format ("newc"), owned by root."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0
        self._directories: set[str] = set()

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Add the directory `name`, and those above it, unless it is there."""
        above, _, _ = name.rpartition("/")
        if above:
            self.directory(above)
        if name not in self._directories:
            self._directories.add(name)
            self._entry(name, stat.S_IFDIR | mode, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file and the directories above it."""
        above, _, _ = name.rpartition("/")
        if above:
            self.directory(above)
        self._entry(name, stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link; its directory must be there."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> bytes:
        """The whole archive."""
        self._entry("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        # Name and content each end on a multiple of four, counted from the header.
        self._parts += [header, encoded, bytes(-(len(header) + len(encoded)) % 4)]
        self._parts += [content, bytes(-len(content) % 4)]


def read_module(path: Path) -> bytes:
    """The ELF content of a module file, which newer kernels' packages have compressed."""
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def depends(module: bytes) -> list[str]:
    """The names of the modules that `module` says it needs."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    names = found[1].decode() if found else ""
    return [_canonical(name) for name in names.split(",") if name]


def module_chain(modules: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """The modules of `wanted` and what they need, in the order to load them: name to ELF.

    `modules` is lib/modules/RELEASE of a package, where depmod has never run: the modules' own
    word is taken. What is built into the kernel is left out. Raises VmError if one is missing.
    """
    paths = {
        _canonical(path.name.partition(".")[0]): path
        for path in (modules / "kernel").rglob("*.ko*")
    }
    builtin_list = modules / "modules.builtin"
    builtin = set()
    if builtin_list.exists():
        lines = builtin_list.read_text().splitlines()
        builtin = {_canonical(Path(line).name.partition(".")[0]) for line in lines}
    chain: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in chain or name in builtin:
            return
        if name not in paths:
            raise VmError(
                f"the kernel in {modules} has no module {name}; "
                f"hint: rm -r {modules.parents[2]}, and it is fetched again",
                status=MISSING,
            )
        content = read_module(paths[name])
        for needed in depends(content):
            add(needed)
        chain[name] = content

    for name in wanted:
        add(_canonical(name))
    return chain


def _canonical(name: str) -> str:
    return name.replace("-", "_")


def initramfs(kernel: Kernel, files: Mapping[str, bytes]) -> bytes:
    """What `kernel` starts from: init.sh as PID 1, busybox, modules, and `files` in /kfiber.

    Raises VmError if busybox is missing or needs libraries.
    """
    archive = Cpio()
    for name in ("bin", "dev", "proc", "sys", "lower", "writable", "root", "kfiber"):
        archive.directory(name)
    _add_busybox(archive)
    archive.file("init", (_SCRIPTS / "init.sh").read_bytes(), 0o755)
    for number, (name, content) in enumerate(module_chain(kernel.modules, _MODULES).items()):
        archive.file(f"modules/{number:02}-{name}.ko", content)
    archive.file("kfiber/session", (_SCRIPTS / "session.sh").read_bytes(), 0o755)
    for name, content in files.items():
        archive.file(f"kfiber/{name}", content)
    return archive.finish()


PROBE_TOKEN = b"kfiber: probe reached its end"
"""What a guest with probe_image() says on its console before it ends."""


def probe_image() -> bytes:
    """The smallest initial file system that shows that a guest runs programs."""
    archive = Cpio()
    archive.directory("dev")
    _add_busybox(archive)
    says = f"mount -t devtmpfs devtmpfs /dev; echo {PROBE_TOKEN.decode()} >/dev/console"
    archive.file("init", f"#!/bin/busybox sh\n{says}\npoweroff -f\n".encode(), 0o755)
    return archive.finish()


def _add_busybox(archive: Cpio) -> None:
    path = shutil.which("busybox", path="/usr/bin:/bin")
    content = Path(path).read_bytes() if path else b""
    # The guest starts without libraries: a program that names its loader is of no use there.
    if not content or b"/ld-linux" in content[:4096]:
        raise VmError(
            f"no static busybox, which starts the guest; hint: {hint.install('busybox-static')}",
            status=MISSING,
        )
    archive.file("bin/busybox", content, 0o755)
    for applet in _APPLETS:
        archive.link(f"bin/{applet}", "busybox")
