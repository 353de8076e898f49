# SPDX-License-Identifier: MIT
"""What the kernel's allocator says of the module's caches: all comes back."""

import subprocess
from pathlib import Path

import pytest
from kmod.target import PROGRAMS, parameter, wait_for

pytestmark = pytest.mark.guest

CACHES = ("fiber", "fiber_xstate")


def objects(cache):
    """Objects of a cache that are in use. Shrinking gives back what processors hold in reserve."""
    folder = Path("/sys/kernel/slab") / cache
    assert not folder.is_symlink() or folder.resolve().name == cache, "merged with another cache"
    (folder / "shrink").write_text("1")
    return int((folder / "objects").read_text().split()[0])


@pytest.mark.parametrize(
    ("program", "case"),
    [
        ("thread", "kill_frees_everything"),
        ("thread", "kill_in_the_middle_of_switches"),
        ("thread", "exit_group_frees_everything"),
        ("race", "creation_and_deletion_under_readers"),
        ("identity", "execve_while_another_thread_switches"),
    ],
)
def test_caches_are_empty_again(program, case):
    done = subprocess.run([PROGRAMS / f"kmod_{program}", case], timeout=120, check=False)
    assert done.returncode == 0
    for name in ("processes", "threads", "fibers"):
        wait_for(lambda name=name: int(parameter(name)) == 0, f"{name} are 0")
    for cache in CACHES:
        # Deleted ones wait for their readers.
        wait_for(lambda cache=cache: objects(cache) == 0, f"{cache} is empty")
