# SPDX-License-Identifier: MIT
"""How measurements are gone through, and what is said of those that cannot be had."""

import os

import pytest

from kfiber_bench import collect
from kfiber_bench.variants import BY_KEY, LOOKUPS, VARIANTS, with_lookup

PLAN = {"fibers": [512, 1024], "processes": [1, 3], "calls": 5, "repeats": 2}
RESULT = {
    "fibers": 512, "processes": 1, "calls": 5, "threads": 2, "init_seconds": 0.01,
    "work_per_fiber_seconds": 0.2, "active_per_fiber_seconds": 0.1,
    "fls_reads": 51200, "switches": 1024,
}  # fmt: skip


@pytest.fixture
def machine(monkeypatch):
    """The virtual machine; what was done in it."""
    done = []
    monkeypatch.setenv("KFIBER_GUEST", "1")
    monkeypatch.setattr(collect, "load", done.append)
    monkeypatch.setattr(collect, "run", lambda words: done.append(words) or RESULT)
    return done


def test_every_variant_is_measured_with_its_look_up():
    assert [variant for lookup in LOOKUPS for variant in with_lookup(lookup)] == list(VARIANTS)
    assert {each.lookup for each in with_lookup("scan")} == {"scan"}
    assert BY_KEY["local"] in with_lookup("direct")


def test_repeats_are_the_outer_loop(machine):
    events = list(collect.matrix(PLAN))
    samples = [event["matrix"] for event in events if "matrix" in event]
    # Two repeats of six variants in four cells.
    assert len(samples) == 2 * 6 * 4 == sum(event.get("steps", 0) for event in events)
    assert [each["repeat"] for each in samples] == [0] * 24 + [1] * 24
    assert samples[0]["reads"] == 100
    assert [each for each in machine if isinstance(each, str)] == [*LOOKUPS, *LOOKUPS]


def test_what_fails_is_said_once_and_the_rest_goes_on(machine, monkeypatch):
    def run(words):
        if "swapcontext" in words and 1024 in words:
            raise collect.Unavailable("no memory")
        return RESULT

    monkeypatch.setattr(collect, "run", run)
    events = list(collect.matrix(PLAN))
    missing = [event for event in events if "missing" in event]
    assert [each["why"] for each in missing] == ["no memory"] * 2
    assert len([event for event in events if "matrix" in event]) == 2 * (6 * 4 - 2)


@pytest.mark.skipif(os.path.exists("/sys/module/fiber"), reason="the module is loaded")
def test_without_the_module_the_engines_that_need_none_are_measured(monkeypatch):
    monkeypatch.delenv("KFIBER_GUEST", raising=False)
    (group,), events = collect.groups()
    assert group.lookup is None
    assert [each.key for each in group.variants] == ["local", "swapcontext"]
    assert len(events) == 4
    assert all("module is not loaded" in event["why"] for event in events)


def test_a_workload_says_why_it_does_not_run(tmp_path):
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho first >&2\necho no such engine >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(collect.Unavailable, match=r"^no such engine$"):
        collect.run([script])


def test_the_machine_is_described():
    about = collect.about()
    assert about["kernel"] == os.uname().release
    assert about["processors"] >= 1
