# SPDX-License-Identifier: MIT
"""Runs xstate.c beside this file on this CPU. It needs no module; see its head for the seed."""

import re
from pathlib import Path

import pytest
from kmod.test_programs import run

SOURCE = Path(__file__).with_name("xstate.c")


@pytest.mark.parametrize("name", re.findall(r"^TEST\((\w+)\)", SOURCE.read_text(), re.MULTILINE))
def test(name):
    run("xstate", name)
