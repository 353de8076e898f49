# SPDX-License-Identifier: MIT
"""What travels over a switch.

main --switch()--> fiber --switch(value)--> main --switch(value)--> fiber --return--> main
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import kfiber
from kfiber import Fiber

BUILD = Path(os.environ.get("KFIBER_BUILD", Path(__file__).parents[2] / "build"))
CATCHES = BUILD / "tests" / "lib" / "lib_catches.so"
LATE = """
import ctypes, sys, kfiber

def body(value):
    return library.catches(value, callback)

main = kfiber.current()
callback = ctypes.CFUNCTYPE(None)(lambda: main.switch())
kfiber.Fiber(lambda: None).switch()
assert "libstdc++" not in open("/proc/self/maps").read()
library = ctypes.CDLL(sys.argv[1])
fibers = [kfiber.Fiber(body, value) for value in (1, 2, 3)]
for fiber in fibers:
    fiber.switch()
print(*[fiber.switch() for fiber in fibers])
"""


@pytest.mark.skipif(not CATCHES.exists(), reason="lib_catches.so is not built")
def test_exceptions_of_a_runtime_that_is_loaded_later():
    """Each fiber handles its own, in the order in which the thread caught them."""
    command = [sys.executable, "-c", LATE, CATCHES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1 2 3\n", "")


def test_values_travel_both_ways():
    main = kfiber.current()
    seen = []

    def target(first, second):
        seen.append((first, second))
        seen.append(main.switch("out"))
        return "end"

    fiber = Fiber(target, 1, "two")
    assert fiber.switch() == "out"
    assert fiber.switch("in") == "end"
    assert seen == [(1, "two"), "in"]
    assert fiber.state == "finished"


def test_without_a_value_none_travels():
    main = kfiber.current()
    fiber = Fiber(lambda: main.switch())
    assert fiber.switch() is None
    assert fiber.switch() is None


def test_first_switch_takes_no_value():
    fiber = Fiber(lambda: 1)
    with pytest.raises(TypeError, match="first switch"):
        fiber.switch(1)
    assert fiber.state == "new"
    assert fiber.switch(None) == 1


def test_at_most_one_value_travels():
    with pytest.raises(TypeError, match="at most 1"):
        Fiber(print).switch(1, 2)


def test_exceptions_travel_both_ways():
    main = kfiber.current()

    def target():
        try:
            main.switch()
        except KeyError as error:
            raise LookupError("out") from error

    fiber = Fiber(target)
    fiber.switch()
    thrown = KeyError("in")
    with pytest.raises(LookupError, match="out") as caught:
        fiber.throw(thrown)
    assert caught.value.__cause__ is thrown
    del caught, thrown


def test_throw_takes_a_class_or_an_instance_only():
    main = kfiber.current()
    fiber = Fiber(main.switch)
    fiber.switch()
    with pytest.raises(TypeError, match="BaseException"):
        fiber.throw(1)
    with pytest.raises(TypeError, match="BaseException"):
        fiber.throw(int)
    with pytest.raises(ZeroDivisionError):
        fiber.throw(ZeroDivisionError)


def test_traceback_shows_where_it_was_raised():
    def innermost():
        raise ValueError

    fiber = Fiber(lambda: innermost())
    try:
        fiber.switch()
    except ValueError as error:
        names = [each.name for each in traceback.extract_tb(error.__traceback__)]
    assert names[-2:] == ["<lambda>", "innermost"]


def test_handled_exceptions_stay_with_their_fiber():
    main = kfiber.current()
    seen = []

    def target():
        seen.append(sys.exc_info())
        try:
            raise KeyError(2)
        except KeyError as error:
            main.switch()
            seen.append(sys.exc_info()[1] is error)
        main.switch()
        seen.append(sys.exc_info())

    fiber = Fiber(target)
    try:
        raise ValueError(1)
    except ValueError as error:
        fiber.switch()
        assert sys.exc_info()[1] is error
    assert sys.exc_info() == (None, None, None)
    fiber.switch()
    assert sys.exc_info() == (None, None, None)
    fiber.switch()
    assert seen == [(None, None, None), True, (None, None, None)]


def test_exceptions_get_no_context_of_another_fiber():
    def target():
        raise KeyError

    try:
        raise ValueError
    except ValueError:
        with pytest.raises(KeyError) as caught:
            Fiber(target).switch()
    assert caught.value.__context__ is None
    del caught


def test_generators_stay_suspended_inside():
    main = kfiber.current()

    def numbers():
        for i in range(4):
            main.switch(("inside", i))
            yield i

    fiber = Fiber(lambda: list(numbers()))
    assert [fiber.switch() for _ in range(4)] == [("inside", i) for i in range(4)]
    assert fiber.switch() == [0, 1, 2, 3]


def test_coroutines_and_asynchronous_generators_stay_suspended_inside():
    main = kfiber.current()

    async def numbers():
        for i in range(3):
            main.switch(i)
            yield i

    async def total():
        return [i async for i in numbers()]

    def target():
        try:
            total().send(None)
        except StopIteration as stop:
            return stop.value

    fiber = Fiber(target)
    assert [fiber.switch() for _ in range(3)] == [0, 1, 2]
    assert fiber.switch() == [0, 1, 2]


def test_a_generator_that_another_fiber_runs_cannot_be_entered():
    main = kfiber.current()

    def generator():
        main.switch()
        yield 1

    running = generator()
    fiber = Fiber(lambda: next(running))
    fiber.switch()
    with pytest.raises(ValueError, match="already executing"):
        next(running)
    assert fiber.switch() == 1


def test_switching_inside_c_callbacks():
    main = kfiber.current()
    compare_type = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)
    )

    def sort(values):
        def compare(a, b):
            main.switch("comparing")
            return a[0] - b[0]

        array = (ctypes.c_int * len(values))(*values)
        ctypes.CDLL(None).qsort(
            array, len(array), ctypes.sizeof(ctypes.c_int), compare_type(compare)
        )
        return list(array)

    waiting = {Fiber(sort, [3 + i, 1, 2, 0]): [0, 1, 2, 3 + i] for i in range(3)}
    while waiting:
        for fiber in list(waiting):
            result = fiber.switch()
            if fiber.state == "finished":
                assert result == waiting.pop(fiber)


def test_deep_python_and_c_stacks_survive():
    main = kfiber.current()

    def down(depth):
        if not depth:
            return main.switch("deep")
        return max(map(down, [depth - 1]))

    fibers = [Fiber(down, 50) for _ in range(20)]
    assert {fiber.switch() for fiber in fibers} == {"deep"}
    assert [fiber.switch(i) for i, fiber in enumerate(fibers)] == list(range(20))


def test_a_ring():
    fibers = []

    def target(i):
        for _ in range(10):
            fibers[(i + 1) % len(fibers)].switch()

    main = kfiber.current()
    fibers += [Fiber(target, i) for i in range(50)]
    # The first one ends after ten rounds, and its parent is this one.
    fibers[0].switch()
    assert kfiber.current() is main
    assert [fiber.stats.activations for fiber in fibers[1:]] == [10] * 49
    # Each refers to the next one, from where a collection does not see it.
    for fiber in fibers[1:]:
        with pytest.raises(kfiber.FiberExit):
            fiber.throw(kfiber.FiberExit)


def test_it_cannot_switch_to_itself():
    with pytest.raises(kfiber.FiberRunningError, match="running"):
        kfiber.current().switch()
    fiber = Fiber(lambda: kfiber.current().switch())
    with pytest.raises(kfiber.FiberRunningError):
        fiber.switch()


def test_threads_values_are_seen_in_fibers(thread):
    import threading

    local = threading.local()

    def main():
        local.value = "mine"
        fiber = Fiber(lambda: (local.value, threading.get_ident(), threading.current_thread()))
        return fiber.switch() == ("mine", threading.get_ident(), threading.current_thread())

    assert thread(main)
