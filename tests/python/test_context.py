# SPDX-License-Identifier: MIT
"""Context variables: each fiber has a context, by default a copy of its creator's."""

from __future__ import annotations

import contextvars
import threading

import kfiber
from kfiber import Fiber

variable = contextvars.ContextVar("variable", default="none")


def test_a_copy_at_creation():
    token = variable.set("created")
    fiber = Fiber(variable.get)
    variable.set("changed")
    assert fiber.switch() == "created"
    variable.reset(token)


def test_changes_stay_inside():
    main = kfiber.current()

    def target():
        variable.set("inside")
        main.switch()
        return variable.get()

    fiber = Fiber(target)
    fiber.switch()
    assert variable.get() == "none"
    assert fiber.switch() == "inside"


def test_a_given_context_is_used_itself():
    context = contextvars.copy_context()
    Fiber(variable.set, "given", context=context).switch()
    assert context[variable] == "given"
    assert variable.get() == "none"


def test_nothing_to_copy(thread):
    """A thread has no context before it sets a variable: nor have its fibers."""

    def target(name):
        assert variable.get() == "none"
        variable.set(name)
        kfiber.root().switch()
        return variable.get()

    def create():
        fibers = [Fiber(target, name) for name in "ab"]
        for fiber in fibers:
            fiber.switch()
        assert variable.get() == "none"
        variable.set("mine")
        assert [fiber.switch() for fiber in fibers] == ["a", "b"]
        return variable.get()

    assert thread(create) == "mine"


def test_it_moves_along(thread):
    main = kfiber.current()

    def target():
        variable.set("moved")
        main.switch()
        for _ in range(3):
            assert variable.get() == "moved"
            kfiber.root().switch(variable.get())

    fiber = Fiber(target)
    fiber.switch()
    token = variable.set("mine")
    for _ in range(3):
        assert thread(fiber.switch) == "moved"
        assert variable.get() == "mine"
    variable.reset(token)
    fiber.switch()


def test_many_threads_many_contexts():
    def target(i):
        variable.set(i)
        while True:
            assert variable.get() == i
            kfiber.root().switch(variable.get())

    fibers = [Fiber(target, i) for i in range(20)]
    for fiber in fibers:
        fiber.switch()
    wrong = []

    def main(share):
        for _ in range(50):
            for i in share:
                if fibers[i].switch() != i or variable.get() != "none":
                    wrong.append(i)

    threads = [threading.Thread(target=main, args=(range(i, 20, 4),)) for i in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong
    fibers.clear()
    # What last ran on a thread that has ended is unwound here.
