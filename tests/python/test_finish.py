# SPDX-License-Identifier: MIT
"""Where a finished fiber's value or exception goes: the first of its ancestors that can take it.

root <-parent- a <-parent- b <-parent- c
"""

from __future__ import annotations

import pytest

import kfiber
from kfiber import Fiber


def test_the_parent_is_the_creator():
    def outer():
        inner = Fiber(lambda: "inner")
        assert inner.parent is kfiber.current()
        return inner.switch() + " outer"

    fiber = Fiber(outer)
    assert fiber.parent is kfiber.current()
    assert fiber.switch() == "inner outer"


def test_the_value_goes_to_the_parent_not_to_who_switched():
    main = kfiber.current()
    a = Fiber(lambda: ("a got", main.switch("a waits")))
    b = Fiber(lambda: "value", parent=a)
    assert a.switch() == "a waits"
    # b returns into a, which returns here.
    assert b.switch() == ("a got", "value")


def test_an_exception_goes_to_the_parent():
    main = kfiber.current()

    def catch():
        try:
            main.switch()
        except KeyError:
            return "caught"

    a = Fiber(catch)
    a.switch()
    assert Fiber(lambda: {}[1], parent=a).switch() == "caught"


def test_ancestors_that_cannot_take_it_are_passed_over():
    new = Fiber(print)
    finished = Fiber(lambda: None, parent=new)
    finished.switch()
    assert Fiber(lambda: "here", parent=finished).switch() == "here"
    assert new.state == "new"


def test_an_ancestor_pinned_elsewhere_is_passed_over(thread):
    main = kfiber.current()

    def wait():
        with kfiber.pin():
            main.switch()

    pinned = Fiber(wait)
    pinned.switch()
    child = Fiber(lambda: "value", parent=pinned)
    # main cannot run there either, so it goes to that thread's own fiber.
    assert thread(child.switch) == "value"
    pinned.switch()


def test_a_fibers_parent_can_be_changed():
    main = kfiber.current()
    a = Fiber(lambda: ("a", main.switch()))
    a.switch()
    b = Fiber(lambda: "b")
    b.parent = a
    assert b.parent is a
    assert b.switch() == ("a", "b")


def test_parents_make_no_cycle():
    a = Fiber(print)
    b = Fiber(print, parent=a)
    with pytest.raises(ValueError, match="ancestor"):
        a.parent = b
    with pytest.raises(ValueError, match="ancestor"):
        a.parent = a
    with pytest.raises(ValueError, match="no parent"):
        kfiber.root().parent = a
    with pytest.raises(TypeError):
        a.parent = None
    with pytest.raises(TypeError):
        del a.parent
    assert kfiber.root().parent is None


def test_a_finished_one_cannot_be_entered():
    fiber = Fiber(lambda: 1)
    fiber.switch()
    with pytest.raises(kfiber.FiberFinishedError, match="finished"):
        fiber.switch()
    with pytest.raises(kfiber.FiberFinishedError):
        fiber.throw(KeyError)


def test_throw_into_a_new_one_finishes_it_unrun():
    ran = []
    fiber = Fiber(ran.append, 1)
    with pytest.raises(KeyError):
        fiber.throw(KeyError)
    assert fiber.state == "finished"
    assert ran == []


def test_throw_into_a_new_one_goes_to_its_parent():
    main = kfiber.current()

    def catch():
        try:
            main.switch()
        except KeyError:
            return "caught"

    a = Fiber(catch)
    a.switch()
    assert Fiber(print, parent=a).throw(KeyError) == "caught"


def test_exit_exceptions_travel_like_others():
    for error in (SystemExit, KeyboardInterrupt, kfiber.FiberExit, GeneratorExit, StopIteration):

        def target(error=error):
            raise error

        with pytest.raises(error):
            Fiber(target).switch()


def test_a_long_chain_of_parents():
    fiber = kfiber.current()
    for _ in range(20000):
        fiber = Fiber(print, parent=fiber)
        fiber_id = fiber.id
    assert fiber.id == fiber_id
    # The interpreter's stack would not bear one level of C for each.
    del fiber
