# SPDX-License-Identifier: MIT
"""tools/demo.py: its part that needs no virtual machine."""

import os
import re
import sys
from pathlib import Path

import pytest

import demo

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def as_main_sets_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def test_a_python_programs_fibers_are_shown(capfd):
    demo.here()
    out, err = capfd.readouterr()
    assert err == ""
    pid = re.search(r"^\$ kfiber ps (\d+)$", out, re.MULTILINE)[1]
    lines = [line.split() for line in out.splitlines() if line.lstrip().startswith(f"{pid} ")]
    assert [line[1] for line in lines] == ["1", "2", "3", "4"]
    assert [line[7] for line in lines[1:]] == ["parse", "hash_password", "count"]
    assert not Path("/proc", pid).exists()


def test_a_program_that_ends_too_early_is_no_endless_wait(tmp_path, monkeypatch):
    program = tmp_path / "jobs.py"
    program.write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(demo, "JOBS", str(program))
    with pytest.raises(SystemExit, match="ended too early"), demo.jobs("local"):
        pass
