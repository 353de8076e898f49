# SPDX-License-Identifier: MIT
"""The examples do what the documentation says of them, on each engine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
BUILD = Path(os.environ.get("KFIBER_BUILD", ROOT / "build"))

OUTPUT = {
    "first": "10\n11\n111\n",
    "threads": "packs on red\nwalks on green\narrives on blue\nfinished\n",
    "pool": "100 jobs, their sum 4950\n",
    "hold": "careless holds its thread: careless\n",
    "aio": "ALL AT ONCE\nWITHOUT A COLOUR\n",
    "pin": "suspended with the lock\nFiberPinnedError\nfinished\n",
    "frames": "job is in wait\n",
    "watch": re.compile(
        r" *PID FIBER STATE .* NAME\n"
        r" *\d+     1 running .*\n"
        r" *\d+     2 suspended .* read\n"
        r" *\d+     3 suspended .* parse\n"
        r" *\d+     4 suspended .* write\n"
        r"busiest: parse\n"
    ),
}


def run(path, engine):
    done = subprocess.run(
        [sys.executable, "-W", "error", path],
        env={**os.environ, "KFIBER_ENGINE": engine},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def check(name, engine):
    expected, output = OUTPUT[name], run(EXAMPLES / f"{name}.py", engine)
    if isinstance(expected, re.Pattern):
        assert expected.fullmatch(output)
    else:
        assert output == expected


def test_each_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(OUTPUT)


@pytest.mark.parametrize("name", OUTPUT)
def test_example(name):
    check(name, "local")


@pytest.mark.guest
@pytest.mark.parametrize("engine", ["kernel", "mapped"])
@pytest.mark.parametrize("name", OUTPUT)
def test_example_with_the_module(name, engine):
    check(name, engine)


# Of the reader's compiler: the library in C, and Windows' functions over it.
C_FLAGS = ["-std=c17", "-Wall", "-Wextra", "-pedantic", "-Werror"]
C_OUTPUT = {
    ("hello", "."): "hello, world\n",
    ("thread_local", "windows"): "1\n1\n",
    ("windows", "windows"): "1\n5\n14\n30\n55\n"
    "sum took 5 steps\nsquares took 5 steps\nnumbers took 5 steps\na thread again\n",
}


def check_c(name, folder, engine, output):
    """Compiles an example for the library of this build, as strictly as anybody does."""
    includes = [f"-I{ROOT / 'lib/include'}", f"-I{ROOT / 'lib/include' / folder}"]
    libraries = ["libfiber-windows.so"] if folder == "windows" else []
    shared = [BUILD / "lib" / folder / file for file in libraries] + [BUILD / "lib/libfiber.so"]
    paths = [f"-Wl,-rpath,{file.parent}" for file in shared]
    program = output / name
    source = EXAMPLES / f"{name}.c"
    command = ["cc", *C_FLAGS, *includes, source, *shared, *paths, "-o", program]
    subprocess.run(command, check=True)
    done = subprocess.run(
        [program],
        env={**os.environ, "KFIBER_ENGINE": engine},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, C_OUTPUT[name, folder])


def test_each_example_in_c_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.c")} == {name for name, _ in C_OUTPUT}


@pytest.mark.parametrize(("name", "folder"), C_OUTPUT)
def test_example_in_c(name, folder, tmp_path):
    check_c(name, folder, "local", tmp_path)


@pytest.mark.guest
@pytest.mark.parametrize("engine", ["kernel", "mapped"])
@pytest.mark.parametrize(("name", "folder"), C_OUTPUT)
def test_example_in_c_with_the_module(name, folder, engine, tmp_path):
    check_c(name, folder, engine, tmp_path)


def test_pages_show_the_output_of_examples():
    """Where a page runs an example in Python, and the example's output is always the same."""
    shown = set()
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        for block in re.findall(r"^```console\n(.*?)^```", page.read_text(), re.M | re.S):
            for name, output in re.findall(r"^\$ python examples/(\w+)\.py\n([^$]*)", block, re.M):
                assert output == OUTPUT[name], page
                shown.add(name)
    assert shown
