# SPDX-License-Identifier: MIT
"""Loading and unloading: never under anybody's feet, always once nobody is left."""

import errno
import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest
from kmod.target import (
    KEYS,
    PROGRAMS,
    STRANGER,
    Target,
    as_user,
    child,
    lines,
    load,
    load_closed,
    loaded,
    module_file,
    parameter,
    unload,
    unload_when_free,
    wait_for,
)

pytestmark = pytest.mark.guest


@pytest.fixture(autouse=True)
def put_back():
    """The module as it was found: loaded, without parameters."""
    yield
    if loaded():
        unload_when_free()
    load()


@pytest.fixture
def target():
    with Target() as process:
        process.do("open")
        process.do("convert")
        yield process


def check_in_use():
    """Refused, and all goes on."""
    with pytest.raises(OSError) as error:
        unload()
    # What rmmod calls EBUSY is EWOULDBLOCK where it does not wait.
    assert error.value.errno in (errno.EBUSY, errno.EWOULDBLOCK)
    assert loaded()
    with Target() as other:
        other.do("open")
        assert other.do("convert") == [1]


def test_rmmod_says_in_use(target):
    done = subprocess.run(["/sbin/rmmod", "fiber"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "in use" in done.stderr
    assert lines(target.file(1))[0] == ("Running", "yes")


def test_a_descriptor_holds_it():
    with Target() as target:
        target.do("open")
        check_in_use()
        target.do("close")
        # The process' entry does not.
        unload_when_free()
        assert target.refused("open") == errno.ENOENT


def test_a_converted_thread_holds_it(target):
    target.do("close")
    check_in_use()
    # It still runs our code whenever it goes off the CPU.
    target.do("burn", 20)
    assert lines(target.file(1))[0] == ("Running", "yes")
    target.do("open")
    target.do("revert")
    target.do("close")
    unload_when_free()
    target.do("burn", 20)


def test_fibers_alone_do_not_hold_it(target):
    target.create()
    target.do("crowd", 600)
    target.do("revert")
    target.do("close")
    unload_when_free()
    load()
    # The process' fibers went with the module.
    assert not target.folder.exists()
    target.do("open")
    assert target.do("convert") == [1]


def leave(target):
    """The target drops all that holds the module itself."""
    target.do("revert")
    target.do("close")


def test_an_open_file_holds_it(target):
    fiber, *_ = target.create()
    fd = os.open(target.file(fiber), os.O_RDONLY)
    try:
        leave(target)
        check_in_use()
        assert os.read(fd, 8) == b"Running:"
    finally:
        os.close(fd)
    unload_when_free()


def test_an_open_directory_holds_it(target):
    fd = os.open(target.folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        leave(target)
        check_in_use()
        os.listdir(fd)
    finally:
        os.close(fd)
    unload_when_free()


def test_a_working_directory_holds_it(target):
    with child(lambda: os.chdir(target.folder)):
        leave(target)
        check_in_use()
    unload_when_free()


@pytest.mark.parametrize("which", ["folder", "file"])
def test_a_path_handle_holds_it(target, which):
    fiber, *_ = target.create()
    fd = os.open(target.folder if which == "folder" else target.file(fiber), os.O_PATH)
    try:
        leave(target)
        check_in_use()
        os.stat(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    unload_when_free()


def test_handles_of_a_dead_process_hold_it():
    with Target() as target:
        target.do("open")
        target.do("convert")
        file = os.open(target.file(1), os.O_RDONLY)
        folder = os.open(target.folder, os.O_PATH)
    try:
        wait_for(lambda: not target.folder.exists(), "the process' end")
        check_in_use()
        os.close(folder)
        folder = None
        check_in_use()
    finally:
        os.close(file)
        if folder is not None:
            os.close(folder)
    unload_when_free()


def test_looking_does_not_hold_it(target):
    """Names that were looked up are not remembered past their last user."""
    fiber, *_ = target.create()
    for _ in range(10):
        assert target.file(fiber).read_text()
        assert "fiber" in os.listdir(target.folder.parent)
        assert os.listdir(target.folder)
        target.file(fiber).stat()
        assert not target.file(99).exists()
    leave(target)
    unload_when_free()


def test_nothing_is_left_behind(target):
    target.create()
    leave(target)
    unload_when_free()
    assert not Path("/dev/fiber").exists()
    assert not Path("/sys/class/misc/fiber").exists()
    assert not target.folder.exists()
    assert "fiber" not in os.listdir(target.folder.parent)
    assert not Path("/proc/fiber").exists()
    slabs = Path("/proc/slabinfo").read_text()
    assert "fiber_xstate " not in slabs
    hooked = Path("/sys/kernel/tracing/enabled_functions")
    if hooked.exists():
        assert "proc_tgid_base" not in hooked.read_text()


def test_unloaded_and_loaded_many_times():
    for _ in range(5):
        unload_when_free()
        load()
        with Target() as target:
            target.do("open")
            assert target.do("convert") == [1]
            assert target.folder.is_dir()


def test_unloaded_while_proc_is_read():
    """Readers of /proc/PID run our functions at any moment of the unloading."""

    readers = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            while True:
                os.listdir("/proc/1")
                os.path.exists("/proc/1/fiber")
                os.path.exists("/proc/1/status")
        readers.append(pid)
    try:
        for _ in range(5):
            unload_when_free()
            load()
    finally:
        for pid in readers:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    assert loaded()


def test_counters_begin_at_0():
    unload_when_free()
    load()
    assert [parameter(name) for name in ("processes", "threads", "fibers")] == ["0"] * 3


@pytest.mark.parametrize("name", ["processes", "threads", "fibers"])
def test_counters_cannot_be_set(name):
    path = Path("/sys/module/fiber/parameters") / name
    assert path.stat().st_mode & 0o777 == 0o444
    unload_when_free()
    with pytest.raises(OSError):
        load(f"{name}=5")
    assert not loaded()


def test_parameters_of_the_file():
    """modinfo finds each parameter with its description."""
    data = module_file().read_bytes()
    for name in (
        *("max_fibers", "max_user_kib", "proc_pid", "lookup"),
        *("processes", "threads", "fibers"),
    ):
        assert f"parm={name}:".encode() in data
    assert b"license=GPL\0" in data
    assert b"version=" in data


@pytest.mark.parametrize(
    "wrong",
    [
        *("lookup=bogus", "lookup=", "proc_pid=perhaps"),
        *("max_fibers=x", "max_fibers=0", "max_fibers=1048576", "max_fibers=5000000"),
        *("max_user_kib=x", "max_user_kib=-1"),
    ],
)
def test_wrong_parameters_are_refused(wrong):
    unload_when_free()
    with pytest.raises(OSError) as error:
        load(wrong)
    assert error.value.errno == errno.EINVAL
    assert not loaded()
    assert not Path("/dev/fiber").exists()


@pytest.mark.parametrize("limit", [1, 1048575])
def test_the_borders_of_max_fibers(limit):
    unload_when_free()
    load(f"max_fibers={limit}")
    assert parameter("max_fibers") == str(limit)


def test_device_is_roots_until_the_administrator_opens_it():
    unload_when_free()
    load_closed()
    status = Path("/dev/fiber").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o600, 0, 0)

    def open_it():
        with pytest.raises(PermissionError):
            os.open("/dev/fiber", os.O_RDWR)
        return True

    assert as_user(STRANGER, open_it)


@pytest.mark.parametrize("lookup", ["direct", "hash", "scan"])
@pytest.mark.parametrize("program", ["switch", "delete", "fls"])
def test_every_look_up_passes_the_same_tests(lookup, program):
    """These here, all others by `make test-long`, which loads the module that way."""
    unload_when_free()
    load(f"lookup={lookup}")
    assert parameter("lookup") == lookup
    done = subprocess.run(
        [PROGRAMS / f"kmod_{program}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "ok " in done.stdout
    assert "skip " not in done.stdout


# Where fibers are not shown under /proc/PID


ALL = Path("/proc/fiber")


@pytest.fixture
def fallback():
    unload_when_free()
    load("proc_pid=N")


def blocks(path=ALL):
    """Each fiber's block in /proc/fiber: its lines as pairs."""
    text = Path(path).read_text()
    assert not text or text.endswith("\n")
    return [
        [tuple(line.split(": ", 1)) for line in block.split("\n")]
        for block in text.strip("\n").split("\n\n")
        if block
    ]


def shown(path=ALL):
    """The processes and fibers in /proc/fiber."""
    return [(int(block[0][1]), int(block[1][1])) for block in blocks(path)]


def test_fallback_shows_all_fibers_in_one_file(fallback, target):
    fiber, *_ = target.create(name=b"two\nlines")
    target.create()
    target.do("enter", fiber)
    assert not target.folder.exists()
    assert "fiber" not in os.listdir(target.folder.parent)
    assert ALL.is_file()
    found = blocks()
    assert [block[:2] for block in found] == [
        [("Process", str(target.pid)), ("Fiber", str(i))] for i in (1, 2, 3)
    ]
    values = dict(found[1])
    assert values["Name"] == r"two\012lines"
    assert values["State"] == "suspended"
    assert values["Number of activations"] == "1"
    assert int(values["Saved stack pointer"], 16) > 0
    assert [key for key, _ in found[1]] == ["Process", "Fiber", *KEYS]


def test_fallback_shows_every_process(fallback, target):
    with Target() as other:
        other.do("open")
        # It has no fiber yet.
        assert shown() == [(target.pid, 1)]
        other.do("convert")
        target.create()
        assert sorted(shown()) == sorted([(target.pid, 1), (target.pid, 2), (other.pid, 1)])


def test_fallback_is_read_in_pieces(fallback, target):
    """Thousands of fibers, in reads that end anywhere."""
    target.do("crowd", 3000)
    with Target() as other:
        other.do("open")
        other.do("convert")
        other.do("crowd", 500)
        with ALL.open("rb", buffering=0) as file:
            pieces = []
            for size in itertools.cycle([1, 7, 4095, 4096, 4097, 65536]):
                if not (piece := file.read(size)):
                    break
                pieces.append(piece)
        text = b"".join(pieces).decode()
    found = re.findall(r"(?m)^Process: (\d+)\nFiber: (\d+)$", text)
    assert len(found) == len(set(found))
    assert sum(pid == str(target.pid) for pid, _ in found) == 3001
    assert sum(pid == str(other.pid) for pid, _ in found) == 501
    assert text.count("Engine: kernel\n") == len(found)


def test_fallback_hides_addresses(fallback, target):
    theirs = as_user(STRANGER, lambda: dict(blocks()[0]))
    assert int(theirs["Initial entry point"], 16) == 0
    assert int(dict(blocks()[0])["Initial entry point"], 16) > 0


def test_fallback_shows_other_pid_namespaces_only_their_own(fallback, target):
    """There /proc/PID of the others is not to be seen either."""
    assert shown() == [(target.pid, 1)]
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "cat", ALL],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")
    with Target("unshare", "--pid", "--fork", "--mount-proc", "--kill-child") as inner:
        inner.do("open")
        inner.do("convert")
        assert inner.pid == 1
        seen = [pid for pid, _ in shown() if pid != target.pid]
        assert len(seen) == 1
        assert seen != [1]
        assert shown(f"/proc/{seen[0]}/root/proc/fiber") == [(1, 1)]


@pytest.mark.parametrize(
    ("options", "closed"),
    [
        ("hidepid=off", False),
        ("hidepid=invisible", True),
        (f"hidepid=invisible,gid={STRANGER}", False),
        (f"hidepid=ptraceable,gid={STRANGER}", True),
    ],
)
def test_fallback_honours_hidepid(fallback, target, options, closed):
    subprocess.run(["mount", "-t", "proc", "-o", options, "proc", "/mnt"], check=True, timeout=30)
    try:
        status, file = Path("/mnt", str(target.pid), "status"), Path("/mnt/fiber")
        seen = as_user(STRANGER, status.exists)
        assert seen is not closed
        assert as_user(STRANGER, lambda: shown(file)) == ([] if closed else [(target.pid, 1)])
        assert shown(file) == [(target.pid, 1)]
    finally:
        subprocess.run(["umount", "/mnt"], check=True, timeout=30)


def test_fallback_follows_processes(fallback):
    with Target() as target:
        target.do("open")
        assert shown() == []
        target.do("convert")
        assert shown() == [(target.pid, 1)]
        target.do("close")
        target.exec()
        wait_for(lambda: shown() == [], "the old image's end")
        target.do("open")
        target.do("convert")
        assert shown() == [(target.pid, 1)]
    wait_for(lambda: shown() == [], "the process' end")


def test_fallback_says_so_in_the_log(fallback):
    log = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=30).stdout
    said = [line for line in log.splitlines() if " fiber: " in line]
    assert "/proc/fiber" in said[-1]


def test_fallback_file_holds_the_module(fallback, target):
    with ALL.open() as file:
        assert file.readline() == f"Process: {target.pid}\n"
        leave(target)
        check_in_use()
    unload_when_free()
    assert not ALL.exists()


def test_fallback_cannot_be_written(fallback, target):
    def write():
        with pytest.raises(PermissionError):
            os.open(ALL, os.O_WRONLY)
        return True

    assert ALL.stat().st_mode & 0o777 == 0o444
    assert as_user(STRANGER, write)
