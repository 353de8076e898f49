# SPDX-License-Identifier: MIT
"""Recursion, stacks and numbers of fibers end in an exception, or, at a guard page, in SIGSEGV."""

from __future__ import annotations

import mmap
import resource
import signal
import sys
import weakref

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


def test_objects_go_at_once_on_the_smallest_stack():
    class Thing:
        pass

    def target():
        things = [[Thing()] for _ in range(100)]
        references = [weakref.ref(thing) for (thing,) in things]
        del things
        return sum(reference() is not None for reference in references)

    assert Fiber(target, stack_size=64 << 10).switch() == 0


def test_a_stack_overflow_is_a_segmentation_fault(python):
    """The C library does not count its recursion: the guard page ends it."""
    done = python(
        """
        import ctypes, kfiber
        def parse(depth):
            pattern = b"(" * depth + b"a" + b")" * depth
            return ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(256), pattern, 1)
        print(kfiber.Fiber(parse, 100).switch(), flush=True)
        kfiber.Fiber(parse, 30_000).switch()
        """,
        status=-signal.SIGSEGV,
    )
    assert done.stdout == "0\n"
    assert "in parse" in done.stderr


def guards_are_mappings():
    """Before Linux 6.13 each guard page is a mapping, whose number is limited."""
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        try:
            memory.madvise(102, 0, mmap.PAGESIZE)  # MADV_GUARD_INSTALL
        except OSError:
            return True
    return False


@pytest.mark.parametrize(
    "count",
    [
        20_000,
        pytest.param(
            100_000,
            marks=pytest.mark.skipif(
                guards_are_mappings(),
                reason="no MADV_GUARD_INSTALL: vm.max_map_count is in the way",
            ),
        ),
    ],
)
def test_many_fibers(python, count):
    done = python(
        f"""
        import kfiber, gc
        main = kfiber.current()
        fibers = [kfiber.Fiber(main.switch) for _ in range({count})]
        for fiber in fibers:
            fiber.switch()
        gc.collect()
        assert len(kfiber.fibers()) == {count} + 1
        for fiber in fibers:
            fiber.switch()
        assert {{fiber.state for fiber in fibers}} == {{"finished"}}
        print("all")
        """
    )
    assert done.stdout == "all\n"


def test_no_address_space_is_a_memory_error(python):
    done = python(
        """
        import kfiber, resource
        main = kfiber.current()
        # For some stacks only.
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        fibers = []
        try:
            while True:
                fibers.append(kfiber.Fiber(main.switch, stack_size=16 << 20))
        except MemoryError:
            print("MemoryError")
        assert 10 < len(fibers) < 64
        for fiber in fibers:
            fiber.switch()
        """
    )
    assert done.stdout == "MemoryError\n"


def test_too_many_mappings_name_the_limit(python):
    done = python(
        """
        import kfiber, mmap
        main = kfiber.current()
        # A fiber's thread state is a mapping too: this one leaves it to the next.
        kfiber.Fiber(str).switch()
        # Neighbours of different protection are mappings of their own.
        held = []
        try:
            while True:
                prot = mmap.PROT_READ | (mmap.PROT_WRITE if len(held) % 2 else 0)
                held.append(mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot))
        except OSError:
            pass
        try:
            kfiber.Fiber(print, stack_size=48 << 20)
        except kfiber.FiberLimitError as error:
            print(error)
        assert kfiber.fibers() == [main]
        held.clear()
        kfiber.Fiber(print, "again", stack_size=48 << 20).switch()
        """
    )
    error, again = done.stdout.splitlines()
    assert "vm.max_map_count" in error
    assert again == "again"


def test_as_many_as_the_module_allows(python):
    if kfiber.engine() == "local":
        pytest.skip("engine local: 1,000,000, which take too much memory for a test")
    done = python(
        """
        import kfiber, pathlib
        parameter = pathlib.Path("/sys/module/fiber/parameters/max_fibers")
        before = parameter.read_text()
        # It is read at the first use.
        parameter.write_text("100")
        try:
            main = kfiber.current()
        finally:
            parameter.write_text(before)
        fibers = []
        try:
            while len(fibers) < 1000:
                fibers.append(kfiber.Fiber(main.switch))
        except kfiber.FiberLimitError as error:
            print(error)
        assert len(fibers) == len(kfiber.fibers()) - 1 == 99, len(fibers)
        for fiber in fibers:
            fiber.switch()
        fibers.clear()
        kfiber.Fiber(print, "again").switch()
        """
    )
    error, again = done.stdout.splitlines()
    assert "max_fibers" in error
    assert again == "again"


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
