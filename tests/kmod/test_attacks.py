# SPDX-License-Identifier: MIT
"""Attacks that need more than one program, or the module loaded anew: ftrace and what else uses it,
live patches, marks on our files, unloading under all of it. attacks/ has the programs."""

import contextlib
import ctypes
import errno
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest
from kmod.target import (
    HERE,
    PROGRAMS,
    Target,
    lines,
    load,
    loaded,
    one_processor,
    started,
    unload,
    unload_when_free,
    wait_for,
)

pytestmark = pytest.mark.guest

_libc = ctypes.CDLL(None, use_errno=True)

ALL = Path("/proc/fiber")
FTRACE = Path("/proc/sys/kernel/ftrace_enabled")
TRACING = Path("/sys/kernel/tracing")
REDIRECTED = ("proc_tgid_base_lookup", "proc_tgid_base_readdir")


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


def check_serves(target):
    """Its fibers are where they are looked for, and nowhere else."""
    assert lines(target.file(1))[0] == ("Running", "yes")
    assert "fiber" in os.listdir(target.folder.parent)
    assert not (target.folder.parent / "fibre").exists()


def log_of(function):
    """The module's lines in the kernel's log that come with `function()`."""

    def said():
        text = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=60).stdout
        return [line for line in text.splitlines() if "fiber" in line]

    before = len(said())
    function()
    return said()[before:]


def leave(target):
    """The target drops all that holds the module itself."""
    target.do("revert")
    target.do("close")


# ftrace


@pytest.fixture
def ftrace():
    if not FTRACE.exists():
        pytest.skip("this kernel has no ftrace")
    unload_when_free()
    try:
        with one_processor():
            FTRACE.write_text("0")
            FTRACE.write_text("1")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("this kernel never turns ftrace off")
    load()
    yield
    with one_processor():
        FTRACE.write_text("1")


def test_ftrace_cannot_be_turned_off_while_it_is_in_use(ftrace, target):
    with pytest.raises(OSError) as error, one_processor():
        FTRACE.write_text("0")
    assert error.value.errno == errno.EBUSY
    assert FTRACE.read_text() == "1\n"
    check_serves(target)
    # Nobody has to wait for a process that has fibers, only for the module.
    leave(target)
    unload_when_free()
    with one_processor():
        FTRACE.write_text("0")


def test_loaded_without_ftrace_it_falls_back(ftrace):
    unload_when_free()
    with one_processor():
        FTRACE.write_text("0")
    said = log_of(load)
    assert any("ftrace" in line for line in said), said
    assert any("/proc/fiber" in line for line in said), said
    with Target() as target:
        target.do("open")
        target.do("convert")
        assert not target.folder.exists()
        assert ALL.read_text().startswith(f"Process: {target.pid}\nFiber: 1\n")
        # It stays as it was loaded.
        with one_processor():
            FTRACE.write_text("1")
        assert not target.folder.exists()
        assert ALL.read_text().startswith(f"Process: {target.pid}\n")
        with one_processor():
            FTRACE.write_text("0")
        assert ALL.read_text().startswith(f"Process: {target.pid}\n")
    unload_when_free()
    assert not ALL.exists()
    with one_processor():
        FTRACE.write_text("1")
    load()
    with Target() as target:
        target.do("open")
        target.do("convert")
        check_serves(target)
        assert not ALL.exists()


@contextlib.contextmanager
def function_tracer():
    """The kernel's own tracer, on the functions that the module redirects."""
    if "function" not in (TRACING / "available_tracers").read_text().split():
        pytest.skip("this kernel has no function tracer")
    (TRACING / "set_ftrace_filter").write_text("\n".join(REDIRECTED))
    with one_processor():
        (TRACING / "current_tracer").write_text("function")
    try:
        yield
    finally:
        with one_processor():
            (TRACING / "current_tracer").write_text("nop")
        (TRACING / "set_ftrace_filter").write_text("\n")


def test_traced_functions_are_redirected_all_the_same(target):
    with function_tracer():
        for _ in range(20):
            check_serves(target)
        traced = (TRACING / "trace").read_text()
        assert all(name in traced for name in REDIRECTED)
        leave(target)
        unload_when_free()
        assert not target.folder.exists()
        load()
        with Target() as other:
            other.do("open")
            other.do("convert")
            check_serves(other)


@pytest.mark.parametrize("kind", ["p", "r"])
def test_probed_functions_are_redirected_all_the_same(target, kind):
    """kprobes, and probes of the return, which replace the address that the function goes to."""
    events = TRACING / "kprobe_events"
    if not events.exists():
        pytest.skip("this kernel has no kprobe events")
    enable = TRACING / "events" / "kfiber" / "enable"
    with one_processor():
        events.write_text("".join(f"{kind}:kfiber/{name} {name}\n" for name in REDIRECTED))
        enable.write_text("1")
    try:
        for _ in range(20):
            check_serves(target)
        leave(target)
        unload_when_free()
        load()
        with Target() as other:
            other.do("open")
            other.do("convert")
            check_serves(other)
    finally:
        with one_processor():
            enable.write_text("0")
            events.write_text("\n")


# What it does in the scheduler, at the end of threads and processes, and in /proc. No case is about
# times: they do not allow for probes.
WORK = [
    ("switch", "many_fibers"),
    ("switch", "suspended_here_resumed_there"),
    ("thread", "end_on_another_threads_own_fiber"),
    ("thread", "kill_in_the_middle_of_switches"),
    ("table", "one_of_many_rivals_gets_an_area"),
    ("table", "the_end_of_a_thread_is_marked"),
    ("table", "proc_shows_them"),
    ("convert", "first_conversions_race_for_one_entry"),
    ("attacks_namesakes", "directories_outlive_an_image"),
]


def check_works():
    for program, case in WORK:
        done = subprocess.run(
            [PROGRAMS / f"kmod_{program}", case],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout


def own_functions():
    """The functions of the module that the kernel's list of symbols names once."""
    symbols = (line.split() for line in Path("/proc/kallsyms").read_text().splitlines())
    ours = [name for _, kind, name, *module in symbols if module == ["[fiber]"] and kind in "tT"]
    return [name for name in ours if ours.count(name) == 1]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["p", "r"])
def test_its_own_functions_are_probed(kind):
    """Also where interrupts are off, under the scheduler's lock, and while it is unloaded."""
    events = TRACING / "kprobe_events"
    if not events.exists():
        pytest.skip("this kernel has no kprobe events")
    enable = TRACING / "events" / "kfiber" / "enable"
    probed = []
    with one_processor():
        file = os.open(events, os.O_WRONLY | os.O_APPEND)
        for name in own_functions():
            # The kernel takes none where its own probes begin, for example.
            with contextlib.suppress(OSError):
                os.write(file, f"{kind}:kfiber/{name} fiber:{name}\n".encode())
                probed.append(name)
        os.close(file)
        enable.write_text("1")
    try:
        assert len(probed) > 100
        check_works()
        profile = (TRACING / "kprobe_profile").read_text()
        hit = {line.split()[0] for line in profile.splitlines() if int(line.split()[1])}
        assert {"fiber_switch", "fiber_context_switch", "fiber_process_end"} <= hit
        unload_when_free()
        load()
        check_works()
    finally:
        with one_processor():
            enable.write_text("0")
            events.write_text("\n")
    check_works()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tracer", ["function", "function_graph"])
def test_its_own_functions_are_traced(tracer):
    if tracer not in (TRACING / "available_tracers").read_text().split():
        pytest.skip("this kernel has no such tracer")
    (TRACING / "set_ftrace_filter").write_text(":mod:fiber")
    with one_processor():
        (TRACING / "current_tracer").write_text(tracer)
    try:
        check_works()
        assert "fiber_switch" in (TRACING / "trace").read_text()
        unload_when_free()
        load()
        check_works()
    finally:
        with one_processor():
            (TRACING / "current_tracer").write_text("nop")
        (TRACING / "set_ftrace_filter").write_text("\n")


# Live patches

RELEASE = os.uname().release


@pytest.fixture(scope="module")
def live_patch(tmp_path_factory):
    """A module that patches one of the functions that ours redirects."""
    build = Path(f"/lib/modules/{RELEASE}/build")
    config = build / ".config"
    if not config.exists() or "\nCONFIG_LIVEPATCH=y\n" not in config.read_text():
        pytest.skip("this kernel takes no live patches, or there is nothing to build one with")
    place = tmp_path_factory.mktemp("live_patch")
    shutil.copy(HERE / "attacks" / "live_patch" / "live_patch.c", place)
    shutil.copy(HERE / "attacks" / "live_patch" / "Kbuild", place)
    done = subprocess.run(
        ["make", "-s", "-C", build, f"M={place}", "modules"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return place / "live_patch.ko"


def insert(file):
    """0 or an errno, as the kernel says."""
    with file.open("rb") as stream, one_processor():
        if _libc.syscall(313, stream.fileno(), b"", 0):
            return ctypes.get_errno()
    return 0


PATCH = Path("/sys/kernel/livepatch/live_patch")


def remove_patch():
    with one_processor():
        (PATCH / "enabled").write_text("0")
    wait_for(lambda: not PATCH.exists(), "all tasks to leave the patch")

    def gone():
        with one_processor():
            return not _libc.syscall(176, b"live_patch", os.O_NONBLOCK)

    wait_for(gone, "the patch's module to go")


@pytest.mark.timeout(900)
def test_a_live_patch_of_the_same_function_is_refused(live_patch, target):
    assert insert(live_patch) != 0
    assert not PATCH.exists()
    check_serves(target)


@pytest.mark.timeout(900)
def test_beside_a_live_patch_of_the_same_function_it_falls_back(live_patch):
    unload_when_free()
    assert insert(live_patch) == 0
    try:
        wait_for(lambda: (PATCH / "transition").read_text() == "0\n", "the patch to be in place")
        said = log_of(load)
        assert any("/proc/fiber" in line for line in said), said
        assert any("live patch" in line or "livepatch" in line for line in said), said
        with Target() as target:
            target.do("open")
            target.do("convert")
            assert ALL.read_text().startswith(f"Process: {target.pid}\nFiber: 1\n")
            assert not target.folder.exists()
        unload_when_free()
        assert PATCH.exists()
    finally:
        remove_patch()
    load()
    with Target() as target:
        target.do("open")
        target.do("convert")
        check_serves(target)


# Marks on our files

IN_ALL = 0xFFF
FAN_MARK_ADD, FAN_MARK_REMOVE = 1, 2
FAN_ALL = 0x3B


class Inotify:
    """Watches."""

    def __init__(self):
        self.fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self.fd >= 0

    def add(self, path):
        watch = _libc.inotify_add_watch(self.fd, os.fsencode(path), IN_ALL)
        assert watch >= 0, os.strerror(ctypes.get_errno())
        return watch

    def remove(self, watch):
        return _libc.inotify_rm_watch(self.fd, watch)

    def events(self):
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.fd, 65536)
        found = []
        while data:
            watch, mask, _, length = struct.unpack_from("iIII", data)
            found.append((watch, mask))
            data = data[16 + length :]
        return found

    def info(self):
        return Path(f"/proc/self/fdinfo/{self.fd}").read_text()

    def close(self):
        os.close(self.fd)


@pytest.fixture
def inotify():
    watches = Inotify()
    yield watches
    with contextlib.suppress(OSError):
        watches.close()


def test_a_watch_on_our_files_keeps_nothing_of_ours(inotify, target):
    fiber, *_ = target.create()
    watches = [inotify.add(path) for path in (target.folder, target.file(1), target.file(fiber))]
    assert target.file(1).read_bytes()
    inotify.events()
    leave(target)
    unload_when_free()
    # What the kernel can still do with the inodes that the watches hold.
    assert inotify.info().count("inotify wd:") <= len(watches)
    inotify.events()
    for _ in range(2):
        load()
        with Target() as other:
            other.do("open")
            other.do("convert")
            inotify.add(other.folder)
            inotify.add(other.file(1))
            assert other.file(1).read_bytes()
        inotify.info()
        unload_when_free()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    inotify.info()
    for watch in watches:
        inotify.remove(watch)
    inotify.events()
    inotify.close()


def test_a_watch_that_is_closed_after_us(target):
    fiber, *_ = target.create()
    watches = [Inotify() for _ in range(3)]
    for each in watches:
        each.add(target.folder)
        each.add(target.file(fiber))
    leave(target)
    unload_when_free()
    for each in watches:
        each.close()
    load()


def test_a_watch_outlives_the_mount(inotify, target, tmp_path):
    """The inode is given up with its file system, long after the module has gone."""
    subprocess.run(["mount", "-t", "proc", "proc", tmp_path], check=True, timeout=30)
    mounted = True
    try:
        folder = tmp_path / str(target.pid) / "fiber"
        inotify.add(folder)
        inotify.add(folder / "1")
        leave(target)
        unload_when_free()
        inotify.info()
        subprocess.run(["umount", tmp_path], check=True, timeout=30)
        mounted = False
        # IN_UNMOUNT, IN_IGNORED
        assert inotify.events()
    finally:
        if mounted:
            subprocess.run(["umount", "-l", tmp_path], check=True, timeout=30)


def test_a_mark_of_fanotify_keeps_nothing_of_ours(target):
    fd = _libc.fanotify_init(0x2, os.O_RDONLY)
    if fd < 0:
        pytest.skip(f"this kernel has no fanotify: {os.strerror(ctypes.get_errno())}")
    try:

        def mark(how, path):
            args = (fd, how, ctypes.c_uint64(FAN_ALL), -100, os.fsencode(path))
            return 0 if _libc.fanotify_mark(*args) == 0 else ctypes.get_errno()

        for path in (target.folder, target.file(1)):
            if err := mark(FAN_MARK_ADD, path):
                pytest.skip(f"this kernel marks no such file: {os.strerror(err)}")
        os.set_blocking(fd, False)
        # An event has a descriptor of the file, which holds the module.
        assert target.file(1).read_bytes()
        with contextlib.suppress(BlockingIOError):
            data = os.read(fd, 65536)
            while data:
                length, _, _, _, _, opened, _ = struct.unpack_from("IBBHQii", data)
                if opened >= 0:
                    os.close(opened)
                data = data[length:]
        leave(target)
        unload_when_free()
        assert Path(f"/proc/self/fdinfo/{fd}").read_text()
        load()
    finally:
        os.close(fd)


# Unloading


def test_handles_of_the_dead_are_harmless(target):
    """What is held of a process in /proc, past its end, the module's, and after a new load."""
    folder = os.open(f"/proc/{target.pid}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert "fiber" in os.listdir(folder)
        leave(target)
        unload_when_free()
        assert "fiber" not in os.listdir(folder)
        target.end()
        with pytest.raises(OSError):
            os.stat("fiber", dir_fd=folder)
        load()
        with pytest.raises(OSError):
            os.stat("fiber", dir_fd=folder)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            assert "fiber" not in os.listdir(folder)
    finally:
        os.close(folder)


# Those whose cases take neither processors nor parameters of the module.
UNDER = ["kin", "late_pages", "namesakes", "per_thread", "probes", "sight", "table_tricks"]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("program", UNDER)
def test_unloaded_under(program):
    """Again and again while the attacks run: what they see of it is their affair.

    A case fails where the module has just gone. It must end, nothing may be said in the kernel's
    log, and the module must go as soon as they have.
    """
    listed = subprocess.run(
        [PROGRAMS / f"kmod_attacks_{program}", "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    loads = 0
    for case in listed:
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with started(f"attacks_{program}", case, **silent) as process:
            deadline = time.monotonic() + 600
            while process.poll() is None:
                if loaded():
                    try:
                        unload()
                    except OSError as error:
                        assert error.errno in (errno.EBUSY, errno.EWOULDBLOCK)
                        time.sleep(0.001)
                else:
                    load()
                    loads += 1
                assert time.monotonic() < deadline, f"{case} does not end"
    if not loaded():
        load()
    unload_when_free()
    print(f"{loads} loads")
