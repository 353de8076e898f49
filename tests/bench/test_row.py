# SPDX-License-Identifier: MIT
"""Rows of results, and the tables of them."""

import pytest

from kfiber_bench.row import curves, matrix, row, table

ROWS = [
    row("switch", 13.04, "ns", engine="local", fibers=2, spread=0.31),
    row("switch", 71.2, "ns", engine="local", fibers=100_000, spread=2),
    row("switch with the hint", 69.0, "ns", engine="local", fibers=100_000, spread=8.2),
    row("switch", 11.41, "ns", engine=None, fibers=2, peer="asm", spread=0.2),
    row("switch", 13.04, "ns", engine="local", fibers=2, peer="asm", ratio=1.1429, goal=1.15),
    row("switch", 13.04, "ns", engine="local", fibers=2, peer="Wine", ratio=0.826, goal=0.6),
]


def test_keys_are_those_that_the_design_fixes():
    assert list(ROWS[0]) == [
        *("case", "engine", "fibers", "value", "unit"),
        *("peer", "ratio", "goal", "met", "spread"),
    ]


def test_a_goal_is_for_the_ratio_where_there_is_one():
    assert [each["met"] for each in ROWS] == [None, None, None, None, True, False]
    assert row("bytes", 256, "bytes", goal=256)["met"] is True
    assert row("bytes", 256.1, "bytes", goal=256)["met"] is False
    assert row("many", 0, "fibers", met=False)["met"] is False


def test_table_has_the_goal_beside_the_figure():
    lines = table(ROWS).splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert lines[0].split() == [
        *("case", "engine", "value", "unit", "spread", "ratio", "goal", "met", "to")
    ]
    assert lines[2].split() == ["switch,", "100,000", "fibers", "local", "71.2", "ns", "2"]
    assert lines[4].split() == ["switch,", "2", "fibers", "11.4", "ns", "0.2", "asm"]
    assert lines[5].split()[-5:] == ["ns", "1.143", "1.15", "yes", "asm"]
    assert lines[6].split()[-5:] == ["ns", "0.826", "0.6", "MISSED", "Wine"]
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize("length", [1, 4, 60])
def test_columns_stay_in_line_however_long_a_case_is(length):
    rows = [row("x", 1, "ns"), row("y" * length, 1, "ns")]
    head, *lines = table(rows).splitlines()
    at = head.index("engine")
    assert at >= length + 2
    assert [line.index("kernel") for line in lines] == [at, at]


def test_curves_are_the_figures_and_not_the_goals():
    found = curves(ROWS)
    assert {whose: sorted(line) for whose, line in found.items()} == {
        "kfiber local": [2, 100_000],
        "kfiber local with the hint": [100_000],
        "asm": [2],
    }
    assert found["asm"][2]["value"] == 11.4


def test_matrix_has_a_column_for_each_number_of_fibers():
    head, own, hinted, asm = matrix(ROWS).splitlines()
    assert head.split()[-2:] == ["2", "100,000"]
    assert own.split() == ["kfiber", "local", "13.0", "(0.3)", "71.2", "(2.0)"]
    assert hinted.split()[-3:] == ["-", "69.0", "(8.2)"]
    assert asm.split() == ["asm", "11.4", "(0.2)", "-"]
