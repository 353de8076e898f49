# SPDX-License-Identifier: MIT
"""Each example in the help of each verb does what it says.

Those about the module run in one virtual machine, those of `kfiber vm` in one each, the others
here, on a program that has fibers. One that runs until it is ended gets Ctrl-C after a line.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from kfiber import module
from kfiber.cli import parser
from kfiber.vm import kernels

KFIBER = f"{sys.executable} -m kfiber"
# Of the process in the examples.
PID = "6526"
LIMIT = 600


def parsers(top):
    yield top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


def examples():
    """The lines, without what is said about them behind two blanks."""
    found = {}
    for each in parsers(parser()):
        for line in re.findall(r"^  ((?:sudo )?kfiber .*)$", each.epilog or "", re.MULTILINE):
            found[re.split(r" {2,}", line)[0]] = None
    return list(found)


def test_each_verb_has_examples():
    verbs = {line.removeprefix("sudo ").split()[1] for line in examples()}
    (choices,) = (a.choices for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert verbs == set(choices)


MODULE = [line for line in examples() if re.search("kfiber module (?!status)", line)]
MACHINE = [line for line in examples() if "kfiber vm" in line]
HERE = [line for line in examples() if line not in MODULE + MACHINE]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a line in a shell that finds this kfiber, a sudo, and what examples name."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("kfiber", f'exec {KFIBER} "$@"'), ("sudo", 'exec "$@"')):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
    for name in ("demo", "stress"):
        (tmp_path / name).write_text("#!/bin/sh\necho ran\n")
    for path in (*tools.iterdir(), tmp_path / "demo", tmp_path / "stress"):
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    def start(line):
        return subprocess.Popen(
            ["env", "--default-signal=INT", "bash", "-o", "pipefail", "-c", line],
            cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    return start


def endless(line):
    """Whether an example runs until it is ended."""
    verb = line.split()[1]
    return verb in ("export", "watch", "top") and not re.search("--(once|count)", line)


@pytest.mark.parametrize("line", HERE)
def test_here(line, run, program, tmp_path):
    if "| jq" in line and not shutil.which("jq"):
        pytest.skip("no jq")
    if line.startswith("kfiber export"):
        pytest.importorskip("prometheus_client", reason="pip install 'kfiber[tools]'")
    line = re.sub(rf"\b{PID}\b", str(program), line)
    line = line.replace("/var/lib/node_exporter", str(tmp_path)).replace("logger ", "echo logged ")
    with run(line) as process:
        if endless(line):
            if "--textfile" in line:
                while not (tmp_path / "kfiber.prom").exists():
                    assert process.poll() is None
            else:
                assert (process.stderr if "export" in line else process.stdout).readline()
            os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) in ((0, ""), (130, "")) or "doctor" in line or "status" in line
    assert "Traceback" not in err
    assert out or endless(line) or re.search("jq|>| -o ", line)


@pytest.mark.parametrize("line", MACHINE)
def test_in_a_machine(line, run):
    if kernel := re.search(r"--kernel (\S+)", line):
        kernels.get(kernel[1])
    with run(line) as process:
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert out


def test_of_the_module(run, tmp_path):
    # The guest finds it in the cache: building it there would take minutes.
    kernel = kernels.get()
    module.build(kernel.build, kernel.release)
    script = tmp_path / "script"
    lines = "grep -q ^dev: /etc/group || echo dev:x:4321: >>/etc/group\n"
    for line in MODULE:
        before = "kfiber module load" if "unload" in line else "kfiber module unload"
        lines += f"{before} >/dev/null 2>&1\n{line} >&2; echo $? '{line}'\n"
    script.write_text(lines)
    with run(f"kfiber vm run --no-module --cpus 1 -- sh {script}") as process:
        out, err = process.communicate(timeout=LIMIT)
    assert out.splitlines() == [f"0 {line}" for line in MODULE], err
