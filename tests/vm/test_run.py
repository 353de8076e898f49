# SPDX-License-Identifier: MIT
"""`kfiber vm run` as its user sees it.

Each machine costs seconds: few are started, and each tells much.
"""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from kfiber.vm import guest, kernels, qemu
from kfiber.vm import run as vm_run
from kfiber.vm.errors import KERNEL_PROBLEM, MISSING, NO_GUEST, TIMEOUT, VmError

RUN = [sys.executable, "-m", "kfiber", "vm", "run"]
PLAIN = [*RUN, "--no-module", "--"]
# A machine needs 10 s here. Others may keep the processors busy meanwhile.
LIMIT = 500


@pytest.fixture(scope="module", autouse=True)
def fetched():
    """The kernel is in the cache, so that no run here tells that it gets it, or takes the time."""
    kernels.get()


def run(*arguments, **options):
    return subprocess.run(arguments, capture_output=True, timeout=LIMIT, **options)


def has_ended(pid):
    """Whether process `pid` is gone, or will not run any more. It may take a moment to."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def child(pid):
    """The only child of process `pid`, which is QEMU."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1
    assert "qemu" in Path(f"/proc/{children[0]}/cmdline").read_text()
    return int(children[0])


def test_streams_status_directory_and_environment(tmp_path):
    data = os.urandom(1 << 20)
    script = tmp_path / "script with 'quotes'"
    script.write_text(
        'cat; pwd >&2; echo "$KFIBER_X" >&2; echo "$UNKNOWN_TO_GUESTS$PYTHONPATH" >&2\n'
        'echo "$1" >&2; echo to-a-device >/dev/stderr; exit 7\n'
    )
    environment = {**os.environ, "KFIBER_X": "a b\n$c'", "UNKNOWN_TO_GUESTS": "x"}
    environment.setdefault("PYTHONPATH", "y")
    done = run(
        *(*PLAIN, "sh", str(script), "an 'argument'"),
        input=data,
        cwd=tmp_path,
        env=environment,
    )
    expected = f"{tmp_path}\na b\n$c'\n\nan 'argument'\nto-a-device\n"
    assert done.stderr.decode() == expected
    assert done.stdout == data
    assert done.returncode == 7


def test_an_early_end_keeps_what_was_written_and_ends_what_was_left():
    script = "(sleep 1000 &); head -c 3000000 /dev/zero; kill -9 $$"
    done = run(*PLAIN, "sh", "-c", script)
    assert done.stdout == bytes(3000000)
    assert done.stderr == b""
    assert done.returncode == 128 + signal.SIGKILL


def test_a_kernel_problem_is_printed_and_has_its_own_status(tmp_path):
    log = tmp_path / "log"
    lines = "harmless: x\\nWARNING: CPU: 0 PID: 1 at x.c\\nCall Trace:\\n"
    script = f"printf '{lines}' | while read -r line; do echo $line >/dev/kmsg; done; echo said"
    done = run(*RUN, "--no-module", "--log", str(log), "--", "sh", "-c", script)
    assert done.returncode == KERNEL_PROBLEM
    assert done.stdout == b"said\n"
    error = done.stderr.decode()
    assert "WARNING: CPU: 0 PID: 1 at x.c" in error
    assert "Call Trace:" in error
    assert "harmless" not in error
    assert "the command itself ended with 0" in error.splitlines()[-1]
    assert "harmless: x" in log.read_text()


def test_a_slow_command_is_ended():
    # Time enough to say "up" where nothing of it takes a second.
    done = run(*RUN, "--no-module", "--timeout", "20", "--", "sh", "-c", "echo up; sleep 1000")
    assert done.returncode == TIMEOUT
    assert done.stdout == b"up\n"
    assert done.stderr == b"kfiber: the command did not end within 20 s; hint: a longer --timeout\n"


def test_a_kernel_problem_ends_a_command_that_does_not():
    # A report of lockdep, which does not make the kernel panic.
    script = "echo 'BUG: sleeping function called from x' >/dev/kmsg; echo said; sleep 1000"
    done = run(*PLAIN, "sh", "-c", script)
    assert done.returncode == KERNEL_PROBLEM
    assert done.stdout == b"said\n"
    error = done.stderr.decode()
    assert "BUG: sleeping function called from x" in error
    assert "the machine was ended: its kernel had reported a problem" in error.splitlines()[-1]


def test_a_misspelt_parameter_is_told_before_anything_is_booted():
    done = run(*RUN, "--parameter", "max_fiber=7", "--", "true")
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert "it has no parameter max_fiber, did you mean max_fibers?; hint: " in line


def test_a_value_that_the_module_refuses_is_told():
    done = run(*RUN, "--parameter", "max_fibers=0", "--", "true")
    assert (done.returncode, done.stdout) == (NO_GUEST, b"")
    assert "the module refused max_fibers=0; hint: " in done.stderr.decode().splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 128 + signal.SIGINT),
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_no_machine_is_left_behind(number, status):
    with subprocess.Popen(
        # A shell's background jobs ignore SIGINT, and their children would.
        ["env", "--default-signal=INT", *PLAIN, "sh", "-c", "echo up; sleep 1000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"up\n"
        machine = child(process.pid)
        process.send_signal(number)
        _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == status
        assert errors == b""
        assert has_ended(machine)


def test_a_reader_that_is_gone_ends_the_machine():
    with subprocess.Popen(
        [*PLAIN, "cat", "/dev/zero"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(LIMIT) == 128 + signal.SIGPIPE


def test_a_guest_that_hangs_while_it_starts():
    machine = qemu.Machine(kernels.get(), boot_timeout=0.5)
    with pytest.raises(VmError, match=r"did not start within 0\.5 s; hint: ") as caught:
        vm_run.run(["true"], machine)
    assert caught.value.status == NO_GUEST


def test_a_guest_that_dies_while_it_starts():
    done = run(*RUN, "--no-module", "--append", "rdinit=/nowhere root=/dev/none", "--", "true")
    assert done.returncode == KERNEL_PROBLEM
    error = done.stderr.decode()
    assert "Kernel panic - not syncing" in error
    assert "the guest died while it started" in error.splitlines()[-1]
    # No process of ours had run: it may have been the emulator.
    assert error.count("crashed before its first process (") == 2


def test_a_crash_after_the_first_process_is_the_end(monkeypatch, capsys):
    # What init.sh says is taken for this, which each crash says.
    monkeypatch.setattr(guest, "_INIT_WORD", "Kernel panic")
    machine = qemu.Machine(kernels.get(), append="rdinit=/nowhere root=/dev/none")
    with pytest.raises(VmError, match="the guest died while it started"):
        vm_run.run(["true"], machine)
    assert "starting it again" not in capsys.readouterr().err


def test_a_module_that_is_none_is_told_so(tmp_path):
    fiber = tmp_path / "fiber.ko"
    fiber.write_bytes(b"no module")
    with pytest.raises(VmError, match=r"cannot load the module") as caught:
        vm_run.run(["true"], qemu.Machine(kernels.get()), module=fiber)
    assert caught.value.status == NO_GUEST


def only(tmp_path, *programs):
    """An environment whose PATH has `programs` and nothing else."""
    for program in programs:
        (tmp_path / program).symlink_to(shutil.which(program))
    return {**os.environ, "PATH": str(tmp_path)}


def test_without_qemu(tmp_path):
    done = run(*PLAIN, "true", env=only(tmp_path, "true"))
    assert done.returncode == MISSING
    (line,) = done.stderr.decode().splitlines()
    assert "no qemu-system-x86_64" in line
    assert "hint: install what Debian's packages qemu-system-x86 have" in line


def test_without_the_command():
    done = run(*PLAIN, "no-such-command")
    assert done.returncode == 127
    (line,) = done.stderr.decode().splitlines()
    assert "no command no-such-command" in line


def test_without_a_kernel_and_the_tools_to_get_one(tmp_path):
    cache = tmp_path / "cache"
    environment = only(tmp_path, "true", "qemu-system-x86_64")
    done = run(*PLAIN, "true", env={**environment, "XDG_CACHE_HOME": str(cache)})
    assert done.returncode == MISSING
    (line,) = done.stderr.decode().splitlines()
    assert "kernels come from Debian packages" in line
    # Nothing half-done.
    assert [path.name for path in (cache / "kfiber/kernels").iterdir()] == [".lock"]


def test_a_terminal_goes_through():
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    before = termios.tcgetattr(terminal)
    with subprocess.Popen(
        [*PLAIN, "sh", "-c", "stty size; read line; echo got $line; sleep 1000; exit 3"],
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
    ) as process:

        def read_until(text):
            seen = b""
            while text not in seen:
                assert select.select([controller], [], [], LIMIT)[0], seen
                seen += os.read(controller, 1024)

        read_until(b"33 111")
        os.write(controller, b"a line\r")
        read_until(b"got a line")
        # The guest's terminal makes a signal of it, for the command.
        os.write(controller, b"\x03")
        assert process.wait(LIMIT) == 128 + signal.SIGINT
        assert process.stderr.read() == b""
    assert termios.tcgetattr(terminal) == before
    os.close(controller)
    os.close(terminal)


def test_the_trial_of_kvm_is_bounded_and_remembered(monkeypatch, tmp_path):
    kernel = kernels.get()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    start = time.monotonic()
    works = qemu.kvm_works(kernel)
    # Five seconds are its limit.
    assert time.monotonic() - start < 60
    monkeypatch.setattr(qemu, "_probe_kvm", lambda kernel: pytest.fail("tried again"))
    assert qemu.kvm_works(kernel) == works


def test_without_access_kvm_is_not_tried(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not qemu.kvm_works(kernels.get())


def test_counted_instructions_are_the_guests_nanoseconds():
    done = run(*RUN, "--no-module", "--icount", "--", "cat", "/proc/cpuinfo")
    assert done.returncode == 0
    assert done.stdout.count(b"processor") == 1
    speed = re.search(rb"cpu MHz\s*: (.*)", done.stdout)
    assert float(speed[1]) == pytest.approx(1000, abs=1)
