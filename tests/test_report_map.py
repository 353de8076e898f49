# SPDX-License-Identifier: MIT
"""docs/report-map.md names all terms of the reference report, and nothing that does not exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs/report-map.md").read_text()
# Backquoted words, also where several stand in one cell.
WORDS = re.findall(r"`([^`]+)`", TEXT)

TERMS = [
    "ConvertThreadToFiber",
    "CreateFiber",
    "SwitchToFiber",
    "FlsAlloc",
    "FlsSet",
    "FlsGet",
    "FlsFree",
    "process_t",
    "tgid",
    "total_fibers",
    "total_threads",
    "Fibers",
    "Threads",
    "table_node",
    "Processes",
    "thread_t",
    "pid",
    "running_fiber",
    "fiber_t",
    "lock",
    "running",
    "fiber_id",
    "activations",
    "failed_activations",
    "parent_pid",
    "exec_time",
    "start_time",
    "fls",
    "context",
    "fpu_regs",
    "initial_entry_point",
    "name",
    "fls_bitmap",
    "MAX_FLS",
    "pt_regs",
    "ioctl.c",
    "my_ioctl",
    "ioctl_params",
    "fiber.c",
    "init_process",
    "process_lock",
    "kprobe.c",
    "do_exit",
    "finish_task_switch",
    "prev",
    "tgid_base_stuff",
    "proc_tgid_base_readdir",
    "proc_tgid_base_lookup",
    "proc_pident_readdir",
    "proc_pident_lookup",
    "fiberReaddir",
    "fiberLookup",
    "fiberRead",
    "file_ops",
    "inode_ops",
    "fiber_ops",
]


@pytest.mark.parametrize("term", TERMS)
def test_each_term_of_the_report_is_on_the_map(term):
    left = "".join(line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| "))
    assert re.search(rf"(?<![\w]){re.escape(term)}(?![\w])", left)


@pytest.mark.parametrize("version", ["version 1", "version 2"])
def test_both_versions_are_on_the_map(version):
    assert f"| {version} |" in TEXT


@pytest.mark.parametrize(
    "path", sorted({w for w in WORDS if re.fullmatch(r"[\w-]+(/[\w.-]+)+", w)})
)
def test_each_path_exists(path):
    assert (ROOT / path).is_file()


def sources():
    for folder in ("uapi", "kmod", "lib/include", "bench"):
        for path in sorted((ROOT / folder).rglob("*.[ch]")):
            yield path.read_text()


def right(line):
    return line.split("|")[2]


NAMES = sorted(
    {
        name
        for line in TEXT.splitlines()
        if line.startswith("| ") and "---" not in line
        for word in re.findall(r"`([^`]+)`", right(line))
        for name in re.findall(
            r"\b(?:FIBER_\w+|\w*fiber_\w+|\w+_caller|dir_\w+|processes\w*)\b", word
        )
        if "/" not in word
    }
)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_in_the_sources(name):
    assert any(re.search(rf"\b{name}\b", text) for text in sources())


def test_each_field_is_in_its_structure():
    types = (ROOT / "kmod/types.h").read_text()
    for owner, field in re.findall(r"`(fiber|fiber_process|fiber_thread)\.(\w{2,})`", TEXT):
        body = re.search(rf"^struct {owner} \{{\n(.*?)^\}};", types, re.MULTILINE | re.DOTALL)
        assert re.search(rf"\b{field}\b", body[1]), f"{owner}.{field}"
