# SPDX-License-Identifier: MIT
"""The command `kfiber`: help, status and streams of its verbs."""

import json
import subprocess
import sys

import pytest

from kfiber import module
from kfiber.cli import VERBS, main


def kfiber(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "kfiber", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        **options,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb_shows_examples(verb):
    run = kfiber(verb, "--help")
    assert run.returncode == 0
    assert "examples:" in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 80


def test_the_version_is_printed():
    assert kfiber("--version").stdout == "kfiber 0.1.0\n"


def test_an_error_is_one_line_and_a_status(capsys):
    assert main(["watch", "4194304"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "kfiber: cannot look at process 4194304: there is none; "
        "hint: kfiber ps lists those with fibers\n"
    )


def test_a_closed_pipe_is_no_crash():
    run = subprocess.run(
        f"{sys.executable} -m kfiber doctor | true",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stderr == ""


def test_doctor_gives_a_hint_for_all_that_is_not_well():
    found = json.loads(kfiber("doctor", "--json").stdout)
    assert {finding["part"] for finding in found} >= {"virtual machine", "this kernel"}
    assert all(finding["hint"] for finding in found if not finding["ok"])


def test_doctor_without_qemu_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kfiber.cli.doctor._path", lambda: str(tmp_path))
    assert main(["doctor"]) == 1
    assert "hint: apt-get install qemu-system-x86\n" in capsys.readouterr().out


def test_doctor_explains_a_device_that_may_not_be_opened(capsys, monkeypatch):
    status = module.Status(True, True, True, None, "0.1.0", None, 0, {})
    monkeypatch.setattr(module, "status", lambda: status)
    monkeypatch.setattr(module, "access", lambda: module.Access(0o660, "fiber"))
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    (number,) = [at for at, line in enumerate(lines) if "you may not open /dev/fiber" in line]
    assert "permission denied" in lines[number]
    assert "mode 0660 and group fiber" in lines[number]
    assert lines[number + 1] == (
        "     hint: as root: usermod -aG fiber USER, then USER logs in again"
    )


def test_loading_says_who_may_use_the_device(capsys, monkeypatch):
    done = []
    monkeypatch.setattr(module, "build", lambda: "fiber.ko")
    monkeypatch.setattr(module, "load", lambda path, parameters: done.append((path, parameters)))
    monkeypatch.setattr(module, "group_id", lambda name: 7)

    def share(group, mode):
        done.append((group, mode))
        return module.Access(0o660, group)

    monkeypatch.setattr(module, "share", share)
    assert main(["module", "load", "--group", "dev", "--mode", "660", "lookup=hash"]) == 0
    assert done == [("fiber.ko", {"lookup": "hash"}), ("dev", 0o660)]
    assert capsys.readouterr().out == (
        "loaded; /dev/fiber has mode 0660 and group dev: "
        "root and the members of group dev may use it\n"
        "hint: for another user, as root: usermod -aG dev USER, then USER logs in again\n"
    )


def test_no_colour_in_a_pipe():
    assert "\x1b" not in kfiber("doctor").stdout


def test_status_is_json_too():
    run = kfiber("module", "status", "--json")
    status = json.loads(run.stdout)
    assert run.returncode == (0 if status["usable"] else 1)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["ps"], ["ps", "--json"], ["doctor"]])
@pytest.mark.parametrize("output", [">/dev/full", ">&-", ">&- 2>&-", "| true"])
def test_no_output_makes_a_traceback(words, output, program):
    if words[0] == "ps":
        # Without fibers there would be nothing to write.
        words = [*words, str(program)]
    run = subprocess.run(
        ["sh", "-c", f'"$@" {output}', "sh", sys.executable, "-m", "kfiber", *words],
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr
    if output == ">/dev/full":
        assert run.returncode == 1
        assert "kfiber: output: No space left on device" in run.stderr
