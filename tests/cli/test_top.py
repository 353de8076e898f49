# SPDX-License-Identifier: MIT
"""`kfiber top` on a living program: as text, as JSON, and on a terminal."""

import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest

KFIBER = [sys.executable, "-m", "kfiber"]
LIMIT = 120


def test_the_one_that_holds_the_thread_has_the_time(command, program):
    done = command("top", program, "--json", "--count", 2, "--interval", "2s")
    assert done.returncode == 0, done.stderr
    looks = [json.loads(line)["rates"] for line in done.stdout.splitlines()]
    assert len(looks) == 2
    for rates in looks:
        first = rates[0]
        assert first["name"] == "spinner"
        assert first["share"] > sum(rate["share"] for rate in rates[1:])


def test_names_are_added_up(command, program):
    done = command(
        "top", program, "--once", "--by", "name", "--interval", "500ms", "--sort", "fiber"
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["PID", "COUNT", "STATE", "%", "TIME", "SW/S", "LONGEST", "HELD", "NAME"]
    assert {line[-1]: line[1] for line in lines[1:]}["nimble"] == "2"


def test_only_what_matches_is_listed(command, program):
    lines = command(
        "top", program, "--once", "--match", "imb", "--interval", "100ms"
    ).stdout.splitlines()
    assert len(lines) == 3
    assert all(line.endswith("nimble") for line in lines[1:])


def test_a_process_that_is_not_there(command):
    done = command("top", "--once", 2**22)
    assert done.returncode == 1
    assert done.stderr.startswith("kfiber: cannot look at process ")


def test_it_ends_with_the_process(program):
    with subprocess.Popen(
        [*KFIBER, "top", "--batch", "--interval", "100ms", str(program)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline()
        os.kill(program, 9)
        _, errors = process.communicate(timeout=LIMIT)
        assert (process.returncode, errors) == (0, "")


class Terminal:
    """A program on a terminal of 100 columns and 30 lines."""

    def __init__(self, words):
        self.pid, self.file = pty.fork()
        if not self.pid:
            os.environ.update(TERM="xterm-256color", COLUMNS="100", LINES="30")
            os.execv(words[0], words)
        self.seen = ""

    def wait_for(self, text):
        """Until it has written that since the last call."""
        end = time.monotonic() + LIMIT
        while text not in self.seen:
            assert time.monotonic() < end, self.seen[-2000:]
            if select.select([self.file], [], [], 1)[0]:
                self.seen += os.read(self.file, 65536).decode(errors="replace")
        self.seen = ""

    def type(self, keys):
        os.write(self.file, keys.encode())

    def end(self):
        """Its status, after reading the rest."""
        while True:
            try:
                if not os.read(self.file, 65536):
                    break
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        os.close(self.file)
        return os.waitstatus_to_exitcode(status)


def test_on_a_terminal(program):
    pytest.importorskip("textual", reason="pip install 'kfiber[tools]'")
    terminal = Terminal([*KFIBER, "top", "--interval", "200ms", str(program)])
    terminal.wait_for("spinner")
    terminal.type("s")
    terminal.wait_for("sorted by time")
    terminal.type(" ")
    terminal.wait_for("paused")
    terminal.type("\r")
    terminal.wait_for("stack_size")
    terminal.type("\r")
    terminal.type("s")
    terminal.wait_for("sorted by switches")
    terminal.type("q")
    assert terminal.end() == 0
