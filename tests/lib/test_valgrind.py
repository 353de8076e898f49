# SPDX-License-Identifier: MIT
"""The library's tests once more on Valgrind, with the ordinary build, on engine `local`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILD = Path(os.environ.get("KFIBER_BUILD", HERE.parents[1] / "build"))
PROGRAMS = BUILD / "tests" / "lib"
SKIPPED = 77
ERRORS = 99

pytestmark = [
    pytest.mark.skipif("KFIBER_GUEST" in os.environ, reason="tested outside the guest"),
    pytest.mark.skipif(not shutil.which("valgrind"), reason="no valgrind; apt install valgrind"),
    pytest.mark.skipif(
        not Path("/usr/include/valgrind/helgrind.h").exists(),
        reason="built without Valgrind's headers; apt install valgrind",
    ),
]

MEMCHECK = {
    "lifecycle": ["neighbours_keep_their_frames", "a_running_fiber_is_busy"],
    "returns": ["generators_nest_as_calls_do", "thousands_return", "own_memory_is_returned"],
    "keys": ["a_set_while_its_key_is_deleted"],
    "migrate": ["threads_share_a_queue_of_fibers", "a_threads_own_fiber_on_another_thread"],
    "end": ["by_returning_from_the_function", "by_pthread_exit", "by_cancellation"],
    "exception": ["caught_here_rethrown_there", "unwinding_runs_destructors"],
    "stack": ["a_stack_is_allocated_by_the_program", "a_stack_is_as_new_for_the_next_fiber"],
    "fork": ["the_child_keeps_suspended_fibers"],
}


def run(program, name, *options):
    # An allocation of a thread that still runs at the end is possibly lost: glibc's.
    command = ["valgrind", "-q", f"--error-exitcode={ERRORS}", *options]
    done = subprocess.run(
        [*command, PROGRAMS / f"lib_{program}", name],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
        env={**os.environ, "KFIBER_ENGINE": "local"},
    )  # fmt: skip
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    assert "client switching stacks" not in done.stderr


@pytest.mark.parametrize(
    ("program", "name"), [(program, name) for program in MEMCHECK for name in MEMCHECK[program]]
)
def test_memcheck(program, name):
    run(program, name, "--leak-check=full", "--errors-for-leak-kinds=definite,indirect")


@pytest.mark.parametrize("name", ["threads_share_a_queue_of_fibers"])
def test_helgrind(name):
    """A correct program: what it shares is guarded by a mutex, which Helgrind knows."""
    run("migrate", name, "--tool=helgrind")
