# SPDX-License-Identifier: MIT
"""No two files of the library need each other. Needs no module."""

import os
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("KFIBER_BUILD", Path(__file__).parents[2] / "build"))

# A switch is one thing in four files: the assembly jumps to C and C goes on in the assembly.
SWITCH = {"switch_x86_64.S.o", "switch.c.o", "unwind.c.o", "user_switch.c.o"}


def symbols(file: Path) -> tuple[set[str], set[str]]:
    """What an object file defines, and what it needs."""
    listing = subprocess.run(["nm", "-g", file], capture_output=True, text=True, check=True).stdout
    defined, needed = set(), set()
    for line in listing.splitlines():
        kind, name = line.split()[-2:]
        if kind == "U":
            needed.add(name)
        elif kind not in "wv":
            defined.add(name)
    return defined, needed


@pytest.mark.skipif("KFIBER_GUEST" in os.environ, reason="tested outside the guest")
def test_no_two_files_need_each_other():
    (folder,) = BUILD.glob("lib/libfiber.so.*.p")
    found = [("switch" if f.name in SWITCH else f.name, *symbols(f)) for f in folder.glob("*.o")]
    home = {symbol: name for name, defined, _ in found for symbol in defined}
    graph: dict[str, set[str]] = {}
    for name, _, needed in found:
        graph.setdefault(name, set()).update({home[s] for s in needed if s in home} - {name})
    assert len(graph) > 20
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
