# SPDX-License-Identifier: MIT
"""kfiber.render: what fibers look like as text."""

import json
from dataclasses import replace

import pytest

from kfiber import render
from kfiber.proc import parse
from samples import FIBER_FILE

FIBER = parse(6526, 3, FIBER_FILE)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0ns"),
        (999, "999ns"),
        (1000, "1us"),
        (12_345, "12.3us"),
        (999_499, "999us"),
        (999_600, "1ms"),
        (546_123_456, "546ms"),
        (1_250_000_000, "1.25s"),
        (3_600_000_000_000, "3600s"),
    ],
)
def test_durations_have_three_digits(nanoseconds, text):
    assert render.duration(nanoseconds) == text


def test_the_table_aligns_its_columns():
    fibers = [FIBER, replace(FIBER, id=1048579, thread_id=77, state="running", name="b")]
    assert render.table(fibers) == (
        " PID   FIBER STATE     TID   CPU SWITCHES FAILED NAME\n"
        "6526       3 suspended   - 546ms        7      2 cell 17\n"
        "6526 1048579 running    77 546ms        7      2 b\n"
    )


def test_no_line_is_wider_than_asked():
    text = render.table([replace(FIBER, name="n" * 63)], width=60)
    assert max(map(len, text.splitlines())) == 60


def test_a_name_cannot_drive_the_terminal():
    assert "\x1b" not in render.table([replace(FIBER, name="\x1b[2J")])


def test_json_has_every_field():
    assert json.loads(render.to_json([FIBER])) == [
        {**vars(FIBER)},
    ]


def test_prometheus_names_help_and_type_once_a_metric():
    text = render.prometheus([FIBER, replace(FIBER, id=4)])
    assert text.count("# TYPE kfiber_cpu_seconds_total counter\n") == 1
    assert 'kfiber_activations_total{pid="6526",fiber="4",name="cell 17"} 7\n' in text
    assert 'kfiber_cpu_seconds_total{pid="6526",fiber="3",name="cell 17"} 0.546123456\n' in text


def test_prometheus_escapes_names():
    assert r'name="a\"b\\c\nd"' in render.prometheus([replace(FIBER, name='a"b\\c\nd')])
