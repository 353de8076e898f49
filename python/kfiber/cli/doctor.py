# SPDX-License-Identifier: MIT
"""`kfiber doctor`: what this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kfiber import module
from kfiber.errors import KfiberError
from kfiber.hint import as_root, install
from kfiber.vm.qemu import Machine

EPILOG = """\
A virtual machine (kfiber vm run) needs the lines under "virtual machine" only;
the module in this kernel (kfiber module load) those under "this kernel".
Exits with 0 if at least one of the two is complete, else with 1.

examples:
  kfiber doctor
  kfiber doctor --json | jq '.[] | select(.ok | not).hint'
"""

VM = "virtual machine"
HERE = "this kernel"
NOTE = "good to know"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it is all right, and what to do if not."""

    part: str
    name: str
    ok: bool
    says: str
    hint: str | None = None


def _path() -> str:
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def _tool(part: str, name: str, package: str) -> Finding:
    found = shutil.which(name, path=_path())
    advice = None if found else install(package)
    return Finding(part, name, found is not None, found or "not installed", advice)


def _headers() -> Finding:
    try:
        return Finding(HERE, "headers", True, str(module.running_build_dir()))
    except KfiberError as error:
        says, _, hint = str(error).partition("; hint: ")
        return Finding(HERE, "headers", False, says, hint)


def _loaded() -> Finding:
    status = module.status()
    name = "module"
    if status.usable:
        says = f"loaded, version {status.version}, it reports ABI {status.abi}"
        return Finding(HERE, name, True, says)
    if status.denied:
        may = module.access()
        says = f"loaded, but you may not open {module.DEVICE}: permission denied; {may}"
        hint = (may.hint if may else None) or f"look at the folders above {module.DEVICE}"
        return Finding(HERE, name, False, says, f"as root: {hint}")
    if status.loaded:
        return Finding(HERE, name, False, f"loaded, but {module.DEVICE} does not answer", "dmesg")
    return Finding(HERE, name, False, "not loaded", as_root("module", "load"))


def _word(path: Path) -> str | None:
    """The chosen one of the words in a file, as `a [b] c`; None without the file."""
    try:
        text = path.read_text()
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or text.strip()


def _signatures() -> Finding:
    lockdown = _word(Path("/sys/kernel/security/lockdown"))
    enforced = _word(Path("/sys/module/module/parameters/sig_enforce"))
    strict = (lockdown or "none") != "none" or enforced == "Y"
    says = f"lockdown: {lockdown or 'not there'}, signatures required: {enforced or 'not there'}"
    hint = "sign fiber.ko with a key that this machine trusts: docs/howto/secureboot.md"
    return Finding(HERE, "signatures", not strict, says, hint if strict else None)


def _busybox() -> Finding:
    path = Path("/bin/busybox")
    ok = path.exists()
    hint = None if ok else install("busybox-static")
    return Finding(VM, "busybox", ok, str(path) if ok else "not installed", hint)


def _acceleration() -> Finding:
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK)
    says = "/dev/kvm can be opened, a probe decides" if usable else "none, software emulation"
    return Finding(NOTE, "acceleration", True, says)


def _memory() -> Finding:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = next(int(words[1]) for words in lines if words[0] == "MemAvailable:") // 1024
    enough = free >= Machine.memory
    says = f"{free} MB free, a guest takes up to {Machine.memory}"
    hint = None if enough else f"kfiber vm run --memory {max(free // 2, 256)}"
    return Finding(NOTE, "memory", enough, says, hint)


def _fibers() -> Finding:
    """Whether this Python can run fibers itself."""
    try:
        import kfiber

        kfiber.engine  # noqa: B018 - loads the extension
        from kfiber._native import swap
    except ImportError as error:
        says, _, hint = str(error).partition("; hint: ")
        return Finding(NOTE, "fibers", False, says, hint or "make build, or pip install .")
    return Finding(NOTE, "fibers", True, f"thread states are swapped the {swap()} way")


def _greenlet() -> Finding:
    """What `import greenlet` gets in this Python, with these environment variables."""
    try:
        from kfiber import greenlet
    except ImportError:
        return Finding(NOTE, "greenlet", True, "greenlet itself")
    if greenlet.installed():
        return Finding(NOTE, "greenlet", True, "kfiber.greenlet: its greenlets are fibers")
    if os.environ.get(greenlet.VARIABLE, "0") != "0":
        says = f"greenlet itself, although {greenlet.VARIABLE} is set"
        return Finding(NOTE, "greenlet", False, says, "pip install kfiber in this Python")
    says = f"greenlet itself; {greenlet.VARIABLE}=1 makes its greenlets fibers"
    return Finding(NOTE, "greenlet", True, says)


def findings() -> Iterator[Finding]:
    """Looks, and changes nothing."""
    yield _tool(VM, "qemu-system-x86_64", "qemu-system-x86")
    yield _busybox()
    yield _tool(VM, "make", "make")
    yield _tool(VM, "gcc", "gcc")
    yield _tool(VM, "dpkg", "dpkg")
    yield _tool(VM, "apt-get", "apt")
    yield _tool(HERE, "insmod", "kmod")
    yield _headers()
    yield _signatures()
    yield _loaded()
    yield _acceleration()
    yield _memory()
    yield Finding(NOTE, "kernel", True, f"{platform.release()} on {platform.machine()}")
    yield Finding(NOTE, "python", True, platform.python_version())
    yield _fibers()
    yield _greenlet()


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what this machine can do, and how to get the rest",
        description="Looks at what this machine can do. Changes nothing.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(main=main)


def _complete(found: list[Finding], part: str) -> bool:
    return all(finding.ok for finding in found if finding.part == part)


def _print(found: list[Finding]) -> None:
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    part = None
    for finding in found:
        if finding.part != part:
            part = finding.part
            print(f"{part}:")
        mark = "ok" if finding.ok else "--"
        if color:
            mark = f"\033[{32 if finding.ok else 31}m{mark}\033[0m"
        print(f"  {mark} {finding.name}: {finding.says}")
        if finding.hint:
            print(f"     hint: {finding.hint}")


def main(args: argparse.Namespace) -> int:
    """Prints the findings; 0 if fibers can run somewhere, else 1."""
    found = list(findings())
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in found], indent=2))
    else:
        _print(found)
    return 0 if _complete(found, VM) or _complete(found, HERE) else 1
