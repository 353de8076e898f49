# SPDX-License-Identifier: MIT
"""How measurements are gone through, and what is said of those that cannot be had."""

import json
import os
import shutil
import signal

import pytest

from kfiber import module
from kfiber.errors import KfiberError
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
    failed = [event for event in events if "failed" in event]
    assert [each["why"] for each in failed] == ["no memory"] * 2
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


def test_a_workload_that_is_not_built_says_so(tmp_path):
    with pytest.raises(collect.Unavailable, match=r"No such file.*hint: make build"):
        collect.run([tmp_path / "cells"])


DEFAULTS = {"lookup": "direct", "max_fibers": "65536", "proc_pid": "Y"}
LOADED = {"lookup": "scan", "max_fibers": "1000", "proc_pid": "N"}


class Module:
    """A machine's module, as root sees it; the calls that change it, and one that is refused."""

    def __init__(self, sysfs):
        self.sysfs = sysfs
        self.calls = []
        self.refused = None
        self.insert(LOADED)

    def insert(self, wanted):
        for name, value in {**DEFAULTS, "fibers": "0", **wanted}.items():
            path = self.sysfs / "parameters" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")

    def call(self, *words):
        self.calls.append(words)
        if words[0] == self.refused:
            raise KfiberError(f"{words[0]}: in use; hint: end its users")

    def unload(self):
        self.call("unload")
        shutil.rmtree(self.sysfs)

    def load(self, _, wanted):
        self.call("load", dict(wanted))
        self.insert(wanted)

    def share(self, group, mode):
        self.call("share", group, mode)

    def has(self):
        return {name: (self.sysfs / "parameters" / name).read_text().strip() for name in DEFAULTS}


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """This machine with a module, which exists in a folder only."""
    fake = Module(tmp_path / "fiber")
    known = {name: module.Parameter(name, "") for name in DEFAULTS}
    known["fibers"] = module.Parameter("fibers", "Fibers in memory (read-only)")
    monkeypatch.delenv("KFIBER_GUEST", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "SYSFS", fake.sysfs)
    monkeypatch.setattr(module, "build", lambda: tmp_path / "fiber.ko")
    monkeypatch.setattr(module, "parameters", lambda _: known)
    monkeypatch.setattr(module, "access", lambda: module.Access(0o660, "staff"))
    for name in ("unload", "load", "share"):
        monkeypatch.setattr(module, name, getattr(fake, name))
    monkeypatch.setattr(collect, "run", lambda _: RESULT)
    before = {number: signal.getsignal(number) for number in collect.SIGNALS}
    yield fake
    for number, handler in before.items():
        signal.signal(number, handler)


def collected(tmp_path):
    path = tmp_path / "events"
    collect.main(json.dumps({"matrix": PLAN}), str(path))
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_module_gets_its_parameters_and_its_users_back(loaded, tmp_path):
    events = collected(tmp_path)
    assert len([event for event in events if "matrix" in event]) == 2 * 6 * 4
    assert ("load", {"lookup": "hash"}) in loaded.calls
    assert loaded.calls[-2:] == [("load", LOADED), ("share", "staff", 0o660)]
    assert loaded.has() == LOADED


@pytest.mark.parametrize("number", collect.SIGNALS)
def test_it_gets_them_back_after_a_signal_and_is_not_disturbed_by_another(
    loaded, monkeypatch, tmp_path, number
):
    monkeypatch.setattr(collect, "run", lambda _: os.kill(os.getpid(), number))

    def unload(unload=loaded.unload):
        unload()
        if ("load", {"lookup": "hash"}) in loaded.calls:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(module, "unload", unload)
    with pytest.raises(SystemExit) as stop:
        collected(tmp_path)
    assert stop.value.code == 128 + number
    assert loaded.has() == LOADED


def test_a_signal_does_not_disturb_what_is_given_back(loaded, monkeypatch, tmp_path):
    def load(path, wanted):
        if wanted == LOADED:
            os.kill(os.getpid(), signal.SIGTERM)
        loaded.load(path, wanted)

    monkeypatch.setattr(module, "load", load)
    collected(tmp_path)
    assert loaded.has() == LOADED


def test_a_module_in_use_is_left_as_it_is_and_the_engines_without_it_are_measured(loaded, tmp_path):
    loaded.refused = "unload"
    events = collected(tmp_path)
    samples = [event["matrix"] for event in events if "matrix" in event]
    assert {each["variant"] for each in samples} == {"local", "swapcontext"}
    assert len(samples) == 2 * 2 * 4
    missing = [event for event in events if "missing" in event]
    assert [each["why"] for each in missing] == ["unload: in use; hint: end its users"] * 4
    assert loaded.has() == LOADED
    assert {call[0] for call in loaded.calls} == {"unload"}


def test_a_module_that_cannot_be_put_back_is_said(loaded, monkeypatch, tmp_path):
    def run(_):
        loaded.refused = "load"
        return RESULT

    monkeypatch.setattr(collect, "run", run)
    with pytest.raises(SystemExit) as stop:
        collected(tmp_path)
    assert stop.value.code == (
        "cannot give the module its parameters back: load: in use; hint: kfiber module unload; "
        "kfiber module load lookup=scan max_fibers=1000 proc_pid=N"
    )


def test_a_module_that_cannot_be_built_is_measured_as_it_is(loaded, monkeypatch, tmp_path):
    def build():
        raise KfiberError("no headers of the running kernel; hint: apt-get install them")

    monkeypatch.setattr(module, "build", build)
    events = collected(tmp_path)
    samples = [event["matrix"] for event in events if "matrix" in event]
    assert {each["variant"] for each in samples} == {"version2", "local", "swapcontext"}
    assert any("no headers" in event.get("why", "") for event in events)
    assert loaded.calls == []


def test_in_the_virtual_machine_a_module_that_cannot_be_loaded_is_a_failure(monkeypatch, machine):
    def load(lookup):
        if lookup == "scan":
            raise collect.Unavailable("insmod: no memory")
        machine.append(lookup)

    monkeypatch.setattr(collect, "load", load)
    events = list(collect.matrix(PLAN))
    assert [event for event in events if "failed" in event] == [
        {"failed": BY_KEY["version2"].title, "why": "insmod: no memory"}
    ]


def test_one_part_that_fails_does_not_stop_the_others(machine, monkeypatch, tmp_path):
    def operations(_):
        raise collect.Unavailable("no counts")
        yield

    monkeypatch.setitem(collect.PARTS, "operations", operations)
    path = tmp_path / "events"
    before = {number: signal.getsignal(number) for number in collect.SIGNALS}
    try:
        collect.main(json.dumps({"operations": {}, "matrix": PLAN}), str(path))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"failed": "operations", "why": "no counts"} in events
    assert any("matrix" in event for event in events)
