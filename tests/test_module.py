# SPDX-License-Identifier: MIT
"""kfiber.module: building and its cache, with a compiler that is a script here."""

import errno
import fcntl
import grp
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from kfiber import cache, module
from kfiber.errors import KfiberError
from kfiber.vm import kernels

ROOT = Path(__file__).resolve().parents[1]

MAKE = """\
#!/bin/sh
# make -C TREE -jN M=DIR modules
echo called >> "$LOG"
for word; do case $word in M=*) dir=${word#M=} ;; esac; done
[ -f "$dir/Kbuild" ] && [ -f "$dir/../uapi/fiber.h" ] || exit 3
if [ -n "$FAIL" ]; then echo "fiber.c:1: error: no"; exit 2; fi
echo module > "$dir/fiber.ko"
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The log of a make that stands in for Kbuild; the cache is empty."""
    (tmp_path / "Makefile").touch()
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text(MAKE)
    make.chmod(0o755)
    monkeypatch.setenv("PATH", f"{make.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.delenv("FAIL", raising=False)
    return tmp_path / "log"


def test_a_build_is_kept_and_used_again(calls, tmp_path):
    first = module.build(tmp_path, "6.1")
    assert first.read_text() == "module\n"
    assert module.build(tmp_path, "6.1") == first
    assert calls.read_text() == "called\n"


def test_another_kernel_is_another_build(calls, tmp_path):
    (tmp_path / "Module.symvers").write_text("a")
    first = module.build(tmp_path, "6.1")
    (tmp_path / "Module.symvers").write_text("b")
    assert module.build(tmp_path, "6.1") != first


def test_a_failed_build_shows_the_compilers_words_and_leaves_nothing(
    calls, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(KfiberError, match=r"does not build against this kernel.*hint: "):
        module.build(tmp_path, "6.1")
    assert "fiber.c:1: error: no" in capfd.readouterr().err
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".lock"]
    monkeypatch.delenv("FAIL")
    assert module.build(tmp_path, "6.1").exists()


def test_what_is_no_kernel_is_told_before_make_is_called(calls, tmp_path):
    with pytest.raises(KfiberError, match=r"/etc has no kernel's build; hint: --kernel-dir "):
        module.build(Path("/etc"), "6.1")
    with pytest.raises(KfiberError, match=r"'\.\./x' is no kernel's version; hint: --release "):
        module.build(tmp_path, "../x")
    assert not calls.exists()


def test_a_cache_that_cannot_be_written_is_named(calls, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(KfiberError, match=r"cannot write .*/file/.*hint: set XDG_CACHE_HOME"):
        module.build(tmp_path, "6.1")


def test_who_waits_for_a_lock_is_told(tmp_path):
    told = []
    path = tmp_path / "lock"
    with cache.locked(path, lambda: told.append("free")):
        holder = path.open("w")
    fcntl.flock(holder, fcntl.LOCK_EX)
    # Closing the file is what lets the other one go on.
    with cache.locked(path, lambda: (told.append("held"), holder.close())):
        assert told == ["held"]


@pytest.mark.parametrize("home", ["", "relative"])
def test_only_an_absolute_cache_home_counts(tmp_path, monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache() == tmp_path / ".cache" / "kfiber"


def test_without_headers_the_error_names_their_package(monkeypatch):
    monkeypatch.setattr("platform.release", lambda: "0.0.0-none")
    with pytest.raises(KfiberError, match=r"hint: apt-get install linux-headers-0.0.0-none"):
        module.build()


def test_loading_without_the_right_prints_the_line_for_sudo(tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: name)
    line = f"sudo {sys.executable} -m kfiber module load a=1"
    with pytest.raises(KfiberError, match=rf"needs root; hint: {re.escape(line)}$"):
        module.load(tmp_path / "fiber.ko", {"a": "1"})


def elf(info):
    """A file with nothing but a section .modinfo, as the kernel's build lays it out."""
    names = b"\0.shstrtab\0.modinfo\0"
    content = b"\0".join(info) + b"\0"
    start = 64
    table = start + len(names) + len(content)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = ident + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 1)

    def section(name, offset, size):
        return struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 1, 0)

    sections = section(0, 0, 0) + section(1, start, len(names))
    sections += section(11, start + len(names), len(content))
    return header + names + content + sections


INFO = (
    b"version=0.1.0",
    b"parm=max_fibers:Fibers that a process may have, 1 to 1048575",
    b"parmtype=lookup:charp",
    b"parm=lookup:How a fiber is found: direct, hash",
    b"parmtype=undescribed:int",
    b"parm=fibers:Fibers in memory (read-only)",
)


@pytest.fixture
def fiber_ko(tmp_path):
    path = tmp_path / "fiber.ko"
    path.write_bytes(elf(INFO))
    return path


def test_a_module_file_says_its_parameters(fiber_ko):
    found = module.parameters(fiber_ko)
    assert list(found) == ["max_fibers", "lookup", "undescribed", "fibers"]
    assert found["lookup"].description == "How a fiber is found: direct, hash"
    assert [name for name, parameter in found.items() if parameter.read_only] == ["fibers"]


@pytest.mark.parametrize(
    "content",
    [b"", b"no module", b"\x7fELF\x02\x01" + b"\xff" * 100, elf(INFO)[:-64], elf([])[:64]],
)
def test_what_is_no_module_is_told_so(tmp_path, content):
    path = tmp_path / "fiber.ko"
    path.write_bytes(content)
    with pytest.raises(
        KfiberError, match=r"cannot read .*fiber\.ko: it is no kernel module; hint: "
    ):
        module.parameters(path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("max_fiber", r"it has no parameter max_fiber, did you mean max_fibers\?; hint: "),
        ("x", r"it has no parameter x; hint: its parameters are max_fibers, lookup, undescribed$"),
        ("fibers", "fibers is read-only; hint: "),
    ],
)
def test_a_parameter_that_cannot_be_set(fiber_ko, name, why):
    with pytest.raises(KfiberError, match=f"^cannot load the module: {why}"):
        module.check_parameters(fiber_ko, {"lookup": "hash", name: "1"})


def test_parameters_that_can_be_set(fiber_ko):
    module.check_parameters(fiber_ko, {"lookup": "hash", "max-fibers": "0", "undescribed": ""})


@pytest.fixture
def insmod(tmp_path, monkeypatch):
    """Makes an insmod that says something and fails; we are root for it, and nothing is loaded."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(module, "SYSFS", tmp_path / "sysfs")

    def make(says):
        program = tmp_path / "bin" / "insmod"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return make


def test_a_value_that_the_module_refuses(fiber_ko, insmod):
    insmod("insmod: ERROR: could not insert module fiber.ko: Invalid parameters")
    with pytest.raises(KfiberError) as caught:
        module.load(fiber_ko, {"max_fibers": "0"})
    assert str(caught.value) == (
        "loading the module failed: the module refused a value in max_fibers=0; "
        "hint: max_fibers: Fibers that a process may have, 1 to 1048575"
    )


def test_a_misspelt_parameter_does_not_reach_the_kernel(fiber_ko, insmod):
    insmod("called")
    with pytest.raises(KfiberError, match="did you mean lookup"):
        module.load(fiber_ko, {"lokup": "hash"})


def test_a_module_that_is_loaded_already(fiber_ko, insmod, tmp_path):
    insmod("insmod: ERROR: could not insert module fiber.ko: File exists")
    (tmp_path / "sysfs/parameters").mkdir(parents=True)
    (tmp_path / "sysfs/parameters/lookup").write_text("hash\n")
    (tmp_path / "sysfs/parameters/fibers").write_text("7\n")
    with pytest.raises(
        KfiberError, match=r"it is loaded already, with lookup=hash; hint: .* module unload$"
    ):
        module.load(fiber_ko)


def test_a_kernel_that_wants_a_signature(fiber_ko, insmod):
    insmod("insmod: ERROR: could not insert module fiber.ko: Key was rejected by service")
    with pytest.raises(KfiberError, match=r"Key was rejected by service; hint: .*secureboot\.md"):
        module.load(fiber_ko)


def configured(tmp_path, compiler):
    path = tmp_path / "include/config/auto.conf"
    path.parent.mkdir(parents=True)
    path.write_text(f"CONFIG_A=y\nCONFIG_CC_IS_{compiler}=y\n")
    return tmp_path


def install(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)


def test_a_kernel_built_by_gcc_is_built_for_as_before(tmp_path):
    assert module._toolchain(configured(tmp_path, "GCC")) == []
    assert module._toolchain(tmp_path / "none") == []


def test_a_kernel_built_by_clang_wants_llvm(tmp_path, monkeypatch):
    tree = configured(tmp_path, "CLANG")
    folder = tmp_path / "bin"
    install(folder, "clang", "llvm-ar", "llvm-nm")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(KfiberError) as caught:
        module._toolchain(tree)
    assert str(caught.value) == (
        "cannot build the module: this kernel was built by clang, and ld.lld, llvm-objcopy, "
        "llvm-strip cannot be found; hint: "
        "install what Debian's packages lld llvm have, from your distribution"
    )
    install(folder, "ld.lld", "llvm-objcopy", "llvm-strip")
    assert module._toolchain(tree) == ["LLVM=1"]


class Device(NamedTuple):
    path: Path
    owners: list
    entries: list


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A file in the device's place, on a machine with one group of members."""
    path = tmp_path / "device"
    path.touch(0o600)
    owners = []

    def chown(path, user, group):
        owners.append((user, group))

    groups = {"root": 0, "fiber": 777, "dev": 1234}
    entries = [grp.struct_group((name, "x", number, [])) for name, number in groups.items()]
    monkeypatch.setattr(module, "DEVICE", path)
    monkeypatch.setattr("os.chown", chown)
    monkeypatch.setattr("grp.getgrall", lambda: entries)
    monkeypatch.setattr("grp.getgrnam", lambda name: {each.gr_name: each for each in entries}[name])
    monkeypatch.setattr("shutil.which", lambda name: None)
    return Device(path, owners, entries)


@pytest.mark.parametrize(
    ("group", "mode", "number", "expected", "users"),
    [
        (None, None, 777, 0o660, "root and the members of group fiber may use it"),
        ("dev", None, 1234, 0o660, "root and the members of group dev may use it"),
        ("root", None, 0, 0o600, "only root may use it"),
        (None, 0o666, 777, 0o666, "every user may use it"),
        ("1234", 0o600, 1234, 0o600, "only root may use it"),
    ],
)
def test_who_may_use_the_device(device, group, mode, number, expected, users):
    access = module.share(group, mode)
    assert device.path.stat().st_mode & 0o777 == expected == access.mode
    assert device.owners == [(0, number)]
    assert access.users == users
    assert str(access).endswith(users)
    assert (access.hint is None) == (expected == 0o666)


def test_without_the_group_the_device_is_roots(device):
    device.entries[:] = [each for each in device.entries if each.gr_name != "fiber"]
    access = module.share()
    assert (access.mode, access.group, device.owners) == (0o600, "root", [(0, 0)])
    assert access.hint.startswith("groupadd --system fiber")


def test_a_group_that_is_not_there_changes_nothing(device):
    with pytest.raises(KfiberError, match=r"no such group; hint: groupadd --system nobody-has-it"):
        module.share("nobody-has-it")
    assert device.owners == []


def test_a_device_that_is_not_there(device):
    device.path.unlink()
    with pytest.raises(KfiberError, match=r"cannot give .*: No such file or directory; hint: "):
        module.share()
    assert module.access() is None


LOADING = """
kfiber() { echo "+ $*"; "$python" -m kfiber "$@" 2>&1; echo "status $?"; }
open="open('/dev/fiber', 'r+b', 0)"
try_it() { setpriv --reuid 65534 --regid 65534 "$@" "$python" -c "$open" 2>&1 |
	tail -n 1; }
kfiber module load lokup=hash
kfiber module load threads=1
kfiber module load max_fibers=0
test ! -e /sys/module/fiber && echo nothing is loaded
kfiber module load max_fibers=1000 lookup=hash
cat /sys/module/fiber/parameters/max_fibers
try_it --clear-groups
kfiber module load
kfiber module unload
echo fiber:x:4321: >>/etc/group
kfiber module load
stat -c '%a %u %g' /dev/fiber
try_it --groups 4321
try_it --clear-groups
setpriv --reuid 65534 --regid 65534 --clear-groups "$python" -m kfiber doctor |
	grep -A 1 'may not open'
kfiber module unload
kfiber module load --mode 666
try_it --clear-groups
kfiber module status | head -n 3
"""

LOADED = """\
+ module load lokup=hash
kfiber: cannot load the module: it has no parameter lokup, did you mean lookup?; hint: its \
parameters are {settable}
status 1
+ module load threads=1
kfiber: cannot load the module: threads is read-only; hint: its parameters are {settable}
status 1
+ module load max_fibers=0
kfiber: loading the module failed: the module refused a value in max_fibers=0; hint: max_fibers: \
Fibers that a process may have, 1 to 1048575; read when it opens the device (default 65536)
status 1
nothing is loaded
+ module load max_fibers=1000 lookup=hash
loaded; /dev/fiber has mode 0600 and group root: only root may use it
hint: for another user, as root: groupadd --system fiber, then kfiber module load gives it to that \
group
status 0
1000
PermissionError: [Errno 13] Permission denied: '/dev/fiber'
+ module load
kfiber: loading the module failed: it is loaded already, with lookup=hash \
max_fibers=1000 max_user_kib=65536 proc_pid=Y; hint: {python} -m kfiber module unload
status 1
+ module unload
status 0
+ module load
loaded; /dev/fiber has mode 0660 and group fiber: root and the members of group fiber may use it
hint: for another user, as root: usermod -aG fiber USER, then USER logs in again
status 0
660 0 4321
PermissionError: [Errno 13] Permission denied: '/dev/fiber'
  -- module: loaded, but you may not open /dev/fiber: permission denied; /dev/fiber has mode 0660 \
and group fiber: root and the members of group fiber may use it
     hint: as root: usermod -aG fiber USER, then USER logs in again
+ module unload
status 0
+ module load --mode 666
loaded; /dev/fiber has mode 0666 and group fiber: every user may use it
status 0
+ module status
"""


def test_loading_checks_parameters_and_opens_the_device(tmp_path):
    """All of it in one machine of its own."""
    kernel = kernels.get()
    # The guest finds it in the cache: building it there would take minutes.
    settable = [
        name
        for name, parameter in module.parameters(module.build(kernel.build, kernel.release)).items()
        if not parameter.read_only
    ]
    command = [sys.executable, "-m", "kfiber", "vm", "run", "--no-module", "--cpus", "1", "--"]
    # A user of the guest may not look into root's home, where Python may be.
    prepare = "for folder; do chmod a+rx $folder; done; python=$1;"
    python = Path(sys.executable)
    folders = {*python.parents, *python.resolve().parents, *ROOT.parents}
    done = subprocess.run(
        [*command, "sh", "-c", prepare + LOADING, "sh", python, *folders],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = LOADED.format(settable=", ".join(settable), python=python)
    out, last = done.stdout[: len(expected)], done.stdout[len(expected) :].splitlines()
    assert out == expected
    assert re.fullmatch(r"loaded, version \S+, ABI \d+, in use by \d+", last[0])
    assert last[1] == "  /dev/fiber has mode 0666 and group fiber: every user may use it"


@pytest.mark.guest
def test_somebody_else_builds_but_does_not_load(calls, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    os.chown(cache, 12345, 12345)
    calls.touch()
    calls.chmod(0o666)
    # Both may lie below somebody's home; the guest's files are its own.
    for folder in {*tmp_path.parents, tmp_path, *module.running_build_dir().resolve().parents}:
        folder.chmod(folder.stat().st_mode | 0o555)
    command = ["setpriv", "--reuid", "12345", "--clear-groups", "env", f"PYTHONPATH={ROOT}/python"]
    command += [os.path.realpath("/usr/bin/python3"), "-m", "kfiber", "module", "load", "a=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"kfiber: cannot load the module: that needs root; hint: .* -m kfiber module load a=1\n",
        done.stderr,
    )
    assert calls.read_text() == "called\n"


def test_status_with_a_module(tmp_path, monkeypatch):
    (tmp_path / "parameters").mkdir()
    for name, text in (("refcnt", "2"), ("version", "0.1.0"), ("parameters/fibers", "513")):
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(module, "SYSFS", tmp_path)

    def ask_abi():
        (tmp_path / "parameters/fibers").write_text("514\n")
        return None, False

    # The counters are those from before status() opens the device, which counts itself.
    monkeypatch.setattr(module, "_ask_abi", ask_abi)
    monkeypatch.setattr(module, "DEVICE", tmp_path / "none")
    status = module.status()
    assert (status.loaded, status.version, status.users) == (True, "0.1.0", 2)
    assert status.parameters == {"fibers": "513"}
    assert (status.denied, status.access) == (False, None)


def test_a_device_that_may_not_be_opened(device, monkeypatch):
    def refuse(path, flags):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    status = module.status()
    assert (status.device, status.denied, status.usable) == (True, True, False)
    assert "only root may use it" in status.access


def test_status_without_a_module(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SYSFS", tmp_path / "none")
    monkeypatch.setattr(module, "DEVICE", tmp_path / "none")
    status = module.status()
    assert (status.loaded, status.device, status.abi, status.usable) == (False, False, None, False)
