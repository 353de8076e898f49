# SPDX-License-Identifier: MIT
"""asyncio's running loop is the thread's, or leaves with the fiber that started it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading

import pytest

import kfiber
from kfiber import Fiber


def running():
    return asyncio._get_running_loop()


def test_a_fiber_entered_from_a_callback_sees_the_loop():
    seen = []

    async def main():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def callback():
            seen.append((running() is loop, asyncio.current_task() is task))
            kfiber.root().switch()
            seen.append((running() is loop, asyncio.current_task() is task))

        fiber = Fiber(callback)
        fiber.switch()
        await asyncio.sleep(0)
        fiber.switch()

    asyncio.run(main())
    assert seen == [(True, True)] * 2
    assert running() is None


def test_tasks_of_a_parked_fiber_are_the_loops():
    async def work():
        return asyncio.current_task()

    def create():
        kfiber.root().switch(asyncio.create_task(work()))

    async def main():
        fiber = Fiber(create)
        task = fiber.switch()
        assert asyncio.all_tasks() == {task, asyncio.current_task()}
        assert await task is task
        fiber.switch()

    asyncio.run(main())


def test_no_second_loop_under_a_running_one():
    async def nothing():
        pass

    def target():
        with contextlib.closing(nothing()) as coroutine:
            with pytest.raises(RuntimeError, match="running event loop"):
                asyncio.run(coroutine)

    async def main():
        Fiber(target).switch()

    asyncio.run(main())


def test_a_loop_leaves_and_returns_with_its_fiber():
    main = kfiber.current()

    async def work():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        hooks = sys.get_asyncgen_hooks()
        for i in range(3):
            main.switch(i)
            assert running() is loop
            assert asyncio.current_task() is task
            assert sys.get_asyncgen_hooks() == hooks
            await asyncio.sleep(0)
        return "done"

    async def alone():
        return running()

    fiber = Fiber(lambda: asyncio.run(work()))
    for i in range(3):
        assert fiber.switch() == i
        assert running() is None
        assert sys.get_asyncgen_hooks() == (None, None)
        assert asyncio.run(alone()) is not None
    assert fiber.switch() == "done"


def test_two_fibers_with_a_loop_each():
    main = kfiber.current()

    async def work(name):
        loop = asyncio.get_running_loop()
        for _ in range(5):
            main.switch(name)
            assert running() is loop
            await asyncio.sleep(0)
        return loop

    fibers = [Fiber(lambda name=name: asyncio.run(work(name))) for name in "ab"]
    for _ in range(5):
        assert [fiber.switch() for fiber in fibers] == ["a", "b"]
    loops = {fiber.switch() for fiber in fibers}
    assert len(loops) == 2


def test_a_running_loop_pins_its_fiber_until_it_ends(thread):
    main = kfiber.current()

    async def work():
        main.switch()

    def target():
        asyncio.run(work())
        main.switch()
        return threading.get_ident()

    fiber = Fiber(target)
    fiber.switch()
    with pytest.raises(kfiber.FiberPinnedError):
        thread(fiber.switch)
    fiber.switch()
    assert thread(fiber.switch) != threading.get_ident()


def test_after_a_migration_it_is_the_other_threads_loop(thread):
    seen = []

    def target():
        while True:
            loop = running()
            seen.append((loop, loop and asyncio.current_task()))
            kfiber.root().switch()

    fiber = Fiber(target)

    async def enter():
        fiber.switch()
        return asyncio.get_running_loop(), asyncio.current_task()

    here = asyncio.run(enter())
    thread(fiber.switch)
    there = thread(lambda: asyncio.run(enter()))
    fiber.switch()
    assert seen == [here, (None, None), there, (None, None)]


def test_an_unreachable_one_with_a_loop_is_ended():
    main = kfiber.current()
    ended = []

    async def work():
        try:
            main.switch()
        finally:
            ended.append(running())

    fiber = Fiber(lambda: asyncio.run(work()))
    fiber.switch()
    del fiber
    assert len(ended) == 1
    assert ended[0] is not None
    assert running() is None
