# SPDX-License-Identifier: MIT
"""Random calls of several threads, each compared with the model (model.py).

In the guest against the module; here against models with a mistake, which must be found.
KFIBER_STRESS=1: longer, and other calls every time.
"""

import collections
import dataclasses
import functools
import itertools
import os
import tempfile
from dataclasses import dataclass
from errno import E2BIG, EAGAIN, EBUSY, EEXIST, EFAULT, EINVAL, EOWNERDEAD, EPERM, ESRCH

import pytest
from hypothesis import HealthCheck, Phase, configuration, core, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture.engine import ConjectureRunner
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from kmod.agent import LANES, STACK_SPACE, Agent, padded
from kmod.model import (
    FLS_MAX,
    STACK_MIN,
    WAITS,
    WORD_MAX,
    Create,
    Model,
    Size,
    Where,
    Words,
    address,
)
from kmod.target import parameter, wait_for

STRESS = os.environ.get("KFIBER_STRESS") == "1"

# Not into the sources, which the guest cannot write to.
configuration.set_hypothesis_home_dir(tempfile.gettempdir() + "/kfiber-hypothesis")

EXAMPLES = 30
# How many times that many, at most, for coming by what one run usually comes by.
SEEDS = 20
CHECK = settings(
    max_examples=240 if STRESS else EXAMPLES,
    stateful_step_count=50,
    derandomize=not STRESS,
    database=None,
    deadline=None,
    print_blob=True,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

# Between the clock of fibers and that of processes.
CPU_SLACK_NS = 100 * 10**6

NUMBERS = st.integers(0, WORD_MAX)
FLAGS = st.sampled_from([0] * 5 + [1] * 5 + [2, 3, 1 << 31])
SIZES = st.sampled_from([Size.EXACT] * 14 + list(Size))
WHERE = st.sampled_from([Where.GOOD] * 16 + list(Where))
NAMES = st.one_of(
    st.sampled_from([b"", b"x" * 63, b"x" * 64, b"a\0b", b"line\nState: running\\", b"\xc3\xa4"]),
    st.binary(max_size=64),
).map(padded)
INDICES = st.one_of(
    st.integers(0, 2),
    st.integers(0, 9),
    st.sampled_from([7, 8, 31, 32, FLS_MAX - 1, FLS_MAX, 1 << 32, WORD_MAX]),
)
# Rounding, flushing to zero and precision: nothing that any code of the agent minds.
WORDS = st.builds(
    Words,
    mxcsr=st.sampled_from([0x1F80, 0x3F80, 0x5F80, 0x9F80, 0xDF80]),
    fcw=st.sampled_from([0x37F, 0x77F, 0xB7F, 0xF7F, 0x27F]),
    # SIGHUP, SIGUSR2, SIGURG, SIGRTMAX; those that the agent needs stay free.
    mask=st.sampled_from([0, 1, 1 << 11, 1 << 22 | 1, 1 << 63 | 1 << 11]),
)
# What is wrong with a fiber's structure, if anything.
DEFECTS = st.sampled_from(
    [{}] * 12
    + [
        {"flags": 2},
        {"flags": 1 << 31 | 1},
        {"size": Size.LONGER},
        {"size": Size.NEWER},
        {"size": Size.TOO_LARGE},
        {"size": Size.SHORT},
        {"name": b"x" * 64},
        {"entry": 0},
        {"entry": 0xFFFF_8880_0000_0000},
        {"stack_size": STACK_MIN - 1},
        {"stack_size": 0},
        {"stack_size": WORD_MAX},
        {"stack_start": 0},
        {"stack_start": 0xFFFF_8880_0000_0000},
        {"stack_start": WORD_MAX - STACK_MIN},
        {"stack_start": STACK_SPACE, "stack_size": WORD_MAX - STACK_SPACE + 1},
        {"stack_start": STACK_SPACE, "stack_size": WORD_MAX - STACK_SPACE},
    ]
)
# Sizes of stacks as told to the kernel; there is more below, which the fiber may use.
STACKS = st.sampled_from([STACK_MIN, STACK_MIN + 1, 40007, STACK_SPACE - 16])


def nth(choices, number):
    choices = sorted(choices)
    return choices[number % len(choices)]


@dataclass(frozen=True)
class Nth:
    """One of the fibers that there are, or were."""

    number: int
    deleted: bool = False


IDS = st.one_of(
    st.builds(Nth, st.integers(0, 11)),
    st.builds(Nth, st.integers(0, 11), st.booleans()),
    st.sampled_from([0, 1, 1 << 20, 1 << 63 | 1, WORD_MAX]),
)
FIBERS = st.builds(
    lambda defect, **fields: {**fields, **defect},
    defect=DEFECTS,
    arg=st.integers(0, (1 << 63) - 1),
    stack=STACKS,
    gap=st.integers(0, 15),
    flags=st.integers(0, 1),
    name=NAMES,
)
# What a thread may do: how often, and with what.
STEPS = {
    "switch_to_suspended": (8, st.integers(0, 11)),
    "convert": (3, FLAGS, SIZES, WHERE),
    "create": (4, FIBERS, WHERE),
    "switch": (3, IDS),
    "switch_to_root": (3, st.integers(0, LANES - 1)),
    "trade": (3, st.integers(0, 11), st.integers(0, LANES - 1), st.booleans()),
    "switch_on_alternate_stack": (1, IDS),
    "delete": (4, IDS),
    "delete_root": (1, st.integers(0, LANES - 1)),
    "revert": (1,),
    "retire": (4,),
    "set_name": (3, IDS, NAMES, WHERE),
    "self_": (2, WHERE),
    "stat": (3, st.one_of(IDS, st.just(0)), SIZES, WHERE),
    "fls_again": (2, INDICES, NUMBERS),
    "fls_alloc": (3, st.sampled_from([1] * 9 + [9, 40, FLS_MAX, FLS_MAX + 1]), WHERE),
    "fls_free": (2, INDICES),
    "fls_set": (2, INDICES, NUMBERS, WHERE),
    "fls_get": (2, INDICES, WHERE),
    "version": (1,),
    "unknown": (1, st.sampled_from([0x0A, 0x0F, 0x14, 0xFF])),
    "set_words": (2, WORDS),
    "start": (3,),
    "end": (3,),
}


def step_of(name):
    return st.tuples(st.just(name), *STEPS[name][1:])


class Machine(RuleBasedStateMachine):
    """The two processes: `system` and `model`.

    One rule: Hypothesis switches half of the rules off in each example, and interesting calls need
    many others before them.
    """

    connect = Agent
    outcomes = collections.Counter()

    def __init__(self):
        super().__init__()
        self.system = None
        self.times = {}
        self.deleted = []

    def teardown(self):
        if self.system:
            self.system.close()

    @initialize(
        limit=st.sampled_from([6, 8, 12]),
        words=WORDS,
        converted=st.integers(1, 3),
        created=st.integers(0, 3),
    )
    def open(self, limit, words, converted, created):
        """Three threads, of which some are fibers, with the words of the first."""
        self.system = self.connect(limit)
        self.model = Model(limit, self.system.place(0)[0], self.system.place(0)[2])
        self.do("set_words", 0, words)
        for slot in (1, 2):
            self.model.start(0, slot, self.system.start(0, slot))
        for slot in range(converted):
            self.do("convert", slot, 0, Size.EXACT, Where.GOOD)
        for arg in range(created):
            self.create(0, {"arg": arg}, Where.GOOD)

    @rule(
        thread=st.integers(0, 4 * LANES - 1),
        step=st.sampled_from([name for name in STEPS for _ in range(STEPS[name][0])]).flatmap(
            step_of
        ),
    )
    def step(self, thread, step):
        name, *arguments = step
        slots = list(self.model.threads)
        if thread >= LANES:
            # The others would only be refused.
            slots = [s for s in slots if bool(self.model.threads[s].running) == (name != "convert")]
        slot = nth(slots or self.model.threads, thread)
        if how := getattr(self, name, None):
            how(slot, *arguments)
        else:
            self.do(name, slot, *arguments)

    def do(self, request, slot, *arguments):
        """Makes a request of both, and compares what they say."""
        arguments = [self.id(each) if isinstance(each, Nth) else each for each in arguments]
        before = set(self.model.fibers)
        if self.model.threads[slot].waits:
            wanted = self.model.interrupt(slot)
            assert self.system.interrupt(slot) == wanted
        wanted = getattr(self.model, request)(slot, *arguments)
        if wanted[0] is WAITS:
            self.system.retire_begin(slot)
        else:
            assert getattr(self.system, request)(slot, *arguments) == wanted
        self.outcomes[request, wanted[0]] += 1
        self.deleted += before - set(self.model.fibers)
        self.settle()
        if request == "switch" and wanted[1] is not None:
            # A fiber that starts has no storage, for the first time and after each reset.
            self.do("fls_alloc", slot, 1, Where.GOOD)

    def settle(self):
        for slot in self.model.released():
            assert self.system.retire_end(slot) == (0, None)
        self.compare()

    def id(self, id):
        fibers = self.deleted if id.deleted else self.model.fibers
        return nth(fibers, id.number) if fibers else 1

    # Those that are more than a request with its arguments

    def create(self, slot, fields, where):
        fields = {"entry": self.system.body, "stack": STACK_SPACE, "gap": 0, **fields}
        size, gap = fields.pop("stack"), fields.pop("gap")
        start = self.system.stack() - gap - size
        fields = {"stack_start": start, "stack_size": size, **fields}
        self.do("create", slot, Create(**fields), where)

    def switch_to_suspended(self, slot, which):
        fibers = [id for id, f in self.model.fibers.items() if f.state in ("new", "suspended")]
        if fibers:
            self.do("switch", slot, nth(fibers, which))

    def switch_to_root(self, slot, other):
        root = self.model.threads[nth(self.model.threads, other)].root
        if root:
            self.do("switch", slot, root.id)

    def trade(self, slot, which, other, retire):
        """A thread goes elsewhere, and another one runs its root fiber."""
        threads = self.model.threads
        root = threads[slot].root
        others = [s for s, thread in threads.items() if thread.running and s != slot]
        if root and threads[slot].running is root and others:
            self.switch_to_suspended(slot, which)
        if root and threads[slot].running is not root and others:
            self.do("switch", nth(others, other), root.id)
            if retire:
                self.retire(slot)

    def delete_root(self, slot, other):
        root = self.model.threads[nth(self.model.threads, other)].root
        if root:
            self.do("delete", slot, root.id)

    def fls_again(self, slot, index, value):
        """What was stored is gone from a position that was free meanwhile."""
        self.do("fls_set", slot, index, value, Where.GOOD)
        self.do("fls_free", slot, index)
        self.do("fls_alloc", slot, 1, Where.GOOD)
        self.do("fls_get", slot, index, Where.GOOD)

    def switch_on_alternate_stack(self, slot, id):
        self.do("switch", slot, self.id(id) if isinstance(id, Nth) else id, True)

    def retire(self, slot):
        # One thread at least takes commands.
        if not all(thread.waits for s, thread in self.model.threads.items() if s != slot):
            self.do("retire", slot)

    def start(self, by):
        slot = next((slot for slot in range(LANES) if slot not in self.model.threads), None)
        if slot is not None:
            # Who waits is interrupted.
            self.do("version", by)
            self.model.start(by, slot, self.system.start(by, slot))
            self.settle()

    def end(self, slot):
        if len(self.model.threads) > 1:
            self.do("version", slot)
            self.model.end(slot)
            self.system.end(slot)
            self.settle()

    def compare(self):
        """After each step: where the threads are, and what the files say."""
        for slot, thread in self.model.threads.items():
            # It cannot say while it waits; it is where it was.
            if thread.waits:
                assert not self.system.has_answered(slot)
            else:
                assert self.system.place(slot) == self.model.place(slot)
        assert self.system.ids() == sorted(self.model.fibers)
        total = 0
        for id, fiber in self.model.fibers.items():
            shown = self.system.file(id)
            wanted = self.model.file(id)
            assert {key: shown.get(key) for key in wanted} == wanted
            total += self.check_times(id, fiber, shown)
        assert total <= self.system.cpu_ns() + CPU_SLACK_NS

    def check_times(self, id, fiber, shown):
        cpu, longest = int(shown["CPU time ns"]), int(shown["Longest run ns"])
        assert shown["Total execution time"] == f"{cpu // 10**6} ms"
        assert longest <= cpu
        entry = shown["Initial entry point"]
        assert int(entry, 16) > 0
        before = self.times.get(id)
        if before:
            assert before[2] == entry
            assert before[0] <= cpu and before[1] <= longest
            # It has not run since.
            if not before[4] and before[3] == fiber.activations:
                assert before[:2] == (cpu, longest)
        self.times[id] = cpu, longest, entry, fiber.activations, bool(fiber.thread)
        return cpu


def run(machine, how):
    with pytest.MonkeyPatch.context() as patch:
        # It would follow each example by five that differ from it a little. Here, where an example
        # takes a second, and a mistake several steps, other ones find more.
        patch.setattr(ConjectureRunner, "generate_mutations_from", lambda *_: None, raising=False)
        run_state_machine_as_test(machine, settings=how)


@pytest.mark.guest
@pytest.mark.timeout(1500 if STRESS else 600)
def test_the_module_does_as_the_model():
    run(Machine, CHECK)
    # The processes were killed wherever they were.
    for what in ("processes", "threads", "fibers"):
        wait_for(lambda what=what: parameter(what) == "0", f"the last of the {what} is freed")


def check_retire(machine):
    """Two threads, and the first one's root fiber on the second: it waits for that to be left."""
    machine.open(limit=8, words=Words(), converted=2, created=1)
    try:
        machine.do("switch", 0, 3)
        machine.do("switch", 1, 1)
        machine.do("retire", 0)
        assert machine.model.threads[0].waits
        # Is interrupted, and asks.
        machine.do("version", 0)
        machine.do("retire", 0)
        machine.do("switch", 2, 1)
        # Leaves it: the first thread's second attempt succeeds.
        machine.do("switch", 1, 2)
        assert not machine.model.threads[0].waits
        machine.do("switch", 1, 1)
        machine.do("delete", 2, 1)
        machine.do("retire", 0)
        machine.do("revert", 0)
    finally:
        machine.teardown()
    return machine.outcomes


@pytest.mark.guest
def test_retire_waits():
    check_retire(Machine())


# The check itself: whether it would find a mistake


class Simulated:
    """In place of an agent: a model, which may have a mistake."""

    body = 0x401000

    def __init__(self, limit, model=Model):
        self._model = model(limit, 100, Words())
        self._tids = itertools.count(101)
        self._stacks = itertools.count(1 << 32, STACK_SPACE)
        self._released = set()

    def __getattr__(self, name):
        return getattr(self._model, name)

    def start(self, by, slot):
        tid = next(self._tids)
        self._model.start(by, slot, tid)
        return tid

    def stack(self):
        return next(self._stacks)

    def retire_begin(self, slot):
        assert self._model.retire(slot)[0] is WAITS

    def retire_end(self, slot):
        assert self.has_answered(slot), "it still waits"
        self._released.remove(slot)
        return 0, None

    def has_answered(self, slot):
        self._released.update(self._model.released())
        return slot in self._released

    def ids(self):
        return sorted(self._model.fibers)

    def file(self, id):
        times = {"CPU time ns": "0", "Longest run ns": "0", "Total execution time": "0 ms"}
        return {"Initial entry point": address(self.body), **times, **self._model.file(id)}

    def cpu_ns(self):
        return 0

    def close(self):
        pass


class IdsComeBack(Model):
    def _remove(self, fiber):
        super()._remove(fiber)
        self.deletions = 0


class BusyWithItself(Model):
    def switch(self, slot, id, alternate=False):
        err, value = super().switch(slot, id, alternate)
        return (EBUSY if err == EINVAL and not alternate else err), value


class CountsFailuresOfTheDead(Model):
    def switch(self, slot, id, alternate=False):
        err, value = super().switch(slot, id, alternate)
        if err == EOWNERDEAD:
            self.fibers[id].failed += 1
        return err, value


class ForgetsTheMask(Model):
    def switch(self, slot, id, alternate=False):
        thread = self.threads[slot]
        mask = thread.words.mask
        outcome = super().switch(slot, id, alternate)
        thread.words = dataclasses.replace(thread.words, mask=mask)
        return outcome


class ForgetsDoom(Model):
    @staticmethod
    def _leave(fiber, words):
        fiber.exit_pending = False
        Model._leave(fiber, words)


class NoResetAtTheEnd(Model):
    def end(self, slot):
        fiber = self.threads[slot].running
        super().end(slot)
        if fiber and fiber.create:
            fiber.started = True


class StorageSurvivesTheEnd(Model):
    def end(self, slot):
        fiber = self.threads[slot].running
        kept = fiber.fls if fiber else {}
        super().end(slot)
        if fiber:
            fiber.fls = kept


class OwnFiberSurvivesTheEnd(Model):
    def end(self, slot):
        thread = self.threads[slot]
        elsewhere = thread.root and thread.root is not thread.running
        finished = thread.root and thread.root.finished
        super().end(slot)
        if elsewhere and not thread.root.thread:
            thread.root.finished = finished


class StorageIsOfTheThread(Model):
    def switch(self, slot, id, alternate=False):
        before = self.threads[slot].running
        outcome = super().switch(slot, id, alternate)
        if not outcome[0]:
            self.threads[slot].running.fls = before.fls
        return outcome


class FreedStorageKeepsItsValue(Model):
    def fls_alloc(self, slot, times, where):
        fiber = self.threads[slot].running
        kept = dict(getattr(fiber, "ghosts", {}))
        outcome = super().fls_alloc(slot, times, where)
        if not outcome[0] and outcome[1] in kept:
            fiber.fls[outcome[1]] = kept[outcome[1]]
        return outcome

    def fls_free(self, slot, index):
        fiber = self.threads[slot].running
        value = fiber and fiber.fls.get(index)
        outcome = super().fls_free(slot, index)
        if not outcome[0]:
            fiber.ghosts = {**getattr(fiber, "ghosts", {}), index: value}
        return outcome


class OneMoreThanTheLimit(Model):
    def __init__(self, limit, tid, words):
        super().__init__(limit + 1, tid, words)


class LosesAPlaceWhenRefused(Model):
    def create(self, slot, create, where):
        err, id = super().create(slot, create, where)
        if err == EFAULT and where is Where.READONLY:
            self.deletions += 1
        return err, id


class DeletesOwnFibers(Model):
    def delete(self, slot, id):
        err, value = super().delete(slot, id)
        if err == EPERM:
            self._remove(self.fibers[id])
            err = 0
        return err, value


class RetireDoesNotWait(Model):
    def retire(self, slot):
        err, value = super().retire(slot)
        self.threads[slot].waits = False
        return (0 if err is WAITS else err), value


class InterruptionIsForgiven(Model):
    """A fiber is finished after all, although its thread's waiting was interrupted."""

    def interrupt(self, slot):
        self.threads[slot].root.exit_pending = False
        return super().interrupt(slot)


MISTAKES = [
    IdsComeBack,
    BusyWithItself,
    CountsFailuresOfTheDead,
    ForgetsTheMask,
    ForgetsDoom,
    NoResetAtTheEnd,
    StorageSurvivesTheEnd,
    OwnFiberSurvivesTheEnd,
    StorageIsOfTheThread,
    FreedStorageKeepsItsValue,
    OneMoreThanTheLimit,
    LosesAPlaceWhenRefused,
    DeletesOwnFibers,
    RetireDoesNotWait,
    InterruptionIsForgiven,
]


def check_against(model, seed):
    """As the guest's check, with a model in place of the module; counts what came of it.

    What hypothesis makes of a seed is its version's, and changes with the modules that are loaded.
    """
    connect = staticmethod(functools.partial(Simulated, model=model))
    outcomes = collections.Counter()
    machine = type("Machine", (Machine,), {"connect": connect, "outcomes": outcomes})
    few = settings(CHECK, max_examples=EXAMPLES, derandomize=False, phases=[Phase.generate])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "global_force_seed", seed)
        run(machine, few)
    return outcomes


# What a run must have come by, to be worth anything.
OUTCOMES = {
    "convert": {0, EEXIST, EFAULT, EINVAL, E2BIG, EAGAIN},
    "create": {0, EPERM, EFAULT, EINVAL, E2BIG, EAGAIN},
    "switch": {0, EPERM, ESRCH, EINVAL, EBUSY, EOWNERDEAD},
    "delete": {0, ESRCH, EBUSY, EPERM},
    "revert": {0, EPERM, EINVAL},
    "retire": {0, EPERM, EINVAL, WAITS},
    "set_name": {0, EINVAL, ESRCH, EFAULT},
    "self_": {0, EPERM, EFAULT},
    "stat": {0, EPERM, ESRCH, EFAULT, EINVAL, E2BIG},
    "fls_alloc": {0, EPERM, EAGAIN, EFAULT},
    "fls_free": {0, EPERM, EINVAL},
    "fls_set": {0, EPERM, EINVAL, EFAULT},
    "fls_get": {0, EPERM, EINVAL},
}


def test_the_model_retires():
    machine = Machine()
    machine.connect, machine.outcomes = Simulated, collections.Counter()
    assert check_retire(machine)["retire", WAITS] == 2


def test_the_models_ids():
    """The first are 1, 2, 3, and none comes twice."""
    model = Model(3, 100, Words())
    assert model.convert(0, 0, Size.EXACT, Where.GOOD) == (0, 1)
    create = Create(entry=4096, arg=0, stack_start=65536, stack_size=STACK_MIN)
    assert [model.create(0, create, Where.GOOD) for _ in range(3)] == [
        (0, 2),
        (0, 3),
        (EAGAIN, None),
    ]
    assert model.delete(0, 2) == (0, None)
    assert model.create(0, create, Where.READONLY) == (EFAULT, None)
    assert model.create(0, create, Where.GOOD) == (0, 1 << 20 | 2)
    assert model.switch(0, 2) == (ESRCH, None)


def test_the_models_threads():
    """A thread that ends resets the fiber that it ran, and finishes its own."""
    model = Model(8, 100, Words())
    model.start(0, 1, 101)
    model.convert(0, 0, Size.EXACT, Where.GOOD)
    model.convert(1, 0, Size.EXACT, Where.GOOD)
    create = Create(entry=4096, arg=7, stack_start=65536, stack_size=STACK_MIN)
    model.create(0, create, Where.GOOD)
    assert model.switch(1, 3) == (0, 7)
    assert model.switch(0, 3) == (EBUSY, None)
    assert model.switch(0, 1) == (EINVAL, None)
    model.end(1)
    assert model.switch(0, 2) == (EOWNERDEAD, None)
    assert model.file(3)["State"] == "new"
    assert model.file(3)["Number of failed activations"] == "1"
    assert model.switch(0, 3) == (0, 7)
    assert model.delete(0, 1) == (EPERM, None)
    assert model.switch(0, 1) == (0, None)


def test_every_outcome_is_come_by():
    missing = {(request, err) for request, errors in OUTCOMES.items() for err in errors}
    for seed in range(SEEDS):
        missing -= set(check_against(Model, seed))
        if not missing:
            break
    assert missing == set()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(mistake):
    with pytest.raises(AssertionError):
        for seed in range(SEEDS):
            check_against(mistake, seed)
