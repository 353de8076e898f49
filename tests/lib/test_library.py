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


# For tools outside the process (lib/trace.h); not for programs.
FOR_TOOLS = {"kfiber_trace"}


def test_exports_what_the_header_declares_and_nothing_else():
    listing = run("nm", "-D", "--defined-only", SHARED).splitlines()
    symbols = {fields[-1] for fields in map(str.split, listing) if fields[-2] != "A"}
    assert {symbol.partition("@@")[0] for symbol in symbols} == declared() | FOR_TOOLS


def test_exports_are_in_the_list_with_their_versions():
    text = re.sub(r"#.*", "", (ROOT / "lib" / "libfiber.map").read_text())
    listed = {
        f"{name}@@{version}"
        for version, body in re.findall(r"(FIBER_[\d.]+) \{(.*?)\}", text, re.DOTALL)
        for name in re.findall(r"\b(k?fiber_\w+);", body)
    }
    listing = run("nm", "-D", "--defined-only", SHARED).splitlines()
    assert {f[-1] for f in map(str.split, listing) if f[-2] != "A"} == listed


def test_version():
    (version,) = re.findall(r"^  version: '(.*)'", (ROOT / "meson.build").read_text(), re.MULTILINE)
    numbers = re.findall(r"#define FIBER_VERSION_\w+ (\d+)", HEADER.read_text())
    assert ".".join(numbers) == version


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
    assert visible == declared() | FOR_TOOLS


def test_bound_at_load_and_never_unloaded():
    # A lazy look-up inside fiber_switch() would take locks in a signal handler.
    flags = run("readelf", "-dW", SHARED)
    assert "BIND_NOW" in flags or re.search(r"FLAGS_1.*NOW", flags)
    assert "NODELETE" in flags


def test_stack_is_not_executable():
    (line,) = (line for line in run("readelf", "-lW", SHARED).splitlines() if "GNU_STACK" in line)
    assert line.split()[-2] == "RW"


@pytest.mark.parametrize("standard", ["c89", "c99", "c11", "c17"])
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


@pytest.mark.parametrize("standard", ["c++14", "c++17", "c++20"])
def test_header_for_cpp(standard):
    run(
        *("g++", "-x", "c++", f"-std={standard}", "-fsyntax-only", "-I", HEADER.parent),
        *("-Wall", "-Wextra", "-Wshadow", "-pedantic-errors", "-Werror"),
        HEADER.with_suffix(".hpp"),
    )


CMAKE = """\
cmake_minimum_required(VERSION 3.10)
project(program C)
find_package(libfiber 0.1 REQUIRED)
add_executable(program program.c)
target_link_libraries(program libfiber::fiber)
"""


@pytest.mark.skipif(not shutil.which("cmake"), reason="no cmake; apt install cmake")
def test_cmake_package(tmp_path):
    meson = shutil.which("meson", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    assert meson, "meson is not beside this Python"
    run(meson, "install", "-C", BUILD, "--no-rebuild", "--destdir", tmp_path)
    (package,) = tmp_path.rglob("libfiberConfig.cmake")
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    (tmp_path / "program.c").write_text(PROGRAM)
    folder = tmp_path / "build"
    run("cmake", "-S", tmp_path, "-B", folder, f"-Dlibfiber_DIR={package.parent}")
    run("cmake", "--build", folder)
    run(folder / "program")


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


# A nested function whose address is taken needs code on the stack.
NESTED = """\
#include <fiber.h>

static fiber_id_t home;

static int apply(int (*function)(int), int value)
{
	return function(value);
}

static void body(void *result)
{
	volatile int more = 40;
	int add(int value) { return value + more; }

	*(int *)result = apply(add, 2);
	fiber_switch(home);
}

int main(void)
{
	fiber_id_t fiber;
	int result = 0;

	if (fiber_convert(0, &home) || fiber_create(&fiber, body, &result, 0))
		return 1;
	fiber_switch(fiber);
	return result != 42;
}
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="nested functions are GNU C's")
def test_stacks_are_executable_where_the_program_asks(tmp_path):
    (tmp_path / "nested.c").write_text(NESTED)
    program = tmp_path / "nested"
    run(
        *("gcc", "-w", "-I", HEADER.parent, tmp_path / "nested.c", "-o", program),
        *("-z", "execstack", BUILD / "lib" / "libfiber.a", "-lpthread"),
    )
    run(program, env={**os.environ, "KFIBER_ENGINE": "local"})


@pytest.mark.skipif(not shutil.which("musl-gcc"), reason="no musl-gcc; apt install musl-tools")
def test_musl_is_refused_with_the_reason():
    # Its pthread_exit() neither unwinds nor goes back to the stack that the thread began on.
    done = subprocess.run(
        ["musl-gcc", "-D_GNU_SOURCE", "-fsyntax-only", f"-I{ROOT}", ROOT / "lib/thread_exit.c"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode and '#error "libfiber needs glibc' in done.stderr


PLUGIN = """\
#include <fiber.h>

int plug(void)
{
	return fiber_convert(0, 0);
}
"""

# The plugin is closed, and after that a thread that it has converted ends, and the process forks.
CLOSES = """\
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *path;

static void *use(void *failed)
{
	void *object = dlopen(path, RTLD_NOW);
	int (*plug)(void) = object ? (int (*)(void))dlsym(object, "plug") : 0;

	*(int *)failed = !plug || plug() || dlclose(object);
	return 0;
}

int main(int argc, char **argv)
{
	int failed = 0, status;
	pthread_t thread;
	pid_t child;

	path = argv[argc - 1];
	pthread_create(&thread, 0, use, &failed);
	pthread_join(thread, 0);
	child = fork();
	if (!child)
		_exit(0);
	waitpid(child, &status, 0);
	return failed || status;
}
"""


def test_a_plugin_with_the_static_library_stays_loaded(tmp_path):
    (tmp_path / "plugin.c").write_text(PLUGIN)
    (tmp_path / "closes.c").write_text(CLOSES)
    plugin, program = tmp_path / "plugin.so", tmp_path / "closes"
    run(
        *("gcc", "-shared", "-fPIC", "-I", HEADER.parent, tmp_path / "plugin.c", "-o", plugin),
        *(BUILD / "lib" / "libfiber.a", "-lpthread"),
    )
    run("gcc", tmp_path / "closes.c", "-o", program, "-ldl", "-lpthread")
    run(program, plugin, env={**os.environ, "KFIBER_ENGINE": "local"})
