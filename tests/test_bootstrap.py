# SPDX-License-Identifier: MIT
"""tools/bootstrap.py: what it asks for and when it does nothing."""

import importlib.util
import io
import os
import shutil
import subprocess
import sys
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


def need(bootstrap, package):
    return bootstrap.Need(package, lambda: False)


def test_nothing_is_done_when_all_is_there(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap, "missing", list)
    monkeypatch.setattr(bootstrap, "make_venv", lambda: pytest.fail("made again"))
    python = bootstrap.VENV / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    bootstrap.STAMP.write_text(bootstrap.fingerprint())
    bootstrap.main()


def test_a_venv_whose_python_is_gone_is_noticed(bootstrap, monkeypatch):
    made = []
    monkeypatch.setattr(bootstrap, "missing", list)
    monkeypatch.setattr(bootstrap, "make_venv", lambda: made.append(True))
    bootstrap.STAMP.parent.mkdir()
    bootstrap.STAMP.write_text(bootstrap.fingerprint())
    bootstrap.main()
    assert made


@pytest.fixture
def commands(bootstrap, monkeypatch):
    """What make_venv() runs, with a .venv that has a Python and pip; nothing is really run."""
    python = bootstrap.VENV / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/bin/true")
    ran = []
    monkeypatch.setattr(bootstrap, "run", lambda words, failure: ran.append(words))
    return ran


def test_a_venv_that_is_there_is_kept(bootstrap, commands):
    bootstrap.make_venv()
    assert [words[1:4] for words in commands] == [["-m", "pip", "-qq"]]
    assert bootstrap.STAMP.read_text() == bootstrap.fingerprint()


@pytest.mark.parametrize("damage", ["moved", "its Python is gone"])
def test_a_venv_that_cannot_be_used_is_made_anew(bootstrap, commands, damage, monkeypatch):
    if damage == "moved":
        bootstrap.STAMP.write_text("/elsewhere/.venv\n0\n")
    else:
        (bootstrap.VENV / "bin" / "python").unlink()
        # No Python to ask for pip: venv, which did not really run, would have made it.
        none = type("Result", (), {"returncode": 0})
        monkeypatch.setattr(bootstrap.subprocess, "run", lambda *words, **options: none)
    bootstrap.make_venv()
    assert commands[0][1:4] == ["-m", "venv", "--clear"]


def test_an_interrupted_installation_is_done_again(bootstrap, commands, monkeypatch):
    def interrupted(words, failure):
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bootstrap.make_venv()
    assert not bootstrap.STAMP.exists()


def test_without_root_and_sudo_the_command_is_named(bootstrap, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None if name == "sudo" else name)
    with pytest.raises(SystemExit, match="hint: as root, apt-get install qemu gcc"):
        bootstrap.install_packages([need(bootstrap, "qemu"), need(bootstrap, "gcc")])


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("answer", ["n\n", "what?\n", ""])
def test_a_no_installs_nothing(bootstrap, monkeypatch, answer):
    monkeypatch.delenv("YES", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr(bootstrap, "run", lambda *arguments: pytest.fail("installed"))
    with pytest.raises(SystemExit, match="nothing was installed"):
        bootstrap.install_packages([need(bootstrap, "gcc")])


def test_without_a_question_all_that_is_missing_is_installed(bootstrap, monkeypatch):
    ran = []
    monkeypatch.setenv("YES", "1")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(bootstrap, "run", lambda words, failure: ran.append(words))
    monkeypatch.setattr(bootstrap, "missing", list)
    bootstrap.install_packages([need(bootstrap, "qemu"), need(bootstrap, "gcc")])
    assert ran[-1][-2:] == ["qemu", "gcc"]


@pytest.mark.parametrize(
    ("content", "enough"), [(b"\x7fELF", True), (b"\x7fELF/lib/ld-linux.so", False)]
)
def test_a_busybox_that_needs_libraries_is_not_enough(bootstrap, monkeypatch, content, enough):
    monkeypatch.setattr(bootstrap.Path, "exists", lambda path: True)
    monkeypatch.setattr(bootstrap.Path, "read_bytes", lambda path: content)
    assert bootstrap.static_busybox() == enough


def test_another_platform_is_one_line(bootstrap, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(SystemExit, match=r"this is linux on aarch64; hint: "):
        bootstrap.main()


@pytest.mark.parametrize("lacks", ["compiler", "headers", "platform"])
def test_an_extension_that_cannot_be_built_is_one_line(lacks, tmp_path):
    program = {
        "compiler": "import os; os.environ['CC'] = 'no-such-cc'",
        "headers": "import sysconfig; sysconfig.get_path = lambda name: '/nowhere'",
        "platform": "import platform; platform.machine = lambda: 'aarch64'",
    }[lacks]
    program += "; import sys, runpy; sys.argv = ['setup.py', '-q', 'build_ext', '--force']"
    program += (
        f"; sys.argv += ['--build-lib', {str(tmp_path)!r}, '--build-temp', {str(tmp_path)!r}]"
    )
    program += "; runpy.run_path('setup.py')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=SCRIPT.parents[1], capture_output=True, text=True
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("kfiber: cannot build the extension: ")
    assert "; hint: " in last
    assert "Traceback" not in done.stderr


def test_an_unbuilt_checkout_says_so(tmp_path):
    shutil.copytree(
        SCRIPT.parents[1] / "python", tmp_path / "python",
        ignore=shutil.ignore_patterns("*.so"), symlinks=True,
    )  # fmt: skip

    def last_line(program):
        done = subprocess.run(
            [sys.executable, "-S", "-c", program],
            env={**os.environ, "PYTHONPATH": str(tmp_path / "python")},
            capture_output=True, text=True,
        )  # fmt: skip
        return done.stderr.splitlines()[-1]

    last = last_line("import kfiber; kfiber.Fiber")
    assert "extension is not built" in last
    assert "; hint: make build" in last
    # The folder of its sources is not taken for the extension.
    assert last_line("import kfiber._native").startswith("ModuleNotFoundError: ")
