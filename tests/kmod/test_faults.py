# SPDX-License-Identifier: MIT
"""No memory, with the module's parameters and while it is loaded; faults.c has the requests.

Needs a kernel with fault injection, which the distributions' are not.
"""

import ctypes
import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest
from kmod.target import (
    MODULE,
    PROGRAMS,
    Target,
    load,
    loaded,
    module_file,
    one_processor,
    unload_when_free,
)

pytestmark = pytest.mark.guest

FAULTS = [Path("/sys/kernel/debug") / name for name in ("failslab", "fail_page_alloc")]
_SYS_FINIT_MODULE = 313

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(autouse=True)
def injection():
    """The module is afterwards as it was found: loaded, without parameters."""
    if not all(fault.exists() for fault in FAULTS):
        pytest.skip("this kernel has no fault injection")
    for fault in FAULTS:
        for name, value in (("ignore-gfp-wait", "N"), ("verbose", "0"), ("probability", "0")):
            (fault / name).write_text(value)
    (FAULTS[1] / "min-order").write_text("0")
    yield
    if loaded():
        unload_when_free()
    load()


@pytest.mark.parametrize("parameters", ["lookup=hash", "lookup=scan", "proc_pid=N"])
def test_requests_without_memory(parameters):
    unload_when_free()
    load(parameters)
    done = subprocess.run(
        [PROGRAMS / "kmod_faults"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert "skip " not in done.stdout


class FailNth:
    """Lets one allocation of this thread fail. Nothing may happen between arm() and disarm()."""

    def __enter__(self):
        self._fd = os.open(f"/proc/self/task/{threading.get_native_id()}/fail-nth", os.O_RDWR)
        return self

    def __exit__(self, *_):
        os.close(self._fd)

    def arm(self, number):
        os.pwrite(self._fd, b"%d" % number, 0)

    def disarm(self):
        """How many more allocations it would have taken; 0: it has failed."""
        left = int(os.pread(self._fd, 16, 0).strip(b"\n\0"))
        os.pwrite(self._fd, b"0", 0)
        return left


def traces():
    """What of the module is to be seen while it is not loaded."""
    functions = Path("/sys/kernel/debug/tracing/enabled_functions").read_text()
    slabs = Path("/proc/slabinfo").read_text()
    found = {
        "module": MODULE.exists(),
        "device": Path("/dev/fiber").exists(),
        "/proc/fiber": Path("/proc/fiber").exists(),
        "/proc/misc": " fiber\n" in Path("/proc/misc").read_text(),
        "/proc/modules": "fiber " in Path("/proc/modules").read_text(),
        "redirections": "proc_tgid_base" in functions,
        "caches": "\nfiber" in slabs,
    }
    return {what for what, there in found.items() if there}


FAR = 1_000_000
# The last of a good 700; before the module's own there are the loader's, which are not ours to
# test. Each takes seconds in an emulated machine, so some are left out.
OURS = 400
STRIDE = 7


def test_loading_without_memory():
    """From the last allocation back: refused without a trace, or it works without."""
    unload_when_free()
    assert traces() == set()
    failures, degraded = 0, 0
    with module_file().open("rb") as file, one_processor(), FailNth() as fault:

        def insert(number):
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            empty = ctypes.c_char_p(b"")
            fault.arm(number)
            failed = _libc.syscall(_SYS_FINIT_MODULE, file.fileno(), empty, 0)
            left = fault.disarm()
            return ctypes.get_errno() if failed else 0, left

        code, left = insert(FAR)
        assert code == 0
        total = FAR - left
        unload_when_free()
        for number in range(total, max(total - OURS, 0), -STRIDE):
            code, left = insert(number)
            if code:
                assert code == errno.ENOMEM, f"allocation {number}: {os.strerror(code)}"
                assert left == 0
                assert traces() == set(), f"allocation {number} of {total}"
                failures += 1
                continue
            # What did not get memory is not vital: it serves all the same, where it is found.
            degraded += left == 0
            if left == 0 and not Path("/dev/fiber").exists():
                unload_when_free()
                assert traces() == set(), f"allocation {number} of {total}"
                continue
            if left == 0:
                with Target() as target:
                    target.do("open")
                    assert target.do("convert") == [1]
            unload_when_free()
            assert traces() == set(), f"allocation {number} of {total}"
    assert failures > 5 and degraded > 5
    print(f"{total} allocations, {failures} refusals, {degraded} times without something")
    load()
    with Target() as target:
        target.do("open")
        target.do("convert")
        assert target.folder.is_dir()
