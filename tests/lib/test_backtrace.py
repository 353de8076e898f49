# SPDX-License-Identifier: MIT
"""A debugger's backtraces of fibers: from where they are to their function, and no further."""

import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("KFIBER_BUILD", Path(__file__).parents[2] / "build"))
PROGRAM = BUILD / "tests" / "lib" / "lib_suspended"

pytestmark = [
    pytest.mark.skipif("KFIBER_GUEST" in os.environ, reason="tested outside the guest"),
    pytest.mark.skipif(not shutil.which("gdb"), reason="no gdb; apt install gdb"),
]

# The registers of fiber 2 as its control words and its stack have them (switch_x86_64.S).
SUSPENDED = [
    "set $frame = (unsigned long) fiber_cbs[2].sp",
    "set $rsp = $frame + 56",
    "set $rip = *(unsigned long *)($frame + 48)",
    "set $rbp = *(unsigned long *)($frame + 40)",
    "set $rbx = *(unsigned long *)($frame + 32)",
    "set $r12 = *(unsigned long *)($frame + 24)",
    "set $r13 = *(unsigned long *)($frame + 16)",
    "set $r14 = *(unsigned long *)($frame + 8)",
    "set $r15 = *(unsigned long *)($frame + 0)",
]


def functions(*commands):
    """The functions that gdb's last backtrace shows, the innermost first."""
    words = ["gdb", "--nx", "--batch", "--quiet"]
    for command in ("set confirm off", "set debuginfod enabled off", *commands, "backtrace"):
        words += ["--eval-command", command]
    done = subprocess.run(
        [*words, PROGRAM],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        env={**os.environ, "KFIBER_ENGINE": "local"},
    )  # fmt: skip
    assert "corrupt" not in done.stdout + done.stderr
    assert "Backtrace stopped" not in done.stdout + done.stderr
    return re.findall(r"^#\d+ +(?:0x[0-9a-f]+ in )?(\S+)", done.stdout, re.MULTILINE)


def test_of_a_suspended_fiber():
    frames = functions("run", *SUSPENDED)
    first = frames.index("innermost")
    assert frames[first:] == [*["innermost"] * 4, "entry_of_the_fiber", "switch_bottom"]


def test_of_a_running_fiber():
    frames = functions("run", "continue")
    first = frames.index("innermost")
    assert frames[first:] == [*["innermost"] * 4, "entry_of_the_fiber", "switch_bottom"]
    assert first > 0


def test_in_the_middle_of_a_switch(tmp_path):
    """Each instruction leads back to whoever called, or to the bottom of the fiber that begins."""
    script = tmp_path / "steps"
    script.write_text("while $pc != (long) entry_of_the_fiber\nstepi\nbacktrace\nend\n")
    frames = functions("break fiber_switch", "run", "delete", f"source {script}")
    ends = [i for i, name in enumerate(frames) if i and name in ("main", "switch_bottom")]
    assert len(ends) > 100
    assert {tuple(frames[i + 1 : j + 1]) for i, j in pairwise(ends)} <= {
        ("fiber_switch", "main"),
        ("switch_begin", "fiber_switch", "main"),
        ("fiber_switch", "switch_start", "switch_bottom"),
        ("switch_start", "switch_bottom"),
        ("entry_of_the_fiber", "switch_bottom"),
    }
