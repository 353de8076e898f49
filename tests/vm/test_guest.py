# SPDX-License-Identifier: MIT
"""What a command finds in the guest."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.guest


def file_system(path):
    """The type of the file system that is mounted on `path`, or None."""
    found = None
    for line in Path("/proc/mounts").read_text().splitlines():
        fields = line.split()
        if fields[1] == path:
            found = fields[2]
    return found


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "overlay"),
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/sys/kernel/debug", "debugfs"),
        ("/sys/kernel/tracing", "tracefs"),
        ("/sys/fs/cgroup", "cgroup2"),
        ("/dev", "devtmpfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/tmp", "tmpfs"),
        ("/run", "tmpfs"),
    ],
)
def test_file_systems(path, kind):
    assert file_system(path) == kind


def test_it_is_root_with_the_module():
    assert os.geteuid() == 0
    assert os.environ["KFIBER_GUEST"] == "1"
    assert Path(os.environ["KFIBER_MODULE"]).exists()
    assert Path("/sys/module/fiber").is_dir()
    assert Path("/dev/fiber").is_char_device()


def test_every_user_may_use_the_device():
    assert Path("/dev/fiber").stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize("name", ["panic_on_oops", "panic_on_warn"])
def test_the_first_problem_ends_the_machine(name):
    assert Path("/proc/sys/kernel", name).read_text() == "1\n"


def test_the_hosts_files_can_be_written_to_no_effect_there():
    path = Path(__file__).with_name("written-in-the-guest")
    path.write_text("x")
    assert path.read_text() == "x"
    path.unlink()


def test_the_loopback_interface_is_up():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), 10):
            pass


def test_the_clock_runs_as_the_emulated_timer_does():
    # A wrong speed of the time stamp counter made one clock run a hundred times too fast. The real
    # time clock is the host's.
    def rtc():
        return int(Path("/sys/class/rtc/rtc0/since_epoch").read_text())

    start, clock = rtc(), time.monotonic()
    while rtc() < start + 3:
        time.sleep(0.05)
    assert 1.5 < time.monotonic() - clock < 6


def test_the_kernels_build_is_where_it_is_looked_for():
    build = Path("/lib/modules") / os.uname().release / "build"
    assert (build / "Module.symvers").exists()


def test_nothing_of_the_host_is_in_the_way():
    assert subprocess.run(["sh", "-c", "echo >/dev/stdout; : >/dev/stderr"]).returncode == 0
    assert Path("/dev/null").is_char_device()
