# SPDX-License-Identifier: MIT
"""`kfiber ps` where no module is needed: what is listed, in which form, and what is left out."""

import json
import os
import pty
import subprocess
import sys
from dataclasses import replace

import pytest

from kfiber import proc, render, table
from kfiber.cli import main
from samples import FIBER_FILE

FIBER = proc.parse(6526, 3, FIBER_FILE)


@pytest.mark.parametrize(("form", "text"), [((), None), (("--json",), "[]\n")])
@pytest.mark.parametrize("pids", [(), ("1",)])
def test_no_fibers_are_an_empty_list(form, text, pids, monkeypatch, capsys):
    monkeypatch.setattr("kfiber.proc.all_fibers", lambda report: [])
    monkeypatch.setattr("kfiber.proc.fibers", lambda pid, **options: [])
    assert main(["ps", *form, *pids]) == 0
    out, err = capsys.readouterr()
    assert (out == text if text else out.split()[:2] == ["PID", "FIBER"], err) == (True, "")


def test_one_bad_pid_does_not_hide_the_others(command, program):
    done = command("ps", "4194304", program, "-p", program)
    assert done.returncode == 1
    assert done.stdout.count("spinner") == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("kfiber: cannot look at process 4194304: ")


def test_a_table_that_cannot_be_read_is_told(monkeypatch, capsys):
    def fibers(pid, **options):
        if pid == 7:
            raise table.VersionError("process 7 has status table version 9.0; hint: x")
        return [FIBER]

    monkeypatch.setattr("kfiber.proc.fibers", fibers)
    monkeypatch.setattr("kfiber.proc.processes", lambda **options: [7, 6526])
    for pids in ([], ["7", "6526"]):
        assert main(["ps", *pids]) == 1
        out, err = capsys.readouterr()
        assert "cell 17" in out
        assert "process 7 has status table version 9.0" in err


def test_each_process_has_its_command(command, program):
    columns = command("ps").stdout.splitlines()[0].split()
    assert columns[:3] == ["PID", "COMMAND", "FIBER"]
    lines = [line.split() for line in command("ps").stdout.splitlines()]
    assert {line[1] for line in lines if line[0] == str(program)} == {proc.command(program)}


def test_the_order_is_chosen(command, program):
    def names(key):
        return [
            each["name"]
            for each in json.loads(command("ps", program, "--json", "--sort", key).stdout)
        ]

    assert names("cpu")[0] == "spinner"
    assert names("name") == sorted(names("fiber"))


def test_a_pipe_is_not_cut_and_a_terminal_is(capsys, monkeypatch):
    long = replace(FIBER, name="n" * 500)
    monkeypatch.setattr("kfiber.proc.fibers", lambda pid, **options: [long])
    main(["ps", "6526"])
    assert "n" * 500 in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    main(["ps", "6526"])
    assert max(map(len, capsys.readouterr().out.splitlines())) == 60


@pytest.mark.parametrize("name", ["纤程纤程", "e\u0301cole", "ﾌｧｲﾊﾞ", "plain"])
def test_wide_characters_keep_columns_aligned(name):
    text = render.table(
        [replace(FIBER, name="x"), replace(FIBER, name="y", pid=7)],
        commands={6526: name, 7: "sh"},
    )
    head, first, second = text.splitlines()
    before = [
        render.cells(line[: line.rindex(end)])
        for line, end in ((head, "NAME"), (first, "x"), (second, "y"))
    ]
    assert len(set(before)) == 1
    cut = render.table([replace(FIBER, name=name * 50)], width=70)
    assert max(map(render.cells, cut.splitlines())) in (69, 70)


def test_a_terminal_that_knows_ascii_only(program):
    """Names of fibers are anything."""
    controller, terminal = pty.openpty()
    code = "import kfiber.cli, kfiber.proc as p, dataclasses as d, sys; f = p.fibers;"
    code += "p.fibers = lambda pid, **o: [d.replace(x, name='\\u7ea4\\udcff') for x in f(pid)];"
    code += f"sys.exit(kfiber.cli.main(['ps', '{program}']))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=terminal, capture_output=True, text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    os.close(controller)
    os.close(terminal)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u7ea4" in done.stdout
