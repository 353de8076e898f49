# SPDX-License-Identifier: MIT
"""What is made of the requests' costs; that a look-up is measured over all fibers."""

import subprocess

import pytest

from kfiber_bench import guest

LAPS = {
    "direct": [[800.0, 800.0, 801.0, 800.0]],
    "hash": [[860.0, 861.0, 860.0, 861.0]],
    "scan": [[5104.0, 7216.0, 10032.0, 15664.0]],
}


def lines(rows, case):
    return [(each["value"], each["met"]) for each in rows if each["case"] == case]


def test_a_look_up_has_four_sizes_an_intercept_and_a_slope():
    rows = list(guest.lookups(LAPS))
    for lookup in guest.LOOKUPS:
        sizes = [each["fibers"] for each in rows if each["case"] == f"switch, lookup={lookup}"]
        assert sizes == list(guest.NUMBERS)
        assert len(sizes) >= 4
    assert lines(rows, "switch, lookup=scan: intercept") == [(4400, None)]
    assert lines(rows, "switch, lookup=scan: slope") == [(5.5, True)]
    ((slope, met),) = lines(rows, "switch, lookup=hash: slope")
    assert met is True
    assert abs(slope) < 0.05


def test_a_hash_that_grows_misses_its_goal():
    rows = list(guest.lookups({**LAPS, "hash": LAPS["scan"]}))
    assert lines(rows, "switch, lookup=hash: slope") == [(5.5, False)]
    assert not any(met for _, met in lines(rows, "switch, lookup=hash"))


def test_one_key_in_three_decides_nothing():
    """The key of the hash is a random one: how long its chains are is luck, the median is not."""
    (good,) = LAPS["hash"]
    bad = [900.0, 920.0, 950.0, 990.0]
    rows = list(guest.lookups({**LAPS, "hash": [good, bad, good]}))
    assert lines(rows, "switch, lookup=hash") == [(value, True) for value in good]
    assert next(each["spread"] for each in rows if each["case"] == "switch, lookup=hash") == 40
    rows = list(guest.lookups({**LAPS, "hash": [bad, good, bad]}))
    assert lines(rows, "switch, lookup=hash") == [(value, False) for value in bad]


def test_a_scan_that_does_not_grow_misses_its_goal():
    rows = list(guest.lookups({**LAPS, "scan": LAPS["direct"]}))
    ((_, met),) = lines(rows, "switch, lookup=scan: slope")
    assert met is False


@pytest.mark.guest
def test_each_request_of_each_fiber_has_a_cost():
    costs = guest.counts(16)
    assert {"getppid", "null_ioctl", "convert", "create", "delete", "switch"} <= set(costs)
    assert {"refused_switch", "fls_alloc", "fls_free", "fls_get", "fls_set"} <= set(costs)
    assert all(0 < each.least <= each.value <= each.most for each in costs.values())


@pytest.mark.guest
@pytest.mark.parametrize("words", [[], ["1"], ["2", "whole"], ["2", "fpu", "3"]])
def test_wrong_arguments(words):
    done = subprocess.run([guest.BUILD / "counts", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
