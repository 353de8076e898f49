# SPDX-License-Identifier: MIT
"""Fibers that nobody reaches are ended, and what only they reach lives as long as they do."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest

import kfiber
from kfiber import Fiber
from kfiber._native import swap


class Thing:
    pass


def test_an_unreachable_one_is_unwound():
    main = kfiber.current()
    ended = []

    def target():
        try:
            main.switch()
        except kfiber.FiberExit as error:
            ended.append(type(error))
            raise
        finally:
            ended.append("finally")

    fiber = Fiber(target)
    fiber.switch()
    del fiber
    assert ended == [kfiber.FiberExit, "finally"]


def test_a_cycle_through_its_frames_is_found():
    main = kfiber.current()
    ended = []

    def target():
        me = kfiber.current()
        try:
            main.switch()
        finally:
            ended.append(me)

    fiber = Fiber(target)
    fiber.switch()
    reference = weakref.ref(fiber)
    del fiber
    assert reference() is not None
    gc.collect()
    assert len(ended) == 1
    ended.clear()
    gc.collect()
    assert reference() is None


def test_what_its_frames_hold_lives():
    main = kfiber.current()

    def generator():
        thing = Thing()
        thing.me = thing
        yield weakref.ref(thing)
        yield main.switch()

    def target():
        thing = Thing()
        thing.me = thing
        inner = generator()
        references = [weakref.ref(thing), next(inner)]
        del thing
        kept = Thing()
        references.append(weakref.ref(kept))
        main.switch(references)
        next(inner)
        return kept

    fiber = Fiber(target)
    gone, held, kept = fiber.switch()
    fiber.switch()
    for _ in range(3):
        gc.collect()
    assert gone() is None
    assert held() is not None
    assert kept() is not None
    fiber.switch()
    gc.collect()
    assert held() is None
    assert fiber.result() is kept()
    del fiber
    assert kept() is None


@pytest.mark.parametrize("where", ["argument", "context", "exception", "local"])
def test_cycles_through_what_a_fiber_keeps(where):
    import contextvars

    variable = contextvars.ContextVar("variable")
    main = kfiber.current()
    thing = Thing()
    reference = weakref.ref(thing)
    local = kfiber.Local()

    def target(argument):
        if where == "context":
            variable.set(argument)
        if where == "local":
            local.value = argument
        if where == "argument":
            kept = argument
            main.switch()
            del kept
        error = KeyError(argument)
        del argument
        if where == "exception":
            try:
                raise error
            except KeyError:
                del error
                main.switch()
        del error
        main.switch()

    thing.fiber = Fiber(target, thing)
    thing.fiber.switch()
    # An exception's traceback has the frame, and that the argument.
    del thing
    gc.collect()
    assert reference() is None


@pytest.mark.skipif(
    sys.version_info < (3, 14), reason="before 3.14 nobody knows how deep a frame's stack is"
)
def test_a_cycle_through_a_temporary():
    main = kfiber.current()
    ended = []

    def call(others):
        try:
            # Only the call refers to it.
            others.pop().switch()
        finally:
            ended.append("call")

    def refer(other):
        try:
            main.switch()
        finally:
            ended.append(other.name)

    others = []
    calling = Fiber(call, others, name="calling")
    others.append(Fiber(refer, calling))
    calling.switch()
    reference = weakref.ref(calling)
    del calling
    assert reference() is not None
    gc.collect()
    assert reference() is None
    assert sorted(ended) == ["call", "calling"]


def test_a_generator_that_runs_on_one_is_closed_by_its_end(monkeypatch):
    """Older than its fiber, so that the collector finalizes it first, which must not close it."""
    reported, ended = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: reported.append(hook.exc_value))

    def generate():
        yield
        me = kfiber.current()
        try:
            kfiber.root().switch()
        finally:
            ended.append(me.name)
        yield

    def target(generators):
        for _ in generators.pop():
            pass

    generator = generate()
    next(generator)
    fiber = Fiber(target, [generator], name="fiber")
    fiber.switch()
    del generator, fiber
    gc.collect()
    gc.collect()
    assert not reported
    # Before 3.14 nobody knows that only a frame's stack has the generator.
    assert ended == ["fiber"] or sys.version_info < (3, 14)
    for left in kfiber.fibers():
        if left.name == "fiber":
            left.kill()
    assert ended == ["fiber"]


def test_a_generator_that_ran_during_a_collection_is_closed_later():
    ended = []

    def generate():
        try:
            kfiber.root().switch()
            yield
        finally:
            ended.append("closed")

    generator = generate()
    fiber = Fiber(next, generator)
    fiber.switch()
    gc.collect()
    fiber.switch()
    assert fiber.dead
    del generator
    assert ended == ["closed"]
    ended.clear()


def test_a_new_one_in_a_cycle():
    thing = Thing()
    reference = weakref.ref(thing)
    thing.fiber = Fiber(print, thing)
    del thing
    gc.collect()
    assert reference() is None


def test_it_may_not_leave_while_it_is_ended():
    main = kfiber.current()
    seen = []

    def target():
        try:
            main.switch()
        finally:
            with pytest.raises(kfiber.FiberError, match="cannot switch while it is being ended"):
                main.switch()
            seen.append(Fiber(print).state)

    fiber = Fiber(target)
    fiber.switch()
    del fiber
    assert seen == ["new"]


def test_others_are_ended_from_within_an_end():
    main = kfiber.current()
    order = []

    def target(name, *held):
        try:
            main.switch()
        finally:
            order.append(name)

    inner = Fiber(target, "inner")
    inner.switch()
    outer = Fiber(target, "outer", inner)
    outer.switch()
    del inner
    del outer
    assert order == ["outer", "inner"]


def test_one_that_catches_its_end_and_returns():
    main = kfiber.current()

    def target():
        try:
            main.switch()
        except kfiber.FiberExit:
            return "ignored"

    fiber = Fiber(target)
    fiber.switch()
    del fiber


def test_an_exception_of_its_end_is_reported(monkeypatch):
    main = kfiber.current()
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: reported.append(hook.exc_type))

    def target():
        try:
            main.switch()
        finally:
            raise ValueError

    fiber = Fiber(target)
    fiber.switch()
    del fiber
    assert reported == [ValueError]


def test_one_that_refuses_to_end_is_given_up(python):
    done = python(
        """
        import kfiber
        main = kfiber.current()
        def target():
            while True:
                try:
                    main.switch()
                except BaseException:
                    pass
        fiber = kfiber.Fiber(target)
        fiber.switch()
        del fiber
        print("going on")
        again = kfiber.Fiber(target)
        again.switch()
        """
    )
    assert done.stdout == "going on\n"
    assert done.stderr.count("it does not end") == 2


def test_it_is_unwound_on_the_thread_that_ran_it():
    ended = []
    ready, dropped = threading.Event(), threading.Event()
    fibers = []

    def target():
        try:
            kfiber.root().switch()
        finally:
            ended.append(threading.current_thread().name)

    def main():
        fibers.append(Fiber(target))
        fibers[0].switch()
        ready.set()
        dropped.wait()
        # At its next use of fibers.
        Fiber(lambda: None).switch()
        ended.append("used")

    worker = threading.Thread(target=main, name="worker")
    worker.start()
    ready.wait()
    fibers.clear()
    assert ended == []
    dropped.set()
    worker.join()
    assert ended == ["worker", "used"]


@pytest.mark.skipif(
    sys.version_info >= (3, 12) and hasattr(sys, "gettotalrefcount") and swap() != "fast",
    reason="a debug build asserts that the public swap is not used while a thread ends",
)
def test_it_is_unwound_when_that_thread_ends():
    ended = []
    ready, dropped = threading.Event(), threading.Event()
    fibers = []

    def target():
        try:
            kfiber.root().switch()
        finally:
            ended.append(threading.get_ident())

    def main():
        fibers.append(Fiber(target))
        fibers[0].switch()
        ready.set()
        dropped.wait()

    worker = threading.Thread(target=main)
    worker.start()
    ident = worker.ident
    ready.wait()
    fibers.clear()
    dropped.set()
    worker.join()
    assert ended == [ident]


def test_the_collectors_thread_if_that_one_is_gone(thread):
    ended = []

    def target():
        try:
            kfiber.root().switch()
        finally:
            ended.append(threading.get_ident())

    def create():
        fiber = Fiber(target)
        fiber.switch()
        return fiber

    fiber = thread(create)
    del fiber
    assert ended == [threading.get_ident()]


def test_a_destructor_that_switches():
    main = kfiber.current()
    order = []

    class Noisy(Fiber):
        def __del__(self):
            order.append(Fiber(lambda: main.switch("inside") or "deleted").switch())

    def target():
        # Its last reference goes when main goes on.
        held.clear()
        return "value"

    held = [Noisy(target)]
    assert held[0].switch() == "value"
    assert order == ["inside"]


def test_an_exception_that_is_set_stays():
    main = kfiber.current()

    def target():
        try:
            main.switch()
        finally:
            try:
                raise KeyError
            except KeyError:
                pass

    def fail():
        fiber = Fiber(target)
        fiber.switch()
        raise ValueError

    with pytest.raises(ValueError):
        fail()


@pytest.mark.once
def test_pools_leak_nothing():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    def mappings():
        with open("/proc/self/maps") as file:
            return len(file.readlines())

    main = kfiber.current()

    def round_():
        fibers = [Fiber(main.switch) for _ in range(500)]
        for fiber in fibers:
            fiber.switch()
        for fiber in fibers[::2]:
            fiber.switch()
        del fiber, fibers
        for _ in range(500):
            Fiber(lambda: None).switch()
        gc.collect()

    for _ in range(3):
        round_()
    pages, count = resident(), mappings()
    for _ in range(20):
        round_()
    # A fiber lost in each round would be 20 stacks, of two mappings and two pages.
    assert mappings() - count < 20
    assert resident() - pages < 256


def suspend(log):
    try:
        kfiber.root().switch()
    finally:
        log.append("ended")


def suspend_pinned(log):
    """The pin is a temporary of a frame that is left by C code: the collector does not see it."""
    main = kfiber.root()
    try:
        with kfiber.pin():
            main.switch()
    finally:
        log.append("ended")


def test_a_pinned_fiber_that_nobody_reaches_is_ended():
    log = []
    kfiber.Fiber(suspend_pinned, log).switch()
    assert log == ["ended"]


def test_a_pin_may_outlive_its_fiber():
    pins = []

    def enter():
        pins.append(kfiber.pin())
        pins[0].__enter__()

    kfiber.Fiber(enter).switch()
    with pytest.raises(RuntimeError, match="not entered"):
        pins[0].__exit__(None, None, None)


class WithDel(kfiber.Fiber):
    def __del__(self):
        self.log("del")


class Derived(WithDel):
    pass


@pytest.mark.parametrize("kind", [WithDel, Derived])
@pytest.mark.parametrize("cycle", [False, True])
def test_a_fiber_whose_class_has_del_is_ended(kind, cycle):
    log = []
    fiber = kind(suspend, log)
    fiber.log = log.append
    fiber.switch()
    if cycle:
        fiber.itself = fiber
    del fiber
    gc.collect()
    assert log == ["del", "ended"]
