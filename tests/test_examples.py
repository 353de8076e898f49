# SPDX-License-Identifier: MIT
"""The examples do what the documentation says of them, on each engine."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"

OUTPUT = {
    "first": "10\n11\n111\n",
    "threads": "packs on red\nwalks on green\narrives on blue\nfinished\n",
    "pool": "100 jobs, their sum 4950\n",
    "aio": "ALL AT ONCE\nWITHOUT A COLOUR\n",
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


def test_the_readme(tmp_path):
    """Its Python example, and what the comments beside its calls say."""
    text = (ROOT / "README.md").read_text()
    code = re.search(r"^    import kfiber\n(?:    .*\n|\n)*", text, re.MULTILINE)[0]
    program = tmp_path / "readme.py"
    program.write_text(textwrap.dedent(code))
    said = re.findall(r"^ *print\(.*# (.*)$", code, re.MULTILINE)
    assert said
    assert run(program, "local").splitlines() == said
