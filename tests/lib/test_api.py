# SPDX-License-Identifier: MIT
"""Random legal and illegal calls of several threads, beside a model of the API.

After each call its result is compared, and then the snapshot of each fiber. What a failure shows is
the whole history; KFIBER_SEED=N does one seed again, KFIBER_STEPS=N makes more calls.
"""

import os
import random
import socket
import subprocess
import time
from pathlib import Path

import pytest
from lib.api_model import RETURNS, STARTS, Model

from lib import api_model

BUILD = Path(os.environ.get("KFIBER_BUILD", Path(__file__).parents[2] / "build"))
LANES = 4
FIBERS = 9
# An emulated processor needs a tenth of a second for each.
STEPS = int(os.environ.get("KFIBER_STEPS", "100" if "KFIBER_GUEST" in os.environ else "400"))
SEEDS = [int(os.environ["KFIBER_SEED"])] if "KFIBER_SEED" in os.environ else range(6)
DEADLINE = 60
ENGINES = [
    pytest.param(engine, marks=[pytest.mark.guest] if engine != "local" else [])
    for engine in api_model.ENGINES
]


class Agent:
    """The process, tests/lib/agent.c."""

    def __init__(self, engine):
        pairs = [socket.socketpair() for _ in range(LANES)]
        # They must follow each other there.
        first = 100
        for i, (_, theirs) in enumerate(pairs):
            os.dup2(theirs.fileno(), first + i, inheritable=True)
        self.process = subprocess.Popen(
            [BUILD / "tests/lib/lib_agent", str(first)],
            pass_fds=range(first, first + LANES), stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "KFIBER_ENGINE": engine},
        )  # fmt: skip
        for i, (_, theirs) in enumerate(pairs):
            os.close(first + i)
            theirs.close()
        self.lanes = [ours for ours, _ in pairs]
        for lane in self.lanes:
            lane.settimeout(DEADLINE)
        err, self.tid = self.answer(0)
        assert not err, f"engine {engine}: no such engine here"

    def send(self, slot, *words):
        self.lanes[slot].send(" ".join(map(str, words)).encode())

    def line(self, slot):
        data = b""
        while not data.endswith(b"\n"):
            more = self.lanes[slot].recv(4096)
            assert more, f"the agent ended: {self.process.communicate()[1]}"
            data += more
        return data.decode().split()

    def answer(self, slot):
        err, value = self.line(slot)
        return int(err), int(value)

    def call(self, slot, *words):
        self.send(slot, *words)
        return self.answer(slot)

    def start(self, by, slot):
        assert self.call(by, "thread", slot)[0] == 0
        return self.answer(slot)[1]

    def ended(self, tid):
        end = time.monotonic() + DEADLINE
        while Path(f"/proc/{self.tid}/task/{tid}").exists():
            assert time.monotonic() < end, "the thread does not end"
            time.sleep(0.001)

    def stat(self, slot, id):
        self.send(slot, "stat", id)
        err, *numbers, name = self.line(slot)
        assert err == "0", f"stat {id}: {err}"
        return [*map(int, numbers), name]

    def ids(self, slot):
        self.send(slot, "ids")
        return sorted(map(int, self.line(slot)[1:]))

    def close(self):
        self.process.kill()
        self.process.communicate()
        for lane in self.lanes:
            lane.close()


# Calls and how often they come.
CALLS = {
    "switch": 12, "transfer": 5, "yield": 9, "create": 8, "delete": 4, "convert": 5, "revert": 2,
    "return": 4, "exit": 1, "start": 2, "resumer": 2, "received": 2, "set_name": 2,
    "set_data": 2, "get_data": 2, "key_set": 2, "key_get": 2, "fls_alloc": 2, "fls_free": 2,
    "fls_set": 2, "fls_get": 2, "mask": 2,
}  # fmt: skip


class Play:
    """The agent and the model, side by side."""

    def __init__(self, engine, seed, model=Model):
        self.random = random.Random(seed)
        self.agent = Agent(engine)
        self.model = model(engine, self.agent.tid)
        self.gone = [1 << 40, 1 << 20]
        self.history = [f"engine {engine}, seed {seed}"]
        self.outcomes = set()

    def some_id(self, zero=False):
        kinds = [*self.model.fibers] * 3 + self.gone[-3:] + ([0] if zero else [])
        return self.random.choice(kinds)

    def compare(self, name, slot, got, wanted):
        self.history.append(f"{slot}: {name} -> {got}")
        self.outcomes.add((name.split()[0], got[0]))
        assert got == wanted, "\n".join([*self.history, f"instead of {wanted}"])

    def call(self, name, slot, *arguments):
        before = set(self.model.fibers)
        wanted = getattr(self.model, {"yield": "yield_"}.get(name, name))(slot, *arguments)
        got = self.agent.call(slot, name, *arguments)
        if isinstance(wanted[1], api_model.Fiber):
            fiber = wanted[1]
            fiber.id = got[1]
            self.model.fibers[fiber.id] = fiber
            wanted = wanted[0], fiber.id
            assert fiber.id and fiber.id not in before and fiber.id not in self.gone
        elif wanted[1] is None:
            got, wanted = got[:1], wanted[:1]
        self.compare(" ".join(map(str, [name, *arguments])), slot, got, wanted)

    def step(self):
        rand = self.random
        slot = rand.choice([*self.model.threads])
        name = rand.choices([*CALLS], CALLS.values())[0]
        before = set(self.model.fibers)
        id = self.some_id(zero=name in ("set_name", "set_data", "get_data"))
        number = rand.randrange(1, 1000)
        if name == "start":
            free = [i for i in range(LANES) if i not in self.model.threads]
            if free:
                self.model.start(slot, free[0], self.agent.start(slot, free[0]))
        elif name == "exit":
            if self.model.may_end(slot):
                self.end(slot, "exit", self.model.exit)
        elif name == "return":
            if self.model.may_return(slot):
                self.end(slot, "return", self.model.return_)
        elif name == "convert":
            self.call(name, slot, rand.choice([0, 0, 0, 1, 2, 4]))
        elif name == "create":
            if len(before) < FIBERS:
                self.call(name, slot, rand.choice([0, RETURNS, RETURNS, 8]), number)
        elif name == "delete":
            running = self.model.threads[slot].running
            # A created fiber that deletes itself is "return".
            if not (running and running.id == id and not running.root):
                self.call(name, slot, id)
        elif name == "switch":
            self.call(name, slot, id)
        elif name in ("transfer", "set_data"):
            self.call(name, slot, id, number)
        elif name == "set_name":
            self.call(name, slot, id, rand.choice(["a", "name", "n" * 63, "n" * 64]))
        elif name == "get_data":
            self.call(name, slot, id)
        elif name in ("yield", "key_set"):
            self.call(name, slot, number)
        elif name in ("fls_free", "fls_get"):
            self.call(name, slot, rand.randrange(3))
        elif name == "fls_set":
            self.call(name, slot, rand.randrange(3), number)
        elif name == "mask":
            self.call(name, slot, rand.randrange(2))
        else:
            self.call(name, slot)
        self.gone += before - set(self.model.fibers)
        self.look()

    def end(self, slot, name, how):
        """The function of a fiber returns, or a thread ends."""
        tid = self.model.threads[slot].tid
        wanted = how(slot)
        self.agent.send(slot, name)
        if slot in self.model.threads:
            self.compare(name, slot, self.agent.answer(slot), wanted)
        else:
            self.history.append(f"{slot}: {name}, the thread ends")
            self.outcomes.add((name, None))
            self.agent.ended(tid)

    def look(self):
        """Where the threads are, and what is to be known of each fiber."""
        for slot, thread in self.model.threads.items():
            self.compare("self", slot, self.agent.call(slot, "self"), self.model.self_(slot))
            self.history.pop()
            got = self.agent.call(slot, "blocked")[1], slot
            assert got == (thread.mask, slot), "\n".join([*self.history, f"mask {got}"])
        looker = self.random.choice([*self.model.threads])
        ids = self.agent.ids(looker)
        assert ids == sorted(self.model.fibers), "\n".join(self.history)
        for id in ids:
            got, wanted = self.agent.stat(looker, id), self.model.stat(id)
            assert got == wanted, "\n".join([*self.history, f"{got} instead of {wanted}"])


def play(engine, seed, steps, model=Model):
    """Returns which outcomes came up, by call."""
    game = Play(engine, seed, model)
    try:
        for _ in range(steps):
            game.step()
    finally:
        game.agent.close()
    return game.outcomes


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_library_does_as_the_model(engine, seed):
    play(engine, seed, STEPS)


# Whether the check would find a mistake: models that have one.


class YieldsResume(Model):
    def _resume(self, thread, fiber, value, yields):
        return super()._resume(thread, fiber, value, False)


class SwitchesForgetTheValue(Model):
    def switch(self, slot, id, value=None, yields=False):
        return super().switch(slot, id, value or 0, yields)


class FailuresAreNotCounted(Model):
    def switch(self, slot, id, value=None, yields=False):
        failed = self.fibers[id].failed if id in self.fibers else 0
        outcome = super().switch(slot, id, value, yields)
        if id in self.fibers:
            self.fibers[id].failed = failed
        return outcome


class StorageSurvivesTheEnd(Model):
    def exit(self, slot):
        fiber = self.threads[slot].running
        kept = fiber.fls if fiber else {}
        super().exit(slot)
        if fiber:
            fiber.fls = kept


class RootsAreDeleted(Model):
    def delete(self, slot, id):
        err, value = super().delete(slot, id)
        if err == api_model.EPERM:
            err = 0
        return err, value


class TheMaskIsElsewhere(Model):
    def __init__(self, engine, tid):
        super().__init__(engine, tid)
        self.engine = api_model.Engine(mask_travels=not self.engine.mask_travels)


MISTAKES = [
    YieldsResume,
    SwitchesForgetTheValue,
    FailuresAreNotCounted,
    StorageSurvivesTheEnd,
    RootsAreDeleted,
    TheMaskIsElsewhere,
]


@pytest.mark.skipif("KFIBER_GUEST" in os.environ, reason="tested outside the guest")
@pytest.mark.parametrize("model", MISTAKES)
def test_a_mistake_is_found(model):
    with pytest.raises(AssertionError):
        for seed in range(40):
            play("local", seed, 300, model)


@pytest.mark.skipif("KFIBER_GUEST" in os.environ, reason="tested outside the guest")
def test_every_outcome_comes_up():
    e = api_model
    wanted = {
        ("switch", 0), ("switch", STARTS), ("switch", e.EPERM), ("switch", e.ESRCH),
        ("switch", e.EINVAL), ("switch", e.EBUSY), ("transfer", 0), ("yield", 0),
        ("yield", e.ESRCH), ("yield", e.EBUSY), ("delete", 0), ("delete", e.EBUSY),
        ("delete", e.EPERM), ("return", 0), ("return", None), ("exit", None), ("revert", 0),
        ("revert", e.EINVAL), ("convert", e.EEXIST), ("create", e.EINVAL),
    }  # fmt: skip
    for seed in range(40):
        wanted -= play("local", seed, 300)
        if not wanted:
            break
    assert not wanted
