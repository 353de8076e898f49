# SPDX-License-Identifier: MIT
"""What rows come of fibers and greenlets that were measured, and of what failed."""

import sys

import pytest

from kfiber_bench import greenlets
from kfiber_bench.native import Figures
from kfiber_bench.peers import PeerError


def test_ratios_are_those_of_medians():
    figures = {
        ("switch", "kfiber"): Figures([20e-9, 30e-9, 40e-9]),
        ("switch", "greenlet"): Figures([100e-9, 120e-9, 150e-9]),
        ("busy", "kfiber"): Figures([60e-9]),
        ("busy-alone", "kfiber"): Figures([30e-9]),
        ("create", "kfiber"): Figures([1e-9]),
        ("memory-10000", "kfiber"): Figures([9000.0]),
        ("memory-10000", "greenlet"): Figures([6000.0]),
    }
    rows = list(greenlets.compare("3.12", figures))
    assert [(row["case"], row["value"], row["ratio"], row["goal"], row["met"]) for row in rows] == [
        ("3.12: switch to and from main", 30.0, 0.25, 0.25, True),
        ("3.12: switch beside a busy thread", 60.0, 2.0, 1.5, False),
        ("3.12: memory of each of 10,000", 9000.0, None, 9216, True),
        ("3.12: memory of each of 10,000", 6000.0, None, None, None),
    ]
    assert [row["peer"] for row in rows] == ["greenlet", "itself alone", "", "greenlet"]


def test_each_pass_has_both_sides():
    programs = greenlets.programs(greenlets.Path(sys.executable))
    names = [case for case, side in programs if side == "kfiber" and case != "busy-alone"]
    assert names == [
        *(case.name for case in greenlets.CASES),
        *(f"memory-{count}" for count in greenlets.COUNTS),
    ]
    assert {("busy-alone", "kfiber"), ("switch", "greenlet")} <= programs.keys()
    assert ("busy", "greenlet") not in programs


def test_what_fails_says_why():
    with pytest.raises(PeerError, match="--memory nothing: ValueError"):
        greenlets.run(greenlets.Path(sys.executable), "--memory", "nothing", "kfiber")
