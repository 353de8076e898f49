# SPDX-License-Identifier: MIT
"""How passes go round what is compared, and what rows come of it."""

import pytest

from kfiber_bench import native, peers
from kfiber_bench.peers import Peer, PeerError


def test_each_pass_goes_round_all():
    calls = []

    def program(name, values):
        values = iter(values)

        def run(number):
            calls.append((number, name))
            return next(values)

        return run

    figures = native.interleave(
        {"a": program("a", [1, 2, 9]), "b": program("b", [4, 4, 4])}, passes=3
    )
    assert calls == [(number, name) for number in range(3) for name in "ab"]
    assert (figures["a"].median, figures["a"].spread) == (2, 4)
    assert (figures["b"].median, figures["b"].spread) == (4, 0)


def test_one_pass_has_no_spread():
    (figures,) = native.interleave({"a": lambda _: 5.0}, passes=1).values()
    assert (figures.median, figures.spread) == (5, 0)


def test_what_fails_is_said_once_and_left_out(capsys):
    def broken(_):
        raise PeerError("it is gone")

    figures = native.interleave({"broken": broken, "whole": lambda _: 1.0}, passes=3)
    assert list(figures) == ["whole"]
    assert capsys.readouterr().err == "bench: it is gone\n"


@pytest.fixture
def runs(monkeypatch):
    """Peers that take made-up times; what they were asked for."""
    asked = []
    times = {"kfiber": 12, "kfiber_rival": 10, "kfiber_hint": 60, "asm": 11}
    times |= {"ucontext": 170, "boost_protected": 40}

    def run(peer, what, *numbers):
        asked.append((peer.program, what, *numbers))
        if what == "resident":
            return [256, 40, 4404, 41]
        if peer.program not in times:
            raise PeerError(f"no {peer.program}")
        return [times[peer.program], 0]

    monkeypatch.setattr(Peer, "run", run)
    monkeypatch.setattr(peers, "missing", lambda: {peers.LIBCO: "not built"})
    monkeypatch.setattr(native, "engine", lambda: "local")
    return asked


def goals(rows):
    return {
        (each["case"], each["fibers"], each["peer"]): (each["ratio"], each["met"])
        for each in rows
        if each["met"] is not None
    }


def test_goals_of_a_switch(runs, capsys):
    rows = list(native.switch(passes=4))
    asm = {("switch", fibers, "asm, same work"): (1.091, False) for fibers in (2, 512, 1024)}
    two = {
        ("switch, two fiber threads", fibers, "asm, same work"): (0.909, True)
        for fibers in (2, 512, 1024, 10_000)
    }
    swap = {("switch", fibers, "swapcontext"): (0.071, True) for fibers in (2, 512, 1024)}
    own = {("switch", 10_000, "itself, 2 fibers"): (1, True)}
    # Nothing to compare with: libco is missing, Wine fails.
    assert goals(rows) == asm | two | swap | own
    assert not any(program == "libco" for program, *_ in runs)
    assert "no wine" in capsys.readouterr().err
    assert not any(program == "wine" and fibers > 10_000 for program, _, fibers, *_ in runs)
    assert all(switches >= 3 * fibers for _, _, fibers, switches, _ in runs)
    # Each that runs goes through all depths of its frame.
    depths = [depth for program, _, fibers, _, depth in runs if (program, fibers) == ("asm", 512)]
    assert depths == [0, 16, 32, 48]


def test_goals_of_creation(runs):
    assert goals(native.create(passes=2)) == {
        ("create, run, delete", None, "asm, same work"): (1.091, False),
        ("create, run, delete, two fiber threads", None, "asm, same work"): (0.909, True),
        ("the same, stacks never used before", None, "Boost protected"): (0.3, False),
    }


def test_goals_of_memory(runs):
    assert goals(native.resident(passes=2)) == {
        ("100,000 live fibers, with guards", None, ""): (None, True),
        ("resident a fiber, not started", None, ""): (None, True),
        ("resident a fiber, started", None, ""): (None, False),
    }


@pytest.mark.parametrize("old", [False, True])
def test_too_few_fibers_is_a_goal_missed_but_on_old_kernels(runs, monkeypatch, capsys, old):
    def run(peer, what, *numbers):
        raise PeerError("create: Resource temporarily unavailable")

    monkeypatch.setattr(Peer, "run", run)
    monkeypatch.setattr(native, "guards_are_mappings", lambda: old)
    rows = list(native.resident(passes=2))
    assert [(each["value"], each["met"]) for each in rows] == ([] if old else [(0, False)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "bench: create: Resource temporarily unavailable"
    assert len(lines) == 1 + old
