# SPDX-License-Identifier: MIT
"""tools/bootstrap.py: what it asks for and when it does nothing."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "bootstrap.py"


@pytest.fixture
def bootstrap(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "stamp")
    return module


def need(bootstrap, *packages):
    return bootstrap.Need(packages, lambda: False)


def test_nothing_is_done_when_all_is_there(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap, "missing", list)
    monkeypatch.setattr(bootstrap, "make_venv", lambda: pytest.fail("made again"))
    bootstrap.STAMP.parent.mkdir()
    bootstrap.STAMP.write_text(bootstrap.fingerprint())
    bootstrap.main()


def test_without_root_and_sudo_the_command_is_named(bootstrap, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None if name == "sudo" else name)
    with pytest.raises(SystemExit, match="mend: as root, apt-get install qemu gcc"):
        bootstrap.install_packages([need(bootstrap, "qemu"), need(bootstrap, "gcc")])


def test_a_no_installs_nothing(bootstrap, monkeypatch):
    monkeypatch.delenv("YES", raising=False)
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    monkeypatch.setattr(bootstrap, "run", lambda *arguments: pytest.fail("installed"))
    with pytest.raises(SystemExit, match="nothing was installed"):
        bootstrap.install_packages([need(bootstrap, "gcc")])


def test_what_the_release_calls_it_is_installed(bootstrap, monkeypatch):
    ran = []
    monkeypatch.setenv("YES", "1")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(bootstrap, "run", lambda words, failure: ran.append(words))
    monkeypatch.setattr(bootstrap, "available", lambda package: package == "libelf1")
    monkeypatch.setattr(bootstrap, "missing", list)
    bootstrap.install_packages([need(bootstrap, "libelf1t64", "libelf1")])
    assert ran[-1][-1] == "libelf1"
