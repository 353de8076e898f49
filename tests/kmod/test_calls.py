# SPDX-License-Identifier: MIT
"""Calls by pointer, between the kernel and the module: with IBT they must land on an ENDBR.

The emulated processor does not enforce that, so the instruction itself is looked for.
"""

import os
import platform
import struct
import subprocess
from pathlib import Path

import pytest
from kmod.target import module_file

pytestmark = pytest.mark.guest

ENDBR = bytes.fromhex("f30f1efa")
# The module finds these in operations of files and inodes and calls them.
ORIGINALS = ("proc_tgid_base_lookup", "proc_tgid_base_readdir")
# The kernel is handed these; those it calls through a static table are like them.
HANDED_OVER = (
    *("fiber_open", "fiber_ioctl", "fiber_close", "probe_exit", "probe_exec"),
    *("fiber_account_sched_in", "fiber_account_sched_out", "redirect", "thread_free_rcu"),
    *("fiber_attach_sched_in", "fiber_attach_sched_out", "process_end_work", "process_free_work"),
    *("file_open", "dentry_revalidate", "dir_lookup", "process_wake", "table_fault"),
)


def symbols(owner):
    """Addresses of functions by name: those of the module ["[fiber]"], or of the kernel []."""
    found = {}
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, kind, name, *module = line.split()
        if kind in "tT" and module == owner:
            found.setdefault(name, int(address, 16))
    return found


def read_kernel(address, size):
    """The kernel's memory, from its own core file."""
    with Path("/proc/kcore").open("rb", buffering=0) as core:
        header = os.pread(core.fileno(), 64, 0)
        table, entry_size, entries = (
            struct.unpack_from("<Q", header, 32)[0],
            *struct.unpack_from("<HH", header, 54),
        )
        for number in range(entries):
            entry = os.pread(core.fileno(), entry_size, table + number * entry_size)
            kind, _, offset, start, _, length = struct.unpack_from("<IIQQQQ", entry)
            if kind == 1 and start <= address < start + length:
                return os.pread(core.fileno(), size, offset + address - start)
    raise AssertionError(f"no {address:#x} in /proc/kcore")


@pytest.mark.parametrize("name", ORIGINALS + HANDED_OVER)
def test_starts_with_endbr(name):
    config = Path("/lib/modules", platform.release(), "build/.config").read_text()
    if "CONFIG_X86_KERNEL_IBT=y" not in config:
        pytest.skip("this kernel is built without IBT")
    address = symbols([] if name in ORIGINALS else ["[fiber]"])[name]
    assert read_kernel(address, len(ENDBR)) == ENDBR


def test_no_address_is_resolved():
    done = subprocess.run(
        ["nm", "--undefined-only", module_file()], capture_output=True, text=True, check=True
    )
    wanted = {line.split()[-1] for line in done.stdout.splitlines()}
    assert "_printk" in wanted
    assert not {name for name in wanted if "kallsyms" in name or "kprobe" in name}
    assert not wanted & {"__symbol_get", "ftrace_location", "module_kallsyms_lookup_name"}
