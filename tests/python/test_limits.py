# SPDX-License-Identifier: MIT
"""Recursion, stacks and numbers of fibers end in an exception, or, at a guard page, in SIGSEGV."""

from __future__ import annotations

import resource
import signal
import sys

import pytest

import kfiber
from kfiber import Fiber

SIZES = [64 << 10, 256 << 10, 1 << 20, 8 << 20]


def recurse_in_python(depth=0):
    return recurse_in_python(depth + 1) + 1


class Recursive:
    """Each level takes a frame of C."""

    def __eq__(self, other):
        return [self] == [other]

    __hash__ = None

    def __repr__(self):
        return repr([self])

    def __getattr__(self, name):
        return getattr(self, name + "x")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "function",
    [
        recurse_in_python,
        lambda: Recursive() == Recursive(),
        lambda: repr(Recursive()),
        lambda: Recursive().name,
    ],
    ids=["python", "compare", "repr", "getattr"],
)
def test_recursion_ends_in_an_exception(function, size):
    with pytest.raises(RecursionError):
        Fiber(function, stack_size=size).switch()


def test_nested_data_of_c_code():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for size in SIZES[:3]:
        with pytest.raises(RecursionError):
            Fiber(repr, nested, stack_size=size).switch()
    while nested:
        nested = nested.pop()


def test_recursion_counts_anew_in_each_fiber():
    def down(depth):
        return depth and down(depth - 1)

    def nest(level):
        return level and Fiber(lambda: down(300) or nest(level - 1)).switch()

    # 20 times 300 frames, but never more than 300 on one stack.
    assert nest(20) == 0


def test_the_limit_follows_setrecursionlimit():
    main = kfiber.current()

    def depth():
        reached = 0

        def down():
            nonlocal reached
            reached += 1
            down()

        with pytest.raises(RecursionError):
            down()
        return reached

    def target():
        main.switch()
        return depth()

    fiber = Fiber(target)
    fiber.switch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        assert fiber.switch() < 400
        assert Fiber(depth).switch() < 400
    finally:
        sys.setrecursionlimit(limit)


def test_a_stack_overflow_is_a_segmentation_fault(python):
    """The parser does not count its recursion: the guard page ends it."""
    done = python(
        """
        import kfiber
        def parse():
            return eval("(" * 90 + "1" + ")" * 90)
        print(parse(), flush=True)
        kfiber.Fiber(parse, stack_size=64 << 10).switch()
        """,
        status=-signal.SIGSEGV,
    )
    assert done.stdout == "1\n"
    assert "in parse" in done.stderr


def test_twenty_thousand_fibers(python):
    done = python(
        """
        import kfiber, gc
        main = kfiber.current()
        fibers = [kfiber.Fiber(main.switch) for _ in range(20_000)]
        for fiber in fibers:
            fiber.switch()
        gc.collect()
        assert len(kfiber.fibers()) == 20_001
        for fiber in fibers:
            fiber.switch()
        assert {fiber.state for fiber in fibers} == {"finished"}
        print("all")
        """
    )
    assert done.stdout == "all\n"


def test_too_many_mappings_name_the_limit(python):
    """Where each guard page is a mapping, their number ends it; elsewhere memory may be had."""
    done = python(
        """
        import kfiber, resource
        main = kfiber.current()
        # Address space for some stacks only.
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        fibers = []
        try:
            while True:
                fibers.append(kfiber.Fiber(main.switch, stack_size=16 << 20))
        except (MemoryError, kfiber.FiberLimitError) as error:
            if isinstance(error, kfiber.FiberLimitError):
                assert "vm.max_map_count" in str(error)
        assert 10 < len(fibers) < 64
        for fiber in fibers:
            fiber.switch()
        """
    )
    assert done.stdout == ""


def test_memory_of_a_suspended_fiber():
    main = kfiber.current()

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    warm = [Fiber(main.switch) for _ in range(600)]
    for fiber in warm:
        fiber.switch()
    before = resident()
    fibers = [Fiber(main.switch) for _ in range(2000)]
    for fiber in fibers:
        fiber.switch()
    each = (resident() - before) / len(fibers)
    for fiber in fibers + warm:
        fiber.switch()
    # A page of stack, one of frames, the objects. What it is exactly, bench/ tells.
    assert each < 16384
