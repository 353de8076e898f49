# SPDX-License-Identifier: MIT
"""/proc/PID/fiber, looked at with what everybody uses: listing, reading, entering, seeking."""

import ctypes
import errno
import os
import re
import stat
import struct
import subprocess
import time
from pathlib import Path

import pytest
from kmod.target import KEYS, STRANGER, Target, as_user, lines, wait_for

pytestmark = pytest.mark.guest

ADDRESSES = [
    "Initial entry point",
    "Saved instruction pointer",
    "Saved stack pointer",
    "Stack start",
]

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def target():
    with Target() as process:
        process.do("open")
        process.do("convert")
        yield process


def address(number):
    return f"0x{number:016x}"


def entries(fd, size):
    """What getdents64() with a buffer of that size gives from here: (name, offset)."""
    buffer = ctypes.create_string_buffer(size)
    while True:
        count = _libc.syscall(217, fd, buffer, size)
        if count < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if count == 0:
            return
        place = 0
        while place < count:
            _, offset, length, _ = struct.unpack_from("=QqHB", buffer.raw, place)
            name = buffer.raw[place + 19 : place + length].split(b"\0")[0].decode()
            yield name, offset
            place += length


def open_folder(path):
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


# The text


def test_lines_of_a_new_fiber(target):
    fiber, entry, start, size, top = target.create(name=b"cell 17")
    found = lines(target.file(fiber))
    assert [key for key, _ in found] == KEYS
    values = dict(found)
    assert 0 <= int(values.pop("Last switch ns ago")) < 60 * 10**9
    assert values == {
        "Running": "no",
        "Initial entry point": address(entry),
        "Parent thread id": str(target.pid),
        "Number of activations": "0",
        "Number of failed activations": "0",
        "Total execution time": "0 ms",
        "Name": "cell 17",
        "State": "new",
        "Thread id": "0",
        "CPU time ns": "0",
        "Longest run ns": "0",
        "Saved instruction pointer": address(entry),
        "Saved stack pointer": address(top),
        "Stack start": address(start),
        "Stack size": str(size),
        "Engine": "kernel",
    }


def test_first_six_lines_are_the_reports(target):
    fiber, entry, *_ = target.create()
    target.do("enter", fiber)
    text = target.file(fiber).read_text()
    assert re.fullmatch(
        rf"Running: no\nInitial entry point: {address(entry)}\nParent thread id: {target.pid}\n"
        r"Number of activations: 1\nNumber of failed activations: 0\n"
        r"Total execution time: \d+ ms\n",
        "".join(text.splitlines(keepends=True)[:6]),
    )


def test_lines_of_a_suspended_fiber(target):
    fiber, entry, start, size, _ = target.create()
    for _ in range(3):
        resume, stack_pointer = target.do("enter", fiber)
    values = dict(lines(target.file(fiber)))
    assert values["Running"] == "no"
    assert values["State"] == "suspended"
    assert values["Thread id"] == "0"
    assert values["Number of activations"] == "3"
    assert values["Initial entry point"] == address(entry)
    assert values["Saved instruction pointer"] == address(resume)
    assert values["Stack start"] == address(start)
    assert values["Stack size"] == str(size)
    assert start < stack_pointer < start + size
    assert values["Saved stack pointer"] == address(stack_pointer)
    cpu, longest = int(values["CPU time ns"]), int(values["Longest run ns"])
    assert 0 < longest <= cpu
    assert values["Total execution time"] == f"{cpu // 10**6} ms"


def test_lines_of_a_fiber_that_is_its_thread(target):
    (before,) = target.do("burn", 20)
    values = dict(lines(target.file(1)))
    (after,) = target.do("burn", 0)
    assert values["Running"] == "yes"
    assert values["State"] == "running"
    assert values["Thread id"] == str(target.pid)
    assert values["Parent thread id"] == str(target.pid)
    assert values["Number of activations"] == "0"
    assert values["Name"] == ""
    # It runs: what is saved is old.
    assert values["Saved instruction pointer"] == address(0)
    assert values["Saved stack pointer"] == address(0)
    # Nobody told the kernel of a thread's own stack.
    assert values["Stack start"] == address(0)
    assert values["Stack size"] == "0"
    assert int(values["Initial entry point"], 16) > 0
    assert 20 * 10**6 * 0.98 <= int(values["CPU time ns"]) <= after * 1.02
    assert before <= after


def test_lines_of_a_fiber_on_another_thread(target):
    fiber, *_ = target.create("hold")
    thread, own = target.do("hold", fiber)
    for _ in range(4):
        assert target.refused("enter", fiber) == errno.EBUSY
    values = dict(lines(target.file(fiber)))
    assert values["Running"] == "yes"
    assert values["State"] == "running"
    assert values["Thread id"] == str(thread) != str(target.pid)
    assert values["Parent thread id"] == str(target.pid)
    assert values["Number of activations"] == "1"
    assert values["Number of failed activations"] == "4"
    values = dict(lines(target.file(own)))
    assert values["Parent thread id"] == str(thread)
    assert values["State"] == "suspended"


def test_last_switch_grows_with_the_wall_clock(target):
    fiber, *_ = target.create()
    earliest = time.monotonic_ns()
    target.do("enter", fiber)
    latest = time.monotonic_ns()
    wait_for(lambda: time.monotonic_ns() > latest + 50 * 10**6, "50 ms")
    before = time.monotonic_ns()
    shown = int(dict(lines(target.file(fiber)))["Last switch ns ago"])
    after = time.monotonic_ns()
    # The kernel's clock of this may run a little differently.
    assert (before - latest) * 0.98 <= shown <= (after - earliest) * 1.02


def test_failed_activations_of_oneself(target):
    assert target.refused("enter", 1) == errno.EINVAL
    assert target.refused("enter", 1) == errno.EINVAL
    values = dict(lines(target.file(1)))
    assert values["Number of failed activations"] == "2"
    assert values["Number of activations"] == "0"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"", ""),
        (b"two words: one", "two words: one"),
        (b"line\nState: running", r"line\012State: running"),
        (b"\x1b[31mred\x1b[0m", r"\033[31mred\033[0m"),
        (b"back\\slash\\012", r"back\134slash\134012"),
        (b"\r\t\x07\x7f\x01", r"\015\011\007\177\001"),
        (b"%s %n", "%s %n"),
        (b"x" * 63, "x" * 63),
        (b"\n" * 63, r"\012" * 63),
    ],
)
def test_names_are_one_harmless_line(target, name, shown):
    fiber, *_ = target.create(name=name)
    found = lines(target.file(fiber))
    assert [key for key, _ in found] == KEYS
    assert dict(found)["Name"] == shown
    target.do("name", fiber, b"other".hex())
    assert dict(lines(target.file(fiber)))["Name"] == "other"
    target.do("name", fiber, name.hex())
    assert dict(lines(target.file(fiber)))["Name"] == shown


def test_name_in_utf_8_is_not_mangled(target):
    name = "Fäden ☂".encode()
    fiber, *_ = target.create(name=name)
    assert b"\nName: " + name + b"\n" in target.file(fiber).read_bytes()


def test_read_in_pieces_is_read_whole(target):
    fiber, *_ = target.create(name=b"in pieces")
    with target.file(fiber).open("rb", buffering=0) as file:
        whole = file.read(65536)
        file.seek(0)
        # Times go on between reads of the whole, not within one.
        pieces = b"".join(iter(lambda: file.read(7), b""))
    stable = re.compile(rb"Last switch ns ago: \d+")
    assert stable.sub(b"", pieces) == stable.sub(b"", whole)


# The directory


def test_listing_has_every_fiber(target):
    ids = [target.create()[0] for _ in range(20)]
    assert sorted(os.listdir(target.folder), key=int) == [str(i) for i in [1, *ids]]
    target.do("delete", ids[5])
    assert str(ids[5]) not in os.listdir(target.folder)
    later = target.create()[0]
    assert later > 1 << 20
    assert str(later) in os.listdir(target.folder)


def test_tools_of_the_shell(target):
    """Row 10: listed by ls, entered by cd, read by cat; and find."""
    fiber, *_ = target.create(name=b"found")
    shell = subprocess.run(
        [
            "sh",
            "-ec",
            'cd "/proc/$0/fiber"; pwd; ls; cat "$1"; find . -type f | sort; ls -ld .',
            str(target.pid),
            str(fiber),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    out = shell.stdout.splitlines()
    assert out[0] == str(target.folder)
    assert out[1:3] == ["1", str(fiber)]
    assert out[3] == "Running: no"
    assert "Name: found" in out
    assert ["./1", f"./{fiber}"] == out[-3:-1]
    assert out[-1].startswith("dr-xr-xr-x")
    assert shell.stderr == ""


def test_find_reaches_it_from_above(target):
    found = subprocess.run(
        ["find", f"/proc/{target.pid}", "-maxdepth", "2", "-path", "*/fiber*"],
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.splitlines()
    assert sorted(found) == [str(target.folder), str(target.file(1))]


def test_self():
    """In a process of its own: /proc/self is who looks."""
    program = (
        "import fcntl, os, struct\n"
        "fd = os.open('/dev/fiber', os.O_RDWR)\n"
        "assert not os.path.exists('/proc/self/fiber')\n"
        "fcntl.ioctl(fd, 0xfb01, struct.pack('IIQ', 16, 0, 0))\n"
        "assert os.listdir('/proc/self/fiber') == ['1']\n"
        "assert os.listdir('/proc/thread-self/../../fiber') == ['1']\n"
        "print(open('/proc/self/fiber/1').readline())\n"
    )
    done = subprocess.run(["python3", "-c", program], capture_output=True, text=True, timeout=600)
    assert (done.stdout, done.stderr) == ("Running: yes\n\n", "")


def test_absent_without_fibers(target):
    with Target() as other:
        assert not other.folder.exists()
        assert "fiber" not in os.listdir(other.folder.parent)
        other.do("open")
        assert not other.folder.exists()
        assert "fiber" not in os.listdir(other.folder.parent)
        # A name that the kernel remembered as absent comes to be.
        other.do("convert")
        assert other.folder.is_dir()
        assert os.listdir(other.folder.parent).count("fiber") == 1
    assert not other.folder.exists()
    assert "fiber" not in os.listdir("/proc/1")
    assert target.folder.is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "0",
        "2",
        "01",
        "+1",
        "-1",
        " 1",
        "1 ",
        "0x1",
        "1a",
        "1048577",
        "18446744073709551617",
        "9" * 30,
    ],
)
def test_only_a_fibers_number_is_a_name(target, name):
    with pytest.raises(FileNotFoundError):
        os.stat(target.folder / name)
    assert target.file(1).exists()


@pytest.mark.parametrize("size", [32, 40, 48, 56, 64, 100, 300, 4096])
def test_listing_with_any_buffer(target, size):
    ids = [target.create()[0] for _ in range(40)]
    wanted = [".", "..", *map(str, [1, *ids])]
    fd = open_folder(target.folder)
    try:
        assert [name for name, _ in entries(fd, size)] == wanted
    finally:
        os.close(fd)


def test_process_directory_with_any_buffer(target):
    """Nothing that was in /proc/PID is lost or comes twice for our one name in it."""
    with Target() as plain:
        theirs = sorted(os.listdir(plain.folder.parent))
    ours = sorted([*theirs, "fiber", ".", ".."])
    assert "fiber" not in theirs
    # The longest name there needs 40 bytes.
    for size in (48, 56, 64, 80, 128, 512, 32768):
        fd = open_folder(target.folder.parent)
        try:
            assert sorted(name for name, _ in entries(fd, size)) == ours
        finally:
            os.close(fd)


@pytest.mark.parametrize("with_fibers", [True, False])
def test_seeking_in_the_process_directory(target, with_fibers):
    """From each entry's offset on, the listing is what followed that entry."""
    with Target() as plain:
        folder = (target if with_fibers else plain).folder.parent
        fd = open_folder(folder)
        try:
            listing = list(entries(fd, 32768))
            offsets = [offset for _, offset in listing]
            assert len(set(offsets)) == len(offsets)
            for place, (_, offset) in enumerate(listing):
                os.lseek(fd, offset, os.SEEK_SET)
                assert list(entries(fd, 64)) == listing[place + 1 :]
            os.lseek(fd, 0, os.SEEK_SET)
            assert list(entries(fd, 48)) == listing
        finally:
            os.close(fd)


def test_seeking_in_the_fiber_directory(target):
    for _ in range(10):
        target.create()
    fd = open_folder(target.folder)
    try:
        listing = list(entries(fd, 4096))
        for place, (_, offset) in enumerate(listing):
            os.lseek(fd, offset, os.SEEK_SET)
            assert list(entries(fd, 32)) == listing[place + 1 :]
        for far in (1000, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1):
            try:
                os.lseek(fd, far, os.SEEK_SET)
            except OSError as error:
                assert error.errno == errno.EINVAL
            else:
                assert list(entries(fd, 4096)) == []
    finally:
        os.close(fd)


def test_listing_while_fibers_come_and_go(target):
    """Those that stay are listed once, whatever happens beside them."""
    keep = [target.create()[0] for _ in range(10)]
    fd = open_folder(target.folder)
    try:
        seen = []
        for number, (name, _) in enumerate(entries(fd, 32)):
            seen.append(name)
            if number % 3 == 0:
                target.do("delete", target.create()[0])
    finally:
        os.close(fd)
    for fiber in [1, *keep]:
        assert seen.count(str(fiber)) == 1


def test_two_thousand_fibers(target):
    (last,) = target.do("crowd", 2000)
    assert len(os.listdir(target.folder)) == 2001
    assert dict(lines(target.file(last)))["State"] == "new"


# Modes and owners


def test_modes(target):
    folder, file = target.folder.stat(), target.file(1).stat()
    assert stat.S_ISDIR(folder.st_mode)
    assert stat.S_IMODE(folder.st_mode) == 0o555
    assert folder.st_nlink == 2
    assert stat.S_ISREG(file.st_mode)
    assert stat.S_IMODE(file.st_mode) == 0o444


def test_numbers_of_inodes_are_the_listings(target):
    ids = [1, *(target.create()[0] for _ in range(30))]
    with os.scandir(target.folder) as entries_:
        listed = {entry.name: entry.inode() for entry in entries_}
    assert listed == {str(i): target.file(i).stat().st_ino for i in ids}
    assert len(set(listed.values())) == len(ids)


@pytest.mark.parametrize("which", ["folder", "file"])
def test_nobody_changes_them(target, which):
    path = target.folder if which == "folder" else target.file(1)
    for change in (
        lambda: path.chmod(0o777),
        lambda: os.chown(path, 0, 0),
        lambda: os.utime(path),
        lambda: os.truncate(path, 0) if which == "file" else path.chmod(0),
    ):
        with pytest.raises(PermissionError) as error:
            change()
        assert error.value.errno in (errno.EPERM, errno.EACCES)
    assert stat.S_IMODE(path.stat().st_mode) == (0o555 if which == "folder" else 0o444)


def test_files_cannot_be_written_made_or_removed(target):
    fd = os.open(target.file(1), os.O_RDONLY)
    try:
        with pytest.raises(OSError):
            os.write(fd, b"x")
    finally:
        os.close(fd)
    with pytest.raises(OSError):
        target.file(1).unlink()
    with pytest.raises(OSError):
        (target.folder / "new").write_text("x")
    with pytest.raises(OSError):
        (target.folder / "new").mkdir()
    assert os.listdir(target.folder) == ["1"]


def test_owner_follows_the_process(target):
    fiber, *_ = target.create()

    def owners():
        paths = (target.folder.parent, target.folder, target.file(fiber))
        return [(path.stat().st_uid, path.stat().st_gid) for path in paths]

    assert owners() == [(0, 0)] * 3
    # A directory that stays open, too.
    fd = open_folder(target.folder)
    try:
        target.do("ids", STRANGER)
        assert owners() == [(STRANGER, STRANGER)] * 3
        assert os.stat(str(fiber), dir_fd=fd).st_uid == STRANGER
    finally:
        os.close(fd)


# Strangers


def test_strangers_read_all_but_addresses(target):
    fiber, *_ = target.create(name=b"private?")
    target.do("enter", fiber)
    ours = dict(lines(target.file(fiber)))
    theirs = as_user(STRANGER, lambda: lines(target.file(fiber)))
    assert [key for key, _ in theirs] == KEYS
    theirs = dict(theirs)
    for key in ADDRESSES:
        assert theirs.pop(key) == address(0)
        assert int(ours.pop(key), 16) > 0
    assert int(theirs.pop("Last switch ns ago")) > int(ours.pop("Last switch ns ago"))
    assert theirs == ours


def test_strangers_list(target):
    assert as_user(STRANGER, lambda: os.listdir(target.folder)) == ["1"]


def addresses_of(path):
    values = dict(lines(path))
    return [int(values[key], 16) for key in ADDRESSES]


def test_user_sees_addresses_of_own_processes_only(target):
    fiber, *_ = target.create()
    target.do("ids", STRANGER)
    # After a change of credentials the process may not be dumped.
    assert as_user(STRANGER, lambda: addresses_of(target.file(fiber))) == [0] * 4
    target.do("dumpable", 1)
    assert all(as_user(STRANGER, lambda: addresses_of(target.file(fiber))))
    assert as_user(STRANGER + 1, lambda: addresses_of(target.file(fiber))) == [0] * 4
    # root may debug it.
    assert all(addresses_of(target.file(fiber)))


def test_decided_when_opened(target):
    """With the opener's rights, whoever reads."""
    fiber, *_ = target.create()
    fd = os.open(target.file(fiber), os.O_RDONLY)
    try:
        text = as_user(STRANGER, lambda: os.read(fd, 4096).decode())
    finally:
        os.close(fd)
    assert f"Saved instruction pointer: {address(0)}\n" not in text


# Ends


def read_again(fd):
    os.lseek(fd, 0, os.SEEK_SET)
    return os.read(fd, 4096)


def test_open_file_of_a_deleted_fiber_is_esrch(target):
    fiber, *_ = target.create()
    fd = os.open(target.file(fiber), os.O_RDONLY)
    try:
        assert read_again(fd)
        target.do("delete", fiber)
        with pytest.raises(ProcessLookupError):
            read_again(fd)
        # Its slot's next tenant is not shown by the old file.
        target.create()
        with pytest.raises(ProcessLookupError):
            read_again(fd)
    finally:
        os.close(fd)
    assert not target.file(fiber).exists()


def test_open_file_of_an_earlier_image_is_esrch(target):
    fd = os.open(target.file(1), os.O_RDONLY)
    folder = open_folder(target.folder)
    try:
        assert read_again(fd)
        target.do("close")
        target.exec()
        with pytest.raises(ProcessLookupError):
            read_again(fd)
        assert not target.folder.exists()
        target.do("open")
        target.do("convert")
        # The new image's fiber 1 has a file of its own.
        assert lines(target.file(1))[0] == ("Running", "yes")
        with pytest.raises(ProcessLookupError):
            read_again(fd)
        with pytest.raises(FileNotFoundError):
            list(entries(folder, 4096))
        with pytest.raises(FileNotFoundError):
            os.stat("1", dir_fd=folder)
    finally:
        os.close(folder)
        os.close(fd)


def test_everything_open_outlives_the_process():
    with Target() as target:
        target.do("open")
        target.do("convert")
        fd = os.open(target.file(1), os.O_RDONLY)
        folder = open_folder(target.folder)
        assert read_again(fd)
    try:
        wait_for(lambda: not target.folder.exists(), "the process' end")
        with pytest.raises(ProcessLookupError):
            read_again(fd)
        # As in the rest of /proc; libc makes an empty listing of it.
        with pytest.raises(FileNotFoundError):
            list(entries(folder, 4096))
    finally:
        os.close(folder)
        os.close(fd)


def test_no_fiber_is_left_after_revert(target):
    target.do("revert")
    assert not target.file(1).exists()
    assert not target.folder.exists() or os.listdir(target.folder) == []


# Namespaces and mount options


def test_pid_namespace():
    """In both views the numbers are the viewer's own."""
    with Target("unshare", "--pid", "--fork", "--mount-proc", "--kill-child") as target:
        target.do("open")
        target.do("convert")
        # The target is the first process of its namespace; unshare is its parent out here.
        assert target.pid == 1
        (outer,) = (
            int(pid)
            for pid in Path(f"/proc/{target.outer_pid}/task/{target.outer_pid}/children")
            .read_text()
            .split()
        )
        fiber, *_ = target.create("hold")
        thread, own = target.do("hold", fiber)
        (outer_thread,) = (
            int(tid) for tid in os.listdir(f"/proc/{outer}/task") if int(tid) != outer
        )
        inside = subprocess.run(
            [
                "nsenter",
                "--target",
                str(outer),
                "--pid",
                "--mount",
                "cat",
                f"/proc/1/fiber/{fiber}",
                f"/proc/1/fiber/{own}",
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        assert re.findall(r"(?m)^Parent thread id: (\d+)$", inside) == ["1", str(thread)]
        assert re.findall(r"(?m)^Thread id: (\d+)$", inside) == [str(thread), "0"]
        outside = Path(f"/proc/{outer}/fiber")
        values = dict(lines(outside / str(fiber)))
        assert values["Parent thread id"] == str(outer)
        assert values["Thread id"] == str(outer_thread)
        assert dict(lines(outside / str(own)))["Parent thread id"] == str(outer_thread)


def test_processes_of_an_outer_namespace_are_not_there():
    with Target() as target:
        target.do("open")
        target.do("convert")
        done = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", "ls", f"/proc/{target.pid}/fiber"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode != 0
        assert done.stdout == ""


@pytest.fixture
def mount_proc(tmp_path):
    """Mounts a proc with options of its own."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.is_mount() or parent == Path("/tmp"):
            break
        parent.chmod(parent.stat().st_mode | 0o011)
    mounted = []

    def mount(options):
        place = tmp_path / f"proc{len(mounted)}"
        place.mkdir()
        subprocess.run(
            ["mount", "-t", "proc", "-o", options, "proc", str(place)], check=True, timeout=30
        )
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True, timeout=30)


def test_hidepid_2_hides_fibers_too(target, mount_proc):
    place = mount_proc("hidepid=2")
    folder = place / str(target.pid) / "fiber"

    def look():
        with pytest.raises(FileNotFoundError):
            os.listdir(folder)
        with pytest.raises(FileNotFoundError):
            (folder / "1").read_bytes()
        return str(target.pid) in os.listdir(place)

    assert as_user(STRANGER, look) is False
    assert os.listdir(folder) == ["1"]
    target.do("ids", STRANGER)
    target.do("dumpable", 1)
    assert as_user(STRANGER, lambda: os.listdir(folder)) == ["1"]


def test_hidepid_holds_for_open_directories_too(target, mount_proc):
    """As it does for /proc/PID/task."""
    place = mount_proc("hidepid=2") / str(target.pid)
    names = {"fiber": "1", "task": str(target.pid)}
    folders = {name: os.open(place / name, os.O_RDONLY | os.O_DIRECTORY) for name in names}

    def look():
        errors = set()
        for folder, name in names.items():
            try:
                os.stat(name, dir_fd=folders[folder])
            except OSError as error:
                errors.add(error.errno)
            else:
                errors.add(0)
        return errors

    assert look() == {0}
    assert as_user(STRANGER, look) == {errno.ENOENT}
    target.do("ids", STRANGER)
    target.do("dumpable", 1)
    assert as_user(STRANGER, look) == {0}
    for folder in folders.values():
        os.close(folder)


def test_hidepid_1_refuses(target, mount_proc):
    place = mount_proc("hidepid=1")
    folder = place / str(target.pid) / "fiber"

    def look():
        with pytest.raises(PermissionError):
            os.listdir(folder)
        with pytest.raises(PermissionError):
            (folder / "1").read_bytes()
        return True

    assert as_user(STRANGER, look)
    assert os.listdir(folder) == ["1"]


def test_seen_through_every_mount(target, mount_proc):
    place = mount_proc("hidepid=0")
    fiber, *_ = target.create(name=b"both")
    here = dict(lines(target.file(fiber)))
    there = dict(lines(place / str(target.pid) / "fiber" / str(fiber)))
    del here["Last switch ns ago"], there["Last switch ns ago"]
    assert here == there
