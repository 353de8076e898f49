# SPDX-License-Identifier: MIT
"""The library as a file: what it exports, how it is linked, found and included. Needs no module."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("KFIBER_BUILD", ROOT / "build"))
HEADER = ROOT / "lib" / "include" / "fiber.h"
SHARED = BUILD / "lib" / "libfiber.so"

PROGRAM = """\
#include <fiber.h>

int main(void)
{
	return fiber_set_engine("nonsense") == 0;
}
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def declared():
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    return set(re.findall(r"\b(fiber_\w+)\(", text))


def test_exports_what_the_header_declares_and_nothing_else():
    symbols = {line.split()[-1] for line in run("nm", "-D", "--defined-only", SHARED).splitlines()}
    assert symbols == declared()


def test_hidden_symbols_of_the_static_library():
    listing = run("readelf", "-sW", BUILD / "lib" / "libfiber.a")
    visible = {
        fields[7]
        for fields in map(str.split, listing.splitlines())
        if len(fields) == 8
        and fields[4] == "GLOBAL"
        and fields[5] == "DEFAULT"
        and fields[6] != "UND"
    }
    assert visible == declared()


def test_bound_at_load_and_never_unloaded():
    # A lazy look-up inside fiber_switch() would take locks in a signal handler.
    flags = run("readelf", "-dW", SHARED)
    assert "BIND_NOW" in flags or re.search(r"FLAGS_1.*NOW", flags)
    assert "NODELETE" in flags


def test_stack_is_not_executable():
    (line,) = (line for line in run("readelf", "-lW", SHARED).splitlines() if "GNU_STACK" in line)
    assert line.split()[-2] == "RW"


@pytest.mark.parametrize("standard", ["c99", "c11", "c17"])
def test_header_in_c(standard):
    run(
        *("gcc", "-x", "c", f"-std={standard}", "-fsyntax-only"),
        *("-Wall", "-Wextra", "-Wstrict-prototypes", "-pedantic-errors", "-Werror", HEADER),
    )


@pytest.mark.parametrize("standard", ["c++11", "c++17", "c++20"])
def test_header_in_cpp(standard):
    run(
        *("g++", "-x", "c++", f"-std={standard}", "-fsyntax-only"),
        *("-Wall", "-Wextra", "-pedantic-errors", "-Werror", HEADER),
    )


@pytest.mark.parametrize("static", [False, True], ids=["shared", "static"])
def test_pkg_config(tmp_path, static):
    meson = shutil.which("meson", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    assert meson, "meson is not beside this Python"
    run(meson, "install", "-C", BUILD, "--no-rebuild", "--destdir", tmp_path)
    (package,) = tmp_path.rglob("libfiber.pc")
    library = package.parents[1]
    environment = {
        **os.environ,
        "PKG_CONFIG_PATH": str(package.parent),
        "PKG_CONFIG_SYSROOT_DIR": str(tmp_path),
    }
    flags = run("pkg-config", "--cflags", "--libs", "libfiber", env=environment).split()
    if static:
        # The archive instead of the library, which lies beside it.
        for shared in library.glob("libfiber.so*"):
            shared.unlink()
    (tmp_path / "program.c").write_text(PROGRAM)
    program = tmp_path / "program"
    run("gcc", tmp_path / "program.c", "-o", program, *flags)
    run(program, env={**os.environ, "LD_LIBRARY_PATH": str(library)})
    needed = run("readelf", "-dW", program)
    assert ("libfiber.so.0" in needed) is not static
