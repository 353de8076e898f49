# SPDX-License-Identifier: MIT
"""kfiber.greenlet: the same comes out as over greenlet, and fibers know these greenlets."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import kfiber
from kfiber import greenlet as ours

PROGRAM = Path(__file__).with_name("greenlets.py")
SCENARIOS = (
    *("api", "classes", "context", "killed", "life", "parents", "python_tracing", "threads"),
    "tracing",
)


def run(*command):
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.once
@pytest.mark.skipif(not importlib.util.find_spec("greenlet"), reason="greenlet is not installed")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_as_over_greenlet(scenario):
    if sys.version_info >= (3, 15) and scenario in ("classes", "killed"):
        pytest.skip("greenlet 3.5 does not end all that nobody refers to on 3.15")
    expected, got = (
        re.sub("0x[0-9a-f]+", "PLACE", run(PROGRAM, scenario, *which)).splitlines()
        for which in ([], ["KFIBER"])
    )
    assert expected and got == expected


@pytest.mark.once
def test_off_means_off():
    """Neither kfiber nor its greenlets touch greenlet; once imported, that stays."""
    program = """
import sys, kfiber.greenlet
kfiber.Fiber(print, 1).switch()
assert "greenlet" not in sys.modules and not kfiber.greenlet.installed()
sys.modules["greenlet"] = sys
try:
    kfiber.greenlet.install()
except RuntimeError as error:
    print(error)
assert not kfiber.greenlet.installed()
"""
    assert "hint:" in run("-c", program)


GEVENT = """
import json, os, subprocess, sys
import gevent, gevent.pool, gevent.queue, gevent.socket, gevent.threadpool
import kfiber

def pass_on(left, right):
    while word := left.get():
        gevent.sleep(0)
        right.put(word + 1)

def echo(connection):
    while word := connection.recv(100):
        connection.sendall(word)

queues = [gevent.queue.Queue() for _ in range(51)]
ends = gevent.socket.socketpair()
pool = gevent.pool.Pool(60)
for left, right in zip(queues, queues[1:]):
    pool.spawn(pass_on, left, right)
pool.spawn(echo, ends[0])
for word in range(1, 101):
    queues[0].put(word)
passed = [queues[-1].get() for _ in range(100)]
ends[1].sendall(b"echoed")
threads = gevent.get_hub().threadpool
print(passed == list(range(51, 151)), ends[1].recv(100).decode(), threads.apply(len, ("ab",)))
command = [sys.executable, "-m", "kfiber", "ps", "--json", str(os.getpid())]
shown = threads.apply(subprocess.check_output, (command,))
names = [each["name"].split()[0] for each in json.loads(shown) if each["name"]]
pool.kill()
print(names.count("pass_on"), names.count("echo"), "Hub.run" in names, len(pool))
print(sys.modules["greenlet"].__name__)
"""


@pytest.mark.once
@pytest.mark.skipif(not importlib.util.find_spec("gevent"), reason="gevent is not installed")
def test_gevent(tmp_path):
    """A program of gevent's, on each engine; `kfiber ps` shows its greenlets."""
    (tmp_path / "program.py").write_text(GEVENT)
    assert run("-m", "kfiber.greenlet", tmp_path / "program.py").splitlines() == [
        "True echoed 2",
        "50 1 True 0",
        "kfiber.greenlet",
    ]


def named(target, name):
    target.__qualname__ = name
    return target


def test_greenlets_are_fibers():
    def target():
        return here.switch([each.name for each in kfiber.fibers() if each.state != "finished"])

    here = ours.getcurrent()
    g = ours.greenlet(named(target, "a greenlet's function"))
    names = g.switch()
    assert "a greenlet's function" in names
    (fiber,) = (each for each in kfiber.fibers() if each.name == "a greenlet's function")
    assert fiber.state == "suspended" and fiber.stats.activations == 1
    # It is entered as a fiber, too, and its value goes to its parent.
    assert fiber.switch("sent") == "sent"
    assert g.dead and fiber.state == "finished"


def test_a_fiber_has_a_greenlet():
    """Its parent is the thread's main one, it stays on its thread, and it is the same each time."""
    seen = []

    def target():
        g = ours.getcurrent()
        seen.append((g.parent is main, bool(g), g.dead, g is ours.getcurrent()))
        main.switch("to the main one")
        seen.append(g is ours.getcurrent())
        return "value"

    main = ours.getcurrent()
    fiber = kfiber.Fiber(target)
    assert fiber.switch() == "to the main one"
    errors = []

    def thread():
        try:
            fiber.switch()
        except kfiber.FiberPinnedError as error:
            errors.append(error)

    other = threading.Thread(target=thread)
    other.start()
    other.join()
    assert len(errors) == 1
    assert fiber.switch() == "value"
    assert seen == [(True, True, False, True), True]


def test_dropped_in_a_fiber():
    """It is ended there, and comes back there."""
    log = []

    def target():
        try:
            ours.getcurrent().parent.switch()
        except ours.GreenletExit:
            log.append(kfiber.current().state)
            raise

    def drop():
        g = ours.greenlet(target)
        g.switch()
        del g
        return "dropped"

    assert kfiber.Fiber(drop).switch() == "dropped"
    assert log == ["running"]


@pytest.mark.once
def test_the_frames_of_one_whose_thread_has_ended():
    """They stay as they were as long as somebody has them; what only they hold is lost."""

    def thread():
        def target(local):
            ours.getcurrent().parent.switch()
            return local

        for _ in range(2):
            kept.append(ours.greenlet(target))
            kept[-1].switch([1])

    kept = []
    other = threading.Thread(target=thread)
    other.start()
    other.join()
    frame = kept[0].gr_frame
    del kept[:]
    assert frame.f_code.co_name == "target" and frame.f_locals["local"] == [1]
    frame = None


def test_the_running_loop_is_the_threads():
    """Not that of the greenlet which runs it: Playwright's synchronous API tells it so."""
    loop = asyncio.new_event_loop()
    main = ours.getcurrent()

    async def pause():
        main.switch()

    runner = ours.greenlet(lambda: loop.run_until_complete(pause()))
    runner.switch()
    assert asyncio._get_running_loop() is loop
    asyncio._set_running_loop(loop)
    runner.switch()
    assert asyncio._get_running_loop() is None
    loop.close()


def test_what_kfiber_ps_shows_of_gevents():
    """The name that somebody gave it, the function, and where it was spawned."""

    class Spawned(ours.greenlet):
        """As gevent's class is."""

        spawning_stack = None

        @property
        def minimal_ident(self):
            """Gives out a number, the first time."""
            raise AssertionError

        def __init__(self, function):
            super().__init__()
            self._run = function
            self.spawning_stack = sys._getframe(1)

        def run(self):
            return self._run()

    main = ours.getcurrent()
    for name, shown in [(None, ""), ("poller", "poller ")]:
        g = Spawned(named(lambda: main.switch(kfiber.current().name), "handle"))
        if name:
            g.name = name
        assert re.fullmatch(shown + r"handle test_drop_in\.py:\d+", g.switch())
        g.switch()

    # As Celery's pool of greenlets calls it.
    pool = named(lambda: main.switch(kfiber.current().name), "apply_target")
    pool.__module__ = "celery.concurrency.gevent"
    for arguments, shown in [((print, ("shop.pay", "id")), "shop.pay"), ((), "apply_target")]:
        g = Spawned(pool)
        g.args = arguments
        assert re.fullmatch(shown + r" test_drop_in\.py:\d+", g.switch())
        g.switch()
