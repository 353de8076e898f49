# SPDX-License-Identifier: MIT
"""The kernel that checks itself: built from the distribution's source, with debug.config.

kernels/debug-1a2b3c4d -> 6.1.192-debug-1a2b3c4d   by the fingerprint of debug.config
kernels/6.1.192-debug-1a2b3c4d/
    bzImage                                        the image
    lib/modules/RELEASE                            its modules
    build                                          what building modules needs of the tree
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from kfiber import hint
from kfiber.cache import cache, locked
from kfiber.vm import source
from kfiber.vm.errors import MISSING, VmError
from kfiber.vm.kernel import Kernel
from kfiber.vm.process import run
from kfiber.vm.progress import say

CONFIG = Path(__file__).with_name("debug.config")

# 19 minutes of processor time, which took 47 on two processors that others used as well.
_BUILD_SECONDS = 6 * 3600.0
# As many as debug.config has make compile, tools included.
_FILES = 2000
_TOOLS = ("bc", "bison", "flex", "gcc", "make", "perl", "tar", "xz")
_PACKAGES = ("bc", "bison", "flex", "gcc", "libelf-dev", "make", "perl", "tar", "xz-utils")
# What `make M=...` reads besides scripts, tools and Makefiles.
_KEPT = ("*.h", "Makefile*", "Kbuild*", "Kconfig*", "*.lds", "*.S", "Module.symvers")


def get() -> Kernel:
    """The debug kernel, from the cache, else built. VmError: it cannot be."""
    fingerprint = hashlib.sha256(CONFIG.read_bytes()).hexdigest()[:8]
    link = cache() / "kernels" / f"debug-{fingerprint}"
    if not link.exists():
        with locked(link.parent / ".debug-lock", _say_wait):
            if not link.exists():
                _make(link)
    directory = link.resolve()
    return Kernel(
        release=directory.name,
        image=directory / "bzImage",
        modules=directory / "lib/modules" / directory.name,
        build=directory / "build",
    )


def _say_wait() -> None:
    say("waiting for another kfiber that builds the debug kernel")


def _make(link: Path) -> None:
    """Build it beside `link`, and let that name it once it is whole."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    # objtool is built with it.
    if not Path("/usr/include/libelf.h").exists():
        missing.append("libelf.h")
    if missing:
        raise VmError(
            f"cannot build the debug kernel: {', '.join(missing)} cannot be found; "
            f"hint: {hint.install(*_PACKAGES)}",
            status=MISSING,
        )
    # Of one that was killed: we have the lock, so nobody is at it.
    for stale in link.parent.glob(".build-*"):
        shutil.rmtree(stale)
    archive = source.archive()
    with tempfile.TemporaryDirectory(prefix=".build-", dir=link.parent) as name:
        scratch = Path(name)
        tree = scratch / "build"
        tree.mkdir()
        say("unpacking Linux's source")
        _run(["tar", "-xf", str(archive), "-C", str(tree), "--strip-components=1"], scratch)
        release = _configure(tree, scratch, link.name)
        processors = os.cpu_count() or 1
        say(
            f"building Linux {release}, once: 20 minutes of a processor, of which "
            f"there are {processors}; 2.2 GB meanwhile, 0.3 GB kept"
        )
        # Warnings of a newer compiler are not ours to correct.
        _run(["make", f"-j{processors}", "bzImage", "modules"], scratch, cwd=tree)
        _run(["make", f"INSTALL_MOD_PATH={scratch}", "modules_install"], scratch, cwd=tree)
        # As it is: QEMU starts unpacked kernels at an entry of theirs that KASAN does not survive.
        (tree / "arch/x86/boot/bzImage").rename(scratch / "bzImage")
        _strip(tree)
        for leftover in ("build", "source"):
            (scratch / "lib/modules" / release / leftover).unlink(missing_ok=True)
        final = link.parent / release
        if not final.exists():
            final.mkdir()
            for part in ("build", "lib", "bzImage"):
                (scratch / part).rename(final / part)
        new_link = scratch / "link"
        new_link.symlink_to(release)
        new_link.rename(link)


def _configure(tree: Path, scratch: Path, suffix: str) -> str:
    """Configure `tree` and return its release. VmError: an option of debug.config did not take."""
    wanted = CONFIG.read_text()
    (tree / "kernel/configs/debug-kfiber.config").write_text(wanted)
    # A file that starts with "localversion" ends the release.
    (tree / "localversion-kfiber").write_text(f"-{suffix}\n")
    _run(["make", "defconfig", "kvm_guest.config", "debug-kfiber.config"], scratch, cwd=tree)
    got = set((tree / ".config").read_text().splitlines())
    lost = [line for line in wanted.splitlines() if line.startswith("CONFIG_") and line not in got]
    # What is off is a comment there, or not there at all.
    lost = [line for line in lost if not line.endswith("=n")]
    if lost:
        raise VmError(
            f"this kernel has no {', '.join(lost)}; hint: correct {CONFIG}", status=MISSING
        )
    _run(["make", "-s", "kernelrelease"], scratch, cwd=tree)
    return (scratch / "out").read_text().strip()


def _strip(tree: Path) -> None:
    """Remove what building modules does not need: two gigabytes."""
    for path in sorted(tree.rglob("*"), reverse=True):
        inside = path.relative_to(tree)
        if inside.parts[0] in ("scripts", "tools") or path.is_dir():
            continue
        if inside.parts[:2] == ("include", "config") or inside.name in (
            ".config",
            "Module.symvers",
        ):
            continue
        # Half a gigabyte of graphics cards' registers. Debian's headers do not have these either.
        private = inside.parts[0] in ("drivers", "sound") and inside.suffix == ".h"
        if private or path.is_symlink() or not any(inside.match(pattern) for pattern in _KEPT):
            path.unlink()


def _run(argv: list[str], scratch: Path, *, cwd: Path | None = None) -> None:
    """Runs a step, with progress. VmError: it failed; its output is kept in the cache's log."""
    out = scratch / "out"
    try:
        status = run(argv, _BUILD_SECONDS, out=out, cwd=cwd, progress=_counter(out))
        why = f"status {status}"
    except subprocess.TimeoutExpired:
        status, why = 1, f"not done within {_BUILD_SECONDS:.0f} s"
    if status:
        log = cache() / "log" / "debug-kernel.log"
        log.parent.mkdir(exist_ok=True)
        shutil.copyfile(out, log)
        raise VmError(
            f"`{shlex.join(argv[:3])}` failed ({why}) while the debug kernel was built; "
            f"hint: the end of {log} says what is missing",
            status=MISSING,
        )


def _counter(out: Path) -> Callable[[], str]:
    """Says how many files have been compiled, by what make says in `out`."""

    def count() -> str:
        files = len(re.findall(rb"^  (?:CC|AS) ", out.read_bytes(), re.MULTILINE))
        return f"{files} of about {_FILES} files compiled" if files else ""

    return count
