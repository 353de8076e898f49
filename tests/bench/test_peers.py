# SPDX-License-Identifier: MIT
"""The programs that are compared: that each does what it is measured for. Not how fast."""

import os
import subprocess
from pathlib import Path

import pytest

from kfiber_bench import peers

BUILD = Path(os.environ.get("KFIBER_BUILD", Path(__file__).resolve().parents[2] / "build"))

EVERY = [
    *peers.PEERS,
    peers.Peer("kfiber", "kfiber", engine="local"),
    peers.Peer("windows", "SwitchToFiber", engine="local"),
    peers.Peer("kfiber_hint", "kfiber, hint", engine="local"),
]
every_peer = pytest.mark.parametrize("peer", EVERY, ids=lambda peer: peer.program)


@pytest.fixture(autouse=True)
def built(request):
    if "peer" in request.fixturenames:
        peer = request.getfixturevalue("peer")
        if reason := peers.missing().get(peer):
            pytest.skip(reason)


# The program itself fails unless every fiber of the ring ran as often as it had to.
@every_peer
@pytest.mark.parametrize(
    ("fibers", "switches", "depth"), [(2, 1000, 0), (3, 1, 16), (7, 1001, 48), (200, 100, 0)]
)
def test_every_ring_visits_all(peer, fibers, switches, depth):
    nanoseconds, cycles = peer.run("ring", fibers, switches, depth)
    assert nanoseconds > 0
    assert cycles > 0


@every_peer
@pytest.mark.parametrize("what", ["create", "cold"])
def test_creates_runs_and_deletes(peer, what):
    (nanoseconds,) = peer.run(what, 50)
    assert nanoseconds > 0


def test_memory_of_fibers_that_ran_is_counted():
    new, _, started, _ = peers.Peer("kfiber", engine="local").run("resident", 2000)
    # A page of each stack at least, and none before.
    assert new < 4096 <= started < 16384


def test_a_ring_that_stands_still_is_noticed():
    words = [BUILD / "tests" / "bench" / "bench_standstill", "ring", "3", "300", "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "fiber 0 ran 0 times" in done.stderr


@pytest.mark.parametrize(
    "words",
    ["", "ring 2", "ring 2 10", "ring 1 10 0", "ring 2 0 0", "dance 2", "create x", "create 2 2"],
)
def test_wrong_arguments(words):
    done = subprocess.run(
        [peers.BUILD / "peer_asm", *words.split()], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_the_switch_by_hand_does_the_same_work():
    done = subprocess.run(
        [BUILD / "tests" / "bench" / "bench_asm"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
    assert "both activations are counted" in done.stdout


def test_an_engine_that_is_not_here_says_so():
    with pytest.raises(peers.PeerError, match=r"^kfiber \(nonsense\), ring: .*fiber_convert"):
        peers.Peer("kfiber", engine="nonsense").run("ring", 2, 10, 0)


def test_what_is_missing_is_said_with_its_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "BUILD", tmp_path)
    reasons = peers.missing()
    assert set(reasons) == set(peers.PEERS)
    lines = peers.hints(reasons)
    assert "left out: Boost fcontext: peer_boost is not built" in lines
    (packages,) = (line for line in lines if "apt-get install" in line)
    assert packages.endswith(" libboost-context-dev libwine-dev wine64 wine64-tools")
    assert any("libco is no Debian package" in line for line in lines)


def test_nothing_is_said_when_all_is_there():
    assert peers.hints({}) == []
