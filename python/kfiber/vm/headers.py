# SPDX-License-Identifier: MIT
"""Debian's packages of kernel headers, made to work where they are unpacked.

They name each other by absolute paths, ask for the compiler that built the kernel, and have build
tools that are linked with the C library of their own release, which may be newer than ours.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

LIBRARIES = re.compile(r"(?:lib[a-z0-9.+-]+|zlib1g)")
"""Packages of shared libraries, among what a package depends on."""

SYSROOT = "sysroot"
"""Where the libraries of the build tools are unpacked, in the kernel's directory."""

_LIBRARY_FOLDER = "usr/lib/x86_64-linux-gnu"


def relocate(tree: Path) -> None:
    """Make the packages unpacked in `tree` work from where they are, also after a rename."""
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
            makefile.write_text(_relative(makefile.read_text()))
        variables = headers / ".kernelvariables"
        if variables.exists():
            variables.write_text(_any_compiler(variables.read_text()))
        # Type information for modules would need the kernel's own, which no package has here.
        for config in (headers / "include/config").glob("auto.conf*"):
            config.write_text(
                re.sub(r"(?m)^CONFIG_DEBUG_INFO_BTF_MODULES=y\n", "", config.read_text())
            )


def _relative(makefile: str) -> str:
    """The text of a headers' Makefile, by where it is and not by where it would be installed."""
    here = "$(dir $(realpath $(lastword $(MAKEFILE_LIST))))"
    text = re.sub(r"(?m)^KBUILD_OUTPUT\s*:?=\s*/usr/src/.*$", f"KBUILD_OUTPUT := {here}", makefile)
    return re.sub(r"(?m)^include /usr/src/", f"include {here}../", text)


def _any_compiler(variables: str) -> str:
    """The text of .kernelvariables, with another gcc where the kernel's own is not installed.

    Before gcc 14 there is no -fmin-function-alignment; the kernel's Makefile knows what to do
    without it, but asks the configuration and not the compiler.
    """
    wanted = re.search(r"(?m)^CC\s*[:?]?=.*\b(gcc-\d+)\s*$", variables)
    if wanted is None:
        return variables
    return (
        f"{variables.rstrip()}\n"
        f"ifeq ($(shell command -v $(CROSS_COMPILE){wanted[1]} 2>/dev/null),)\n"
        "CC = gcc\n"
        "override CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT :=\n"
        "endif\n"
    )


def needs_newer_libraries(depends: str) -> bool:
    """Whether a package that depends on `depends` needs a newer C library than this machine's."""
    wanted = re.search(r"\blibc6 \(>= (\d+)\.(\d+)", depends)
    if wanted is None:
        return False
    try:
        ours = re.search(r"(\d+)\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (OSError, ValueError):
        ours = None
    # Another C library than glibc runs none of Debian's programs.
    return ours is None or (int(ours[1]), int(ours[2])) < (int(wanted[1]), int(wanted[2]))


def wrap_tools(tree: Path) -> None:
    """Have the build tools in `tree` start with the C library in its sysroot.

    Each program NAME becomes NAME.elf, and NAME a script. The shell resolves "../" through the
    links of the headers, so that the scripts also work when `tree` is renamed.
    """
    for folder in (tree / "usr/lib").glob("linux-kbuild-*"):
        for program in sorted(folder.rglob("*")):
            if program.is_symlink() or not _is_program(program):
                continue
            root = "/".join([".."] * len(program.parent.relative_to(tree).parts))
            libraries = f'"${{0%/*}}"/{root}/{SYSROOT}/{_LIBRARY_FOLDER}'
            elf = program.with_name(f"{program.name}.elf")
            program.rename(elf)
            program.write_text(
                "#!/bin/sh\n"
                f"exec {libraries}/ld-linux-x86-64.so.2 --library-path {libraries} "
                f'--argv0 "$0" "$0.elf" "$@"\n'
            )
            program.chmod(0o755)


def _is_program(path: Path) -> bool:
    """Whether `path` is an executable for a dynamic loader."""
    if not path.is_file() or not os.access(path, os.X_OK):
        return False
    with path.open("rb") as file:
        start = file.read(4096)
    return start.startswith(b"\x7fELF") and b"/ld-linux" in start
