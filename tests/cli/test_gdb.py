# SPDX-License-Identifier: MIT
"""kfiber/gdb.py: a debugger lists fibers, and shows where each is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import kfiber

SCRIPT = Path(kfiber.__file__).with_name("gdb.py")
pytestmark = pytest.mark.skipif(not shutil.which("gdb"), reason="no gdb; apt install gdb")


def gdb(pid, *commands):
    words = ["gdb", "--nx", "--batch", "--quiet", "--pid", str(pid)]
    for command in ("set debuginfod enabled off", f"source {SCRIPT}", *commands):
        words += ["--eval-command", command]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    return done.stdout, done.stderr


def test_fibers_are_listed_and_their_stacks_shown(program):
    registers = "info registers rip rsp rbx rbp r12 r13 r14 r15"
    out, err = gdb(
        program, "info fibers", "echo before\\n", registers, "fiber 3 backtrace",
        "fiber all backtrace 1", "echo after\\n", registers, "fiber 99 backtrace",
    )  # fmt: skip
    listed = dict(re.findall(r"^ +(\d+) (?:suspended|running) .* (\w+)$", out, re.MULTILINE))
    assert listed == {"2": "spinner", "3": "nimble", "4": "nimble"}
    shown = out.partition("fiber 3 nimble (suspended)\n")[2]
    frames = re.findall(r"^#\d+ +(?:0x[0-9a-f]+ in )?(\w+)", shown, re.MULTILINE)
    assert "switch_bottom" in frames
    assert "transfer_start" in frames[: frames.index("switch_bottom")]
    before, after = (out.partition(f"{word}\n")[2].splitlines()[:8] for word in ("before", "after"))
    assert before == after and "rip" in before[0]
    assert "no fiber 99; hint: info fibers" in err


def test_python_frames_of_each_fiber(program):
    out, err = gdb(program, "fiber all py-bt", "fiber 99 py-bt")
    found = r"^fiber \d+ (\w+) \(\w+\)\n((?:  File .*\n)*)"
    fibers = dict(re.findall(found, out, re.MULTILINE))
    assert fibers.keys() == {"spinner", "nimble"}
    for name, frames in fibers.items():
        assert re.search(rf'^  File ".*workload\.py", line \d+, in {name}$', frames, re.MULTILINE)
    assert "no fiber 99; hint: info fibers" in err
