# SPDX-License-Identifier: MIT
"""kfiber.metrics: counters never go back, and the number of series is bounded."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfiber.proc import parse
from samples import FIBER_FILE

metrics = pytest.importorskip("kfiber.metrics", reason="pip install 'kfiber[tools]'")
FIBER = parse(6526, 3, FIBER_FILE)
TOP = 2
ROOT = Path(__file__).resolve().parents[1]


def fiber(number, name, switches):
    return dataclasses.replace(
        FIBER, id=number, name=name, activations=switches, failed_activations=0,
        cpu_time_ns=switches, run_time_ns=None,
    )  # fmt: skip


# What happens between two looks: fibers are made, switch, and end.
STEPS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "(rest)", ""]), st.integers(0, 9), st.booleans()),
    max_size=30,
)


@given(STEPS)
def test_nothing_that_was_seen_is_lost(steps):
    totals = metrics.Totals(TOP, lambda pid: ("program", "1"))
    alive, next_id, seen = {}, 1, {}
    before = {}
    for name, switches, ends in steps:
        alive[next_id] = fiber(next_id, name, switches)
        next_id += 1
        for number, each in alive.items():
            alive[number] = fiber(number, each.name, each.activations + switches)
        totals.take(alive.values())
        seen.update({number: each.activations for number, each in alive.items()})
        found = {each.labels: each.counts.activations for each in totals.series()}
        assert sum(found.values()) == sum(seen.values())
        assert len(found) <= TOP + 1
        assert all(found[labels] >= count for labels, count in before.items())
        before = found
        if ends and len(alive) > 1:
            del alive[min(alive)]


def test_another_process_by_the_same_pid_begins_anew():
    start = iter("12")
    totals = metrics.Totals(TOP, lambda pid: ("program", next(start)))
    totals.take([fiber(1, "a", 50)])
    totals.take([fiber(1, "a", 3)])
    (series,) = totals.series()
    assert series.counts.activations == 3


def test_a_process_that_ended_is_forgotten():
    totals = metrics.Totals(TOP, lambda pid: ("program", "1"))
    totals.take([fiber(1, "a", 50)])
    totals.take([])
    assert list(totals.series()) == []


def test_the_dashboard_asks_for_what_there_is():
    text = (ROOT / "packaging" / "grafana.json").read_text()
    panels = json.loads(text)["panels"]
    asked = {
        name for panel in panels for each in panel["targets"]
        for name in re.findall(r"kfiber_\w+", each["expr"])
    }  # fmt: skip
    collector = metrics.Collector(lambda: [fiber(1, "a", 5)], TOP)
    given = {sample.name for family in collector.collect() for sample in family.samples}
    assert len(asked) >= 4
    assert asked <= given
