# SPDX-License-Identifier: MIT
"""Completions and man pages, which are made from the parsers."""

import shutil
import subprocess
import sys

import man
import pytest

from kfiber.cli import VERBS, parser


def test_bash_completes_verbs_and_options(command, tmp_path):
    pytest.importorskip("shtab", reason="pip install 'kfiber[tools]'")
    script = tmp_path / "kfiber"
    script.write_text(command("completion", "bash").stdout)
    words = (
        "source $0; COMP_WORDS=(kfiber {}); COMP_CWORD={}; _shtab_kfiber; echo ${{COMPREPLY[@]}}"
    )
    for typed, found in (("st", "stacks"), ("stacks --gr", "--group"), ("vm r", "run")):
        line = words.format(typed, len(typed.split()))
        done = subprocess.run(
            ["bash", "-c", line, script], capture_output=True, text=True, timeout=120
        )
        assert done.stdout.split() == [found], done.stderr


def test_without_shtab_it_is_told(monkeypatch, capsys):
    from kfiber.cli import main

    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert capsys.readouterr().err.endswith("; hint: pip install 'kfiber[tools]'\n")


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff")
def test_man_pages_are_well_formed_and_complete():
    pages = {each.prog: (each, man.page(each)) for each in man.parsers(parser())}
    assert {f"kfiber {verb}" for verb in VERBS} <= pages.keys()
    for each, text in pages.values():
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Kutf8", "-Tascii", "-P-cbou"],
            input=text,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        for action in each._actions:
            for name in action.option_strings:
                assert name in done.stdout
        for line in (each.epilog or "").splitlines():
            assert line.strip() in done.stdout
