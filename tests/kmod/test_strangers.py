# SPDX-License-Identifier: MIT
"""A process's fibers under the eyes and in the hands of others: users, namespaces, mounts,
32-bit programs, gdb, a memory cgroup. strangers.c has what needs no second program."""

import contextlib
import errno
import fcntl
import functools
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from kmod.target import PROGRAMS, STRANGER, Target, as_user, lines, parameter, wait_for

pytestmark = pytest.mark.guest

ADDRESSES = [
    "Initial entry point",
    "Saved instruction pointer",
    "Saved stack pointer",
    "Stack start",
]
COUNTERS = ("processes", "threads", "fibers")


def counters():
    return {name: int(parameter(name)) for name in COUNTERS}


def wait_until_none_are_left():
    """What has ended is freed a moment later."""
    wait_for(lambda: not any(counters().values()), "all fibers to be freed")


def run(*words, status=0):
    """What a program says on standard output; it must end with that status."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def ready(target):
    """Gives it fiber 1, which runs, and fiber 2, which is suspended and whose id is given."""
    target.do("open")
    target.do("convert")
    fiber, *_ = target.create(name=b"seen")
    target.do("enter", fiber)
    return fiber


@pytest.fixture
def target():
    with Target() as process:
        ready(process)
        yield process


# Users, capabilities and user namespaces

USER = ("setpriv", "--reuid", STRANGER, "--regid", STRANGER, "--clear-groups")
VIEWERS = {
    "root": (),
    "root without the capability": ("setpriv", "--bounding-set", "-sys_ptrace"),
    "root with the capability only": ("setpriv", "--bounding-set", "-all,+sys_ptrace"),
    "user": USER,
    "user in another group": (*USER[:4], STRANGER + 1, "--clear-groups"),
    "user with the capability": (
        *USER,
        *("--inh-caps", "+sys_ptrace", "--ambient-caps", "+sys_ptrace"),
    ),
    "other user": (*USER[:2], STRANGER + 1, "--regid", STRANGER + 1, "--clear-groups"),
    "root of a namespace of root's": ("unshare", "--user", "--map-root-user"),
    "root of a namespace of the user's": (*USER, "unshare", "--user", "--map-root-user"),
    "root of a namespace of another's": (
        *(*USER[:2], STRANGER + 1, "--regid", STRANGER + 1, "--clear-groups"),
        *("unshare", "--user", "--map-root-user"),
    ),
}
# A program whose path is longer than any link can tell.
FAR_BELOW = """
cd "$(mktemp -d)" && name=$(printf %0200d 0)
for level in $(seq 24); do mkdir "$name" && cd -P "$name" || exit; done
cp "$0" program && exec ./program "$@"
"""
# A target's prefix, and what it does before it is looked at.
TARGETS = {
    "root's": ((), ()),
    "the user's": ((), (("ids", STRANGER), ("dumpable", 1))),
    "the user's, not dumpable": ((), (("ids", STRANGER),)),
    "in a namespace of root's": (("unshare", "--user", "--map-root-user"), ()),
    "the user's, in a file far below": (
        ("sh", "-c", FAR_BELOW),
        (("ids", STRANGER), ("dumpable", 1)),
    ),
    "in a namespace of the user's": ((*USER, "unshare", "--user", "--map-root-user"), ()),
}


def shown_and_allowed(prefix, target, fiber):
    """Whether a viewer sees addresses, and whether it can read /proc/PID/maps."""
    maps = f"head -c 1 /proc/{target.pid}/maps 2>/dev/null | wc -c"
    text = run(*prefix, "sh", "-c", f"{maps}; cat {target.file(fiber)}")
    readable, _, fiber_text = text.partition("\n")
    values = dict(line.split(": ", 1) for line in fiber_text.splitlines())
    shown = {int(values[key], 16) != 0 for key in ADDRESSES}
    assert len(shown) == 1, "some addresses are shown and some are not"
    assert values["Name"] == "seen"
    return shown.pop(), readable == "1"


@pytest.mark.parametrize("which", TARGETS)
def test_addresses_are_for_whom_the_kernel_shows_its_own(which):
    prefix, actions = TARGETS[which]
    with Target(*map(str, prefix)) as target:
        fiber = ready(target)
        for action in actions:
            target.do(*action)
        looks = {
            viewer: shown_and_allowed(viewer_prefix, target, fiber)
            for viewer, viewer_prefix in VIEWERS.items()
        }
    assert {viewer: shown for viewer, (shown, _) in looks.items()} == {
        viewer: allowed for viewer, (_, allowed) in looks.items()
    }
    # The question is the right one.
    assert looks["root"] == (True, True)
    assert looks["other user"] == (False, False)
    assert looks["root of a namespace of another's"] == (False, False)
    assert looks["user with the capability"][0] == (which != "root's" or looks["root"][0])


def test_root_of_a_user_namespace_sees_its_own():
    with Target("unshare", "--user", "--map-root-user") as target:
        fiber = ready(target)
        text = run(
            *("nsenter", "--target", target.pid, "--user", "--preserve-credentials"),
            *("cat", target.file(fiber)),
        )
        values = dict(line.split(": ", 1) for line in text.splitlines())
        assert all(int(values[key], 16) for key in ADDRESSES)
        # It may use all requests.
        target.do("name", fiber, b"inside".hex())
        target.do("enter", fiber)
        target.do("delete", fiber)
        target.do("revert")


def test_another_user_changes_nothing(target):
    before = [pair for pair in lines(target.file(2)) if pair[0] != "Last switch ns ago"]

    def try_all():
        file, folder = target.file(2), target.folder
        for change in (
            lambda: os.open(file, os.O_WRONLY),
            lambda: os.open(file, os.O_RDWR),
            lambda: os.truncate(file, 0),
            lambda: file.chmod(0o666),
            lambda: folder.chmod(0o777),
            lambda: os.chown(file, STRANGER, STRANGER),
            lambda: os.chown(folder, STRANGER, STRANGER),
            lambda: os.utime(file, (0, 0)),
            lambda: file.unlink(),
            lambda: file.rename(folder / "7"),
            lambda: os.link(file, folder / "7"),
            lambda: os.symlink("/", folder / "7"),
            lambda: (folder / "7").mkdir(),
            lambda: os.mkfifo(folder / "7"),
            lambda: os.open(folder / "7", os.O_CREAT | os.O_WRONLY),
            lambda: os.setxattr(file, "user.x", b"x"),
            lambda: os.rmdir(folder),
        ):
            with pytest.raises(OSError) as error:
                change()
            assert error.value.errno in (
                errno.EPERM,
                errno.EACCES,
                errno.ENOENT,
                errno.EXDEV,
                errno.EOPNOTSUPP,
            )
        # A file of /proc has no requests of its own.
        with file.open("rb") as stream, pytest.raises(OSError) as error:
            fcntl.ioctl(stream, 0xFB00)
        assert error.value.errno == errno.ENOTTY
        return True

    assert as_user(STRANGER, try_all)
    after = [pair for pair in lines(target.file(2)) if pair[0] != "Last switch ns ago"]
    assert after == before
    assert sorted(os.listdir(target.folder)) == ["1", "2"]
    target.do("enter", 2)


# PID namespaces and mounts


@pytest.fixture
def mount(tmp_path):
    """Mounts a file system: its type and options."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent == Path("/tmp"):
            break
        parent.chmod(parent.stat().st_mode | 0o011)
    with contextlib.ExitStack() as mounted:

        def mount_(kind, options):
            place = tmp_path / f"{kind}{len(os.listdir(tmp_path))}"
            place.mkdir()
            run("mount", "-t", kind, "-o", options, kind, place)
            mounted.callback(run, "umount", place)
            return place

        yield mount_


def test_numbers_are_the_mounts_whoever_reads(target):
    """Inside a PID namespace, by the outer one's /proc."""
    fiber, *_ = target.create("hold")
    thread, own = target.do("hold", fiber)
    text = run("unshare", "--pid", "--fork", "cat", target.file(fiber), target.file(own))
    assert re.findall(r"(?m)^Parent thread id: (\d+)$", text) == [str(target.pid), str(thread)]
    assert re.findall(r"(?m)^Thread id: (\d+)$", text) == [str(thread), "0"]


def test_namespace_within_a_namespace():
    """A /proc for each level; the innermost process is in all of them."""
    nested = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    with Target(*nested, *nested) as target:
        fiber = ready(target)
        assert target.pid == 1

        def only_child(pid):
            (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return int(child)

        middle = only_child(target.outer_pid)
        innermost = only_child(middle)
        assert lines(f"/proc/{innermost}/fiber/{fiber}")[2] == (
            "Parent thread id",
            str(innermost),
        )
        assert not Path(f"/proc/{middle}/fiber").exists()
        for level, number in ((middle, 2), (innermost, 1)):
            text = run(
                *("nsenter", "--target", level, "--pid", "unshare", "--mount-proc"),
                *("sh", "-c", f"ls -d /proc/*/fiber; cat /proc/{number}/fiber/{fiber}"),
            )
            listed = re.findall(r"(?m)^/proc/(\d+)/fiber$", text)
            assert listed == [str(number)]
            assert f"\nParent thread id: {number}\n" in text


def test_hidepid_ptraceable(target, mount):
    place = mount("proc", "hidepid=ptraceable")
    folder = place / str(target.pid) / "fiber"

    def look():
        for access in (os.listdir, os.stat, lambda path: (path / "1").read_bytes()):
            with pytest.raises(OSError) as error:
                access(folder)
            # As the kernel says in such a mount: EPERM where root has just looked.
            assert error.value.errno in (errno.ENOENT, errno.EPERM)
        return str(target.pid) in os.listdir(place)

    assert as_user(STRANGER, look) is False
    assert sorted(os.listdir(folder)) == ["1", "2"]
    target.do("ids", STRANGER)
    assert as_user(STRANGER, look) is False
    target.do("dumpable", 1)
    assert sorted(as_user(STRANGER, lambda: os.listdir(folder))) == ["1", "2"]


def test_mount_of_processes_only(target, mount):
    place = mount("proc", "subset=pid")
    assert sorted(os.listdir(place / str(target.pid) / "fiber")) == ["1", "2"]
    assert lines(place / str(target.pid) / "fiber" / "1")[0] == ("Running", "yes")


def test_read_only_mount_of_one_process(target, tmp_path):
    """A bind mount, as containers have them, over another place."""
    place = tmp_path / "bound"
    place.mkdir()
    run("mount", "--bind", "-o", "ro", target.folder.parent, place)
    try:
        assert sorted(os.listdir(place / "fiber")) == ["1", "2"]
        assert lines(place / "fiber" / "2")[6] == ("Name", "seen")
    finally:
        run("umount", place)
    place.rmdir()


# 32-bit programs


@pytest.fixture(scope="module")
def caller32():
    program = PROGRAMS / "kmod_caller32"
    try:
        subprocess.run([program], timeout=30)
    except OSError as error:
        assert error.errno == errno.ENOEXEC
        pytest.skip("this kernel runs no 32-bit programs")
    return program


def test_every_request_of_a_32_bit_program_is_enotty(caller32):
    assert run(caller32, "requests") == ""
    wait_until_none_are_left()


def test_32_bit_program_with_an_inherited_descriptor(caller32):
    run("sh", "-c", f"exec {caller32} inherited </dev/fiber")


def test_32_bit_program_lists_and_reads(caller32, target):
    for _ in range(20):
        target.create(name=b"seen")
    text = run(caller32, "look", target.folder)
    assert text.count("Running: ") == 22
    assert text.count("\nName: seen\n") == 21
    # It is root's.
    assert "Stack start: 0x0000000000000000" in text
    assert len(set(re.findall(r"Stack start: (0x\w+)", text))) == 22


# gdb


def gdb(*commands, program):
    if shutil.which("gdb") is None:
        pytest.skip("no gdb here; apt-get install gdb")
    words = ["gdb", "-nx", "-batch"]
    for command in (
        "set confirm off",
        "set debuginfod enabled off",
        "set breakpoint pending off",
        "set width 0",
        *commands,
    ):
        words += ["-ex", command]
    done = subprocess.run(
        [*words, *program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


VISITS = ("--args", PROGRAMS / "kmod_strangers", "debugged_fiber_visits_two_threads")


def test_gdb_stops_in_a_fiber_on_both_threads():
    look = ('printf "in thread %d\\n", $_thread', "backtrace")
    said = gdb(
        "break visit",
        "run",
        *look,
        "finish",
        'printf "then in thread %d\\n", $_thread',
        "continue",
        *look,
        "finish",
        'printf "then in thread %d\\n", $_thread',
        "continue",
        *look,
        "delete",
        "detach",
        program=VISITS,
    )
    assert re.findall(r"(?m)^in thread (\d)$", said) == ["1", "2", "1"], said
    assert re.findall(r"(?m)^then in thread (\d)$", said) == ["1", "2"], said
    # The fiber's stack and not the thread's, up to its beginning.
    assert re.findall(r"(?m)^#0 .*\bvisit \(.*=(\d)\)", said) == ["1", "2", "3"], said
    assert len(re.findall(r"(?m)^#1 .*\bvisitor \(", said)) == 3, said
    # That is what the entry function would return to, and the last.
    assert len(re.findall(r"(?m)^#2 ", said)) == 3, said
    assert not re.search(r"(?m)^#3", said), said
    # Detached, it goes on to its end.
    assert "visited 99 times" in said
    wait_until_none_are_left()


def test_gdb_steps_over_switches():
    """An instruction: the next one is another fiber's. In it `finish` and `up` work as ever."""
    said = gdb(
        "break *(fiber_switch_resume - 2)",
        "run",
        # Into the new fiber, and as soon as it is left out of it.
        "stepi",
        'printf "begins %d\\n", $pc == (unsigned long)visitor',
        "backtrace 1",
        "continue",
        "backtrace",
        "stepi",
        'printf "returns %d %d\\n", $pc == (unsigned long)fiber_switch_resume, $rax == 0',
        "backtrace",
        "delete",
        "finish",
        "kill",
        program=VISITS,
    )
    assert "begins 1\n" in said, said
    assert "returns 1 1\n" in said, said
    frames = re.findall(r"(?m)^#\d+ .*?\b(\w+) \(", said)
    assert frames[0] == "visitor", said
    # Each in its own stack: the fiber's when it leaves, then the thread's.
    assert frames[1:3] == ["fiber_switch", "visitor"], said
    assert frames[frames.index("fiber_switch", 2) :][:2] == [
        "fiber_switch",
        "debugged_fiber_visits_two_threads",
    ], said
    assert "Value returned is $1 = 0\n" in said, said


def test_gdb_attaches_to_a_process_with_fibers(target):
    fiber, *_ = target.create("hold")
    thread, _ = target.do("hold", fiber)
    said = gdb("thread apply all backtrace", "detach", program=("-p", str(target.pid)))
    # The second thread's backtrace is that of the fiber it runs.
    (held,) = re.findall(rf"(?ms)^Thread \d+ \(.*?LWP {thread}\).*?(?=^Thread|\Z)", said)
    assert re.search(r"(?m)^#\d+ .*\bhold \(", held), said
    assert "holder (" not in held, said
    target.do("enter", 2)
    assert dict(lines(target.file(fiber)))["Thread id"] == str(thread)


# Memory


@pytest.fixture
def cgroup(mount):
    """Makes a memory cgroup; the fixture's value makes one with a limit in bytes."""
    try:
        place = mount("cgroup2", "rw")
    except AssertionError:
        pytest.skip("this kernel has no cgroup2")
    if "memory" not in (place / "cgroup.controllers").read_text().split():
        pytest.skip("cgroup2 has no memory controller here")
    (place / "cgroup.subtree_control").write_text("+memory")
    with contextlib.ExitStack() as made:

        def make(limit="max"):
            group = place / f"kfiber{len(list(place.glob('kfiber*')))}"
            group.mkdir()
            made.callback(
                wait_for, functools.partial(removed, group), "the cgroup's last process to go"
            )
            (group / "memory.max").write_text(str(limit))
            with contextlib.suppress(FileNotFoundError):
                (group / "memory.swap.max").write_text("0")
            return group

        yield make


def removed(group):
    try:
        group.rmdir()
    except OSError as error:
        assert error.errno == errno.EBUSY
        return False
    return True


def slab(group):
    values = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(values["slab"])


def enter(group, target):
    (group / "cgroup.procs").write_text(str(target.pid))


def test_fibers_are_charged_to_their_process(cgroup):
    group = cgroup()
    with Target() as target:
        enter(group, target)
        ready(target)
        before = slab(group)
        target.do("crowd", 4000)
        # At least the fiber itself: name, times, registers.
        assert slab(group) - before > 4000 * 200
    wait_until_none_are_left()


def test_without_memory_in_its_cgroup_creation_is_enomem(cgroup):
    """For a process that the kernel may not kill for that."""
    group = cgroup(8 << 20)
    with Target() as target:
        Path(f"/proc/{target.pid}/oom_score_adj").write_text("-1000")
        enter(group, target)
        fiber = ready(target)
        assert target.refused("crowd", 65000) == errno.ENOMEM
        made = counters()["fibers"]
        assert 1000 < made < 65000
        # None is half there, and those that are go on.
        ids = os.listdir(target.folder)
        assert len(ids) == made
        target.do("enter", fiber)
        for each in sorted(map(int, ids))[-500:]:
            target.do("delete", each)
        wait_for(lambda: counters()["fibers"] == made - 500, "the deleted to be freed")
        target.create()
        with Target() as other:
            ready(other)
    wait_until_none_are_left()


def test_killed_for_memory_in_its_cgroup(cgroup):
    group = cgroup(8 << 20)
    wait_until_none_are_left()
    with Target() as bystander:
        ready(bystander)
        before = counters()
        target = Target()
        try:
            enter(group, target)
            ready(target)
            with pytest.raises(AssertionError, match="the target has ended"):
                target.do("crowd", 65000)
        finally:
            target.end()
        assert target.status == -signal.SIGKILL
        assert "oom_kill 1\n" in (group / "memory.events").read_text()
        wait_for(lambda: counters() == before, "the killed process's fibers to be freed")
        wait_for(lambda: slab(group) < 1 << 20, "their memory to be uncharged")
        bystander.do("enter", 2)
