# SPDX-License-Identifier: MIT
"""Each error of the command is one line: what is wrong, why, and a hint. Never a traceback."""

import ast
import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kfiber.cli import main
from kfiber.hint import as_root, install
from kfiber.vm import qemu
from kfiber.vm.errors import MISSING, VmError

ROOT = Path(__file__).resolve().parents[2]
KFIBER = [sys.executable, "-m", "kfiber"]
LIMIT = 120
LINE = re.compile(r"kfiber: \S.*: .*; hint: \S.*\n")


ERRORS = ("KfiberError", "NoProcessError", "VersionError", "VmError")


def words(node):
    """The text of an expression as far as it is written down; values are blanks."""
    return "".join(
        part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and part.value
        if isinstance(part.value, str)
    )  # fmt: skip


def test_each_error_of_the_package_has_a_hint():
    without = []
    for path in (ROOT / "python/kfiber").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            call = getattr(node, "exc", None) if isinstance(node, ast.Raise) else None
            name = getattr(getattr(call, "func", None), "id", "")
            # Text that comes from elsewhere is another error's, hint and all.
            parts = ast.walk(call.args[0]) if name in ERRORS else ()
            handed_on = any(getattr(part, "id", "") in ("message", "error") for part in parts)
            if name in ERRORS and not handed_on and "hint: " not in words(call):
                without.append(f"{path.name}:{node.lineno}")
    assert without == []


WRONG = [
    "",
    "fly",
    "ps x",
    "ps -1",
    "ps --sort size",
    "ps -z",
    "top --interval 0 1",
    "top --count x",
    "watch",
    "module load novalue",
    "module load --mode 0777",
    "module load --mode 0400",
    "module load --mode rw",
    "vm",
    "vm run",
    "vm run ls -l",
    "vm run --kernel 5.4 -- true",
    "vm run --cpus 0 -- true",
    "vm run --cpus 256 -- true",
    "vm run --cpus two -- true",
    "vm run --memory 1 -- true",
    "vm run --memory 999999999 -- true",
    "vm run --timeout 0 -- true",
    "vm run --timeout -5 -- true",
    "vm run --timeout nan -- true",
    "vm run --show /no/such/path -- true",
    "vm run --channel 99 -- true",
    "vm run --accel hvf -- true",
    "vm run --icount --accel kvm -- true",
    "vm run --icount --cpus 2 -- true",
    "vm run --parameter novalue -- true",
]


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_line_is_told_before_anything_is_done(line, command, tmp_path, monkeypatch):
    # A machine would be told so first.
    monkeypatch.setenv("PATH", str(tmp_path))
    done = command(*line.split())
    assert done.returncode == 2
    assert LINE.fullmatch(done.stderr), done.stderr


@pytest.mark.parametrize("line", ["vm run", "vm run ls -l", "vm run make -C x"])
def test_where_the_dashes_go(line, command):
    assert "; hint: kfiber vm run [OPTION ...] -- COMMAND" in command(*line.split()).stderr


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("watch 4194304", "process 4194304: there is none"),
        ("top --once 4194304", "process 4194304: there is none"),
        ("export --textfile /no/such/file --count 1", "cannot write /no/such/file"),
        ("export --listen 192.0.2.1:1", "cannot listen at 192.0.2.1:1"),
        ("module build --kernel-dir /nowhere", "cannot write /proc/self/kfiber"),
        ("vm fetch", "cannot write /proc/self/kfiber"),
        ("vm run --log /no/such/log -- true", "cannot write the log /no/such/log"),
        ("vm run --no-module -- true", "cannot write /proc/self/kfiber"),
    ],
)
def test_what_cannot_be_done(line, what, command, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self")
    done = command(*line.split())
    assert done.returncode != 0
    assert LINE.fullmatch(done.stderr), done.stderr
    assert what in done.stderr


def test_a_user_without_a_home(monkeypatch, capsys):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: exec("raise RuntimeError"))
    assert main(["vm", "fetch"]) == 1
    assert LINE.fullmatch(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: No space left on device"),
        (OSError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied"),
        (
            OSError(errno.ENOENT, "No such file or directory", "/proc/4194305/maps"),
            "cannot look at process 4194305: it has ended",
        ),
        (ValueError("odd\nvalue"), "internal error: ValueError: odd value"),
    ],
)
def test_an_error_that_nobody_foresaw(error, line, monkeypatch, capsys):
    def fail(report):
        raise error

    monkeypatch.delenv("KFIBER_TRACEBACK", raising=False)
    monkeypatch.setattr("kfiber.proc.all_fibers", fail)
    assert main(["ps"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"kfiber: {line}; hint: ")
    assert LINE.fullmatch(err)
    monkeypatch.setenv("KFIBER_TRACEBACK", "1")
    if isinstance(error, ValueError):
        with pytest.raises(ValueError, match="odd"):
            main(["ps"])


def test_an_interrupted_download_leaves_nothing(tmp_path):
    """With an apt-get that takes for ever."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("apt-get", "apt-cache", "dpkg"):
        (tools / name).write_text('#!/bin/sh\necho "$$" >"$PIDS/$$"\nexec sleep 1000\n')
        (tools / name).chmod(0o755)
    (tools / "apt-config").write_text("#!/bin/sh\n")
    (tools / "apt-config").chmod(0o755)
    pids = tmp_path / "pids"
    pids.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path),
        "PIDS": str(pids),
    }
    with subprocess.Popen(
        ["env", "--default-signal=INT", *KFIBER, "vm", "fetch", "--kernel", "6.12"],
        env=environment,
        stderr=subprocess.PIPE,
    ) as process:
        end = time.monotonic() + LIMIT
        while not list(pids.iterdir()) and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT)
    if process.returncode == MISSING:
        pytest.skip(f"no archive here: {err.decode()}")
    assert process.returncode == 128 + signal.SIGINT
    assert b"Traceback" not in err
    assert [path.name for path in (tmp_path / "kfiber/kernels").iterdir()] == [".lock"]
    (pid,) = (path.name for path in pids.iterdir())
    assert not Path("/proc", pid).exists()


def test_kvm_that_does_not_work_is_told(monkeypatch):
    with pytest.raises(VmError, match=r"^cannot use KVM: .*; hint: --accel auto$"):
        monkeypatch.setattr(qemu, "_probe_kvm", lambda kernel: False)
        qemu.require_kvm(None)


def test_hints_fit_the_machine(monkeypatch):
    here = {"apt-get", "sudo"}
    monkeypatch.setattr("shutil.which", lambda name: name if name in here else None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert install("a", "b") == "apt-get install a b"
    assert as_root("ps") == f"sudo {sys.executable} -m kfiber ps"
    here.clear()
    assert "apt-get" not in install("a") and "a" in install("a").split()
    assert as_root("ps") == f"as root: {sys.executable} -m kfiber ps"


def test_a_wrong_engine_is_named():
    program = "import kfiber; kfiber.current()"
    environment = {**os.environ, "KFIBER_ENGINE": "lokal"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    last = done.stderr.splitlines()[-1]
    assert "KFIBER_ENGINE is 'lokal'" in last
    assert re.search("hint: .*auto.*mapped.*local.*kernel", last)
