# SPDX-License-Identifier: MIT
"""kfiber.rates: what changed between two looks."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from kfiber import rates, render
from kfiber.proc import parse
from samples import FIBER_FILE

FIBER = parse(6526, 3, FIBER_FILE)
SECOND = 10**9


def fiber(number, name="", time=0, switches=0):
    return dataclasses.replace(
        FIBER,
        id=number,
        name=name,
        cpu_time_ns=time,
        run_time_ns=None,
        activations=switches,
    )


def test_the_first_look_knows_no_rates():
    assert rates.Sampler().compare([fiber(1)], 5) == []


def test_a_share_is_of_the_time_between_the_looks():
    sampler = rates.Sampler()
    sampler.compare([fiber(1, time=SECOND, switches=10)], 0)
    (rate,) = sampler.compare([fiber(1, time=2 * SECOND, switches=40)], 2 * SECOND)
    assert (rate.share, rate.switches_per_second) == (0.5, 15.0)
    assert rate.time_ns == 2 * SECOND


def test_a_fiber_that_is_new_spent_all_its_time_since():
    sampler = rates.Sampler()
    sampler.compare([], 0)
    (rate,) = sampler.compare([fiber(1, time=SECOND // 4)], SECOND)
    assert rate.share == 0.25


def test_another_process_with_the_pid_of_one_that_ended_is_new():
    sampler = rates.Sampler()
    sampler.compare([fiber(1, time=9 * SECOND, switches=1000)], 0)
    (rate,) = sampler.compare([fiber(1, time=SECOND // 2, switches=3)], SECOND)
    assert (rate.share, rate.switches_per_second) == (0.5, 3.0)


FIBERS = st.lists(
    st.builds(
        fiber,
        st.integers(1, 50),
        st.sampled_from(["a", "b", "ab", ""]),
        st.integers(0, 10**12),
        st.integers(0, 10**6),
    ),
    unique_by=lambda fiber: fiber.id,
)


@given(FIBERS, FIBERS, st.integers(1, 10**12))
def test_groups_have_what_their_fibers_have(before, after, interval):
    sampler = rates.Sampler()
    sampler.compare(before, 0)
    single = sampler.compare(after, interval)
    groups = rates.by_name(single)
    assert sum(group.count for group in groups) == len(single)
    assert sum(group.time_ns for group in groups) == sum(rate.time_ns for rate in single)
    assert abs(sum(g.share for g in groups) - sum(rate.share for rate in single)) < 1e-3
    assert all(rate.share >= 0 for rate in single)


@given(FIBERS, st.sampled_from([*rates.SORTS]), st.sampled_from(["", "a", "zz"]))
def test_arranging_loses_and_adds_nothing(fibers, sort, match):
    sampler = rates.Sampler()
    sampler.compare([], 0)
    found = sampler.compare(fibers, SECOND)
    arranged = rates.arranged(found, sort=sort, match=match)
    assert sorted(rate.id for rate in arranged) == sorted(
        rate.id for rate in found if match in rate.name
    )
    text = render.rates(arranged, width=60)
    assert len(text.splitlines()) == 1 + len(arranged)
    assert max(map(len, text.splitlines())) <= 60
