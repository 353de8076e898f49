# SPDX-License-Identifier: MIT
"""Programs that take their time: outputs in files, nothing left running."""

import subprocess
import time
from pathlib import Path

import pytest

from kfiber.vm import process
from kfiber.vm.process import run


def nothing():
    return ""


def alive(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def test_outputs_and_status(tmp_path):
    words = ["sh", "-c", "echo said; echo complained >&2; exit 3"]
    out, error = tmp_path / "out", tmp_path / "error"
    assert run(words, 60, out=out, error=error, progress=nothing) == 3
    assert (out.read_text(), error.read_text()) == ("said\n", "complained\n")


def test_one_file_for_both(tmp_path):
    words = ["sh", "-c", "echo said; echo complained >&2"]
    assert run(words, 60, out=tmp_path / "out", progress=nothing) == 0
    assert (tmp_path / "out").read_text() == "said\ncomplained\n"


def test_what_it_started_ends_with_it_when_it_is_late(tmp_path):
    # The shell waits for its child, which would outlive it.
    words = ["sh", "-c", "sleep 1000 & echo $!; wait"]
    with pytest.raises(subprocess.TimeoutExpired):
        run(words, 10, out=tmp_path / "out", progress=nothing)
    child = (tmp_path / "out").read_text().strip()
    deadline = time.monotonic() + 30
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_progress_on_a_terminal_is_shown_all_the_time(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(process, "fleeting", lambda: True)
    monkeypatch.setattr(process, "show", shown.append)
    run(["sleep", "5"], 60, out=tmp_path / "out", progress=lambda: "7 files compiled")
    assert set(shown) == {"7 files compiled"}


def test_progress_in_a_file_is_a_line_now_and_then(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(process, "_LINE_SECONDS", 0.5)
    run(["sleep", "5"], 60, out=tmp_path / "out", progress=lambda: "7 files compiled")
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert set(lines) == {"kfiber: 7 files compiled after 0 min …"}
