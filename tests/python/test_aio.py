# SPDX-License-Identifier: MIT
"""Synchronous code on fibers in asyncio: kfiber.aio."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import sys
import threading
import warnings
import weakref

import pytest

import kfiber
from kfiber import Fiber
from kfiber.aio import await_, to_fiber

variable = contextvars.ContextVar("variable", default="none")


async def give(value, *, turns=1):
    for _ in range(turns):
        await asyncio.sleep(0)
    return value


async def fail(error):
    await asyncio.sleep(0)
    raise error


def closed(coroutine):
    return inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


# --- values and exceptions --------------------------------------------------


def test_values_both_ways():
    def func(a, b, *, c):
        return [a, await_(give(b)), await_(give(c, turns=3))]

    assert asyncio.run(to_fiber(func, 1, 2, c=3)) == [1, 2, 3]


def test_a_function_that_never_awaits():
    assert asyncio.run(to_fiber(divmod, 7, 2)) == (3, 1)
    assert asyncio.run(to_fiber(lambda: None)) is None


def test_any_awaitable():
    class Awaitable:
        def __await__(self):
            return (yield from give("object").__await__())

    def func():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        return [await_(each) for each in (Awaitable(), future, loop.create_task(give("task")))]

    assert asyncio.run(to_fiber(func)) == ["object", "future", "task"]


def test_an_exception_of_the_function():
    def func():
        await_(give(None))
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as caught:
        asyncio.run(to_fiber(func))
    assert [each.name for each in caught.traceback][-3:] == ["_run", "_call", "func"]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(to_fiber(divmod, 1, 0))


def test_an_exception_of_what_is_awaited():
    def func(error):
        try:
            await_(fail(error))
        except LookupError as caught:
            assert caught is error
            # It is handled here, and nowhere else.
            assert await_(give("on")) == "on"
            assert sys.exc_info()[1] is error
        assert sys.exc_info() == (None, None, None)
        return await_(give("after"))

    assert asyncio.run(to_fiber(func, LookupError())) == "after"
    with pytest.raises(OSError, match="not handled"):
        asyncio.run(to_fiber(func, OSError("not handled")))


def test_stop_iteration_is_as_in_a_coroutine():
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(to_fiber(next, iter(())))


def test_what_is_not_awaitable():
    def func():
        with pytest.raises(TypeError, match="int"):
            await_(1)
        return await_(give("on"))

    assert asyncio.run(to_fiber(func)) == "on"


def test_a_switch_by_hand_is_an_error_there():
    def func():
        with pytest.raises(TypeError, match="await"):
            kfiber.current().parent.switch("by hand")
        return "on"

    assert asyncio.run(to_fiber(func)) == "on"


def test_what_was_raised_is_in_no_cycle():
    class Marked(Exception):
        pass

    async def mark():
        await asyncio.sleep(0)
        raise Marked

    async def main():
        try:
            await to_fiber(lambda: await_(mark()))
        except Marked as error:
            return weakref.ref(error)

    gc.disable()
    try:
        assert asyncio.run(main())() is None
    finally:
        gc.enable()


# --- where it runs -----------------------------------------------------------


def test_it_sees_the_loop_the_task_and_its_own_fiber():
    async def main():
        loop, task, thread = asyncio.get_running_loop(), asyncio.current_task(), kfiber.root()
        seen = []

        def look():
            fiber = kfiber.current()
            seen.append(fiber)
            assert asyncio.get_running_loop() is loop
            assert asyncio.current_task() is task
            assert kfiber.root() is thread
            assert fiber is not thread
            assert fiber.name == look.__qualname__

        def func():
            look()
            await_(give(None))
            look()

        look.__qualname__ = func.__qualname__
        await to_fiber(func)
        assert seen[0] is seen[1]
        assert seen[0].state == "finished"
        assert kfiber.current() is thread

    asyncio.run(main())


def test_a_name_of_its_own():
    class Callable:
        def __call__(self):
            return kfiber.current().name

    assert asyncio.run(to_fiber(Callable())) == "Callable"
    assert "Callable" not in [fiber.name for fiber in kfiber.fibers()]


def test_a_loop_that_runs_in_a_fiber():
    main = kfiber.current()

    def func():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        hooks = sys.get_asyncgen_hooks()
        for i in range(3):
            await_(give(None))
            main.switch((i, kfiber.current()))
            assert asyncio.get_running_loop() is loop
            assert asyncio.current_task() is task
            assert sys.get_asyncgen_hooks() == hooks != (None, None)
        return "done"

    fiber = Fiber(lambda: asyncio.run(to_fiber(func)), parent=main)
    for i in range(3):
        number, fiber = fiber.switch()
        assert number == i
        assert asyncio._get_running_loop() is None
        assert asyncio.run(to_fiber(lambda: await_(give("beside")))) == "beside"
    assert fiber.switch() == "done"


def test_a_loop_that_goes_on_in_another_fiber():
    loop = asyncio.new_event_loop()

    def func():
        await_(first)
        await_(second)
        return "done"

    async def step(future):
        future.set_result(None)
        await asyncio.sleep(0)

    first, second = loop.create_future(), loop.create_future()
    task = loop.create_task(to_fiber(func))
    loop.run_until_complete(step(first))
    assert not task.done()
    Fiber(lambda: loop.run_until_complete(step(second))).switch()
    assert loop.run_until_complete(task) == "done"
    loop.close()


def test_it_is_pinned_to_its_thread(thread):
    async def main():
        started = asyncio.Event()
        seen = []

        def func():
            seen.append(weakref.ref(kfiber.current()))
            started.set()
            return await_(give("mine", turns=3))

        task = asyncio.create_task(to_fiber(func))
        await started.wait()
        fiber = seen[0]()
        assert fiber.state == "suspended"
        with pytest.raises(kfiber.FiberPinnedError):
            thread(fiber.switch)
        assert await task == "mine"

    asyncio.run(main())


def test_a_loop_that_goes_on_in_another_thread(thread):
    loop = asyncio.new_event_loop()
    task = loop.create_task(to_fiber(lambda: await_(give(None, turns=3))))
    loop.run_until_complete(asyncio.sleep(0))
    with pytest.raises(kfiber.FiberPinnedError):
        thread(loop.run_until_complete, task)
    loop.close()
    del task
    gc.collect()
    # Where the fiber unwinds now.
    kfiber.root()
    Fiber(lambda: None).switch()


def test_each_thread_has_its_loop():
    def func(i):
        ident = threading.get_ident()
        for turn in range(50):
            assert await_(give((i, turn))) == (i, turn)
            assert threading.get_ident() == ident
        return i

    async def main(base):
        return await asyncio.gather(*(to_fiber(func, base + i) for i in range(20)))

    results = {}

    def run(base):
        results[base] = asyncio.run(main(base))

    workers = [threading.Thread(target=run, args=(base,)) for base in (0, 100, 200, 300)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == {base: list(range(base, base + 20)) for base in (0, 100, 200, 300)}


# --- context variables --------------------------------------------------------


def test_the_context_is_the_tasks_own():
    def func():
        assert variable.get() == "before"
        variable.set("inside")
        assert await_(look()) == "inside"
        assert variable.get() == "awaited"

    async def look():
        value = variable.get()
        await asyncio.sleep(0)
        variable.set("awaited")
        return value

    async def main():
        variable.set("before")
        await to_fiber(func)
        assert variable.get() == "awaited"
        # Neither is anything else in it.
        assert [each.name for each in contextvars.copy_context()] == ["variable"]

    contextvars.Context().run(asyncio.run, main())
    assert variable.get() == "none"


def test_a_token_of_one_side_serves_the_other():
    async def main():
        token = await to_fiber(variable.set, "inside")
        assert variable.get() == "inside"
        await to_fiber(variable.reset, token)
        assert variable.get() == "none"
        variable.set("outside")
        # A variable's cache is the thread state's; the fiber's would be stale.
        assert await to_fiber(variable.get) == "outside"

    asyncio.run(main())


def test_tasks_do_not_share_theirs():
    def func(i):
        variable.set(i)
        for _ in range(5):
            await_(give(None))
            assert variable.get() == i

    async def main():
        await asyncio.gather(*(to_fiber(func, i) for i in range(10)))
        assert variable.get() == "none"

    asyncio.run(main())


def test_in_a_context_that_is_entered_within_a_task():
    async def main():
        context = contextvars.copy_context()
        coroutine = to_fiber(variable.set, "entered")
        with pytest.raises(StopIteration):
            context.run(coroutine.send, None)
        assert context[variable] == "entered"
        assert variable.get() == "none"

    asyncio.run(main())


# --- nesting, and many of them -------------------------------------------------


def test_nesting():
    def func(depth):
        if depth == 0:
            return await_(give(0))
        return 1 + await_(to_fiber(func, depth - 1))

    assert asyncio.run(to_fiber(func, 20)) == 20


def test_many():
    def func(i):
        total = 0
        for _ in range(3):
            total += await_(give(i, turns=i % 3))
        return total

    async def main():
        return await asyncio.gather(*(to_fiber(func, i) for i in range(500)))

    assert asyncio.run(main()) == [3 * i for i in range(500)]


def test_through_generators_and_callbacks():
    def numbers():
        for i in range(4):
            yield await_(give(i))

    def key(number):
        return -await_(give(number))

    def func():
        return sorted(numbers(), key=key)

    assert asyncio.run(to_fiber(func)) == [3, 2, 1, 0]


def test_asynchronous_generators_and_managers():
    steps = []

    async def numbers():
        try:
            for i in range(3):
                await asyncio.sleep(0)
                yield i
        finally:
            steps.append("closed")

    @contextlib.asynccontextmanager
    async def manager():
        await asyncio.sleep(0)
        yield "entered"
        steps.append("left")

    def func():
        entered = manager()
        steps.append(await_(entered.__aenter__()))
        each = numbers()
        steps.append(await_(each.__anext__()))
        await_(each.aclose())
        await_(entered.__aexit__(None, None, None))

    asyncio.run(to_fiber(func))
    assert steps == ["entered", 0, "closed", "left"]


def test_locks_of_asyncio_exclude():
    inside = []

    def func(lock, i):
        await_(lock.acquire())
        try:
            inside.append(i)
            await_(give(None, turns=3))
            assert inside.pop() == i
            assert not inside
        finally:
            lock.release()

    async def main():
        lock = asyncio.Lock()
        await asyncio.gather(*(to_fiber(func, lock, i) for i in range(10)))

    asyncio.run(main())


# --- cancellation and timeouts --------------------------------------------------


def test_cancelled_before_it_starts():
    ran = []

    async def main():
        task = asyncio.create_task(to_fiber(ran.append, 1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not ran


def test_cancelled_inside():
    steps = []

    def func():
        try:
            await_(asyncio.Event().wait())
        except asyncio.CancelledError:
            # It can still await, to put things in order.
            steps.append(await_(give("cleaned")))
            raise

    async def main():
        task = asyncio.create_task(to_fiber(func))
        await asyncio.sleep(0)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    assert steps == ["cleaned"]


def test_a_cancellation_that_is_swallowed():
    def func():
        with contextlib.suppress(asyncio.CancelledError):
            await_(asyncio.Event().wait())
        return await_(give("went on"))

    async def main():
        task = asyncio.create_task(to_fiber(func))
        await asyncio.sleep(0)
        task.cancel()
        assert await task == "went on"

    asyncio.run(main())


def test_cancelled_by_itself():
    def func():
        asyncio.current_task().cancel()
        with pytest.raises(asyncio.CancelledError):
            await_(give(None))
        return "after"

    assert asyncio.run(to_fiber(func)) == "after"


def test_cancelled_after_it_has_finished():
    async def main():
        task = asyncio.create_task(to_fiber(lambda: await_(give("value"))))
        assert await task == "value"
        assert not task.cancel()
        assert task.result() == "value"

    asyncio.run(main())


def test_cancelling_cancels_what_is_awaited():
    seen = []

    async def inner():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("inner")
            raise

    def func():
        try:
            await_(to_fiber(lambda: await_(inner())))
        finally:
            seen.append("func")

    async def main():
        task = asyncio.create_task(to_fiber(func))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == ["inner", "func"]


def test_timeouts_outside_and_inside():
    steps = []

    def outside():
        try:
            await_(asyncio.Event().wait())
        finally:
            steps.append("outside")

    def inside():
        with pytest.raises(asyncio.TimeoutError):
            await_(asyncio.wait_for(asyncio.Event().wait(), 0.001))
        return await_(give("inside"))

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(to_fiber(outside), 0.001)
        steps.append(await to_fiber(inside))

    asyncio.run(main())
    assert steps == ["outside", "inside"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout() is of 3.11")
def test_a_timeout_around_and_a_group():
    def func(seen):
        try:
            await_(asyncio.Event().wait())
        finally:
            seen.append("cancelled")

    def wrong():
        await_(give(None))
        raise LookupError

    async def main():
        seen = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await to_fiber(func, seen)
        with pytest.raises(BaseExceptionGroup) as caught:  # noqa: F821
            async with asyncio.TaskGroup() as group:
                group.create_task(to_fiber(func, seen))
                group.create_task(to_fiber(wrong))
        assert [type(each) for each in caught.value.exceptions] == [LookupError]
        assert seen == ["cancelled"] * 2

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_keyboard_interrupt_goes_through():
    def func():
        await_(give(None))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(to_fiber(func))


# --- what nobody waits for any more ----------------------------------------------


# What a caller's expression holds meanwhile is a temporary of its frame on 3.10.
collectable = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the collector sees no arguments of calls before 3.11"
)


@collectable
def test_abandoned_when_its_loop_is_closed():
    ended = []

    def func():
        coroutine = give(None)
        try:
            await_(asyncio.get_running_loop().create_future())
        except kfiber.FiberExit:
            with pytest.raises(RuntimeError):
                await_(coroutine)
            ended.append(closed(coroutine))
            raise

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: ended.append(context["message"]))
    task = loop.create_task(to_fiber(func))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert not ended
    del task
    gc.collect()
    assert sorted(ended, key=str) == ["Task was destroyed but it is pending!", True]


def test_a_closed_coroutine_ends_its_fiber_at_once():
    ended = []

    def func():
        try:
            await_(asyncio.Event().wait())
        finally:
            coroutine = give(None)
            with pytest.raises(RuntimeError):
                await_(coroutine)
            ended.append(closed(coroutine))

    async def main():
        coroutine = to_fiber(func)
        coroutine.send(None)
        coroutine.close()
        return list(ended)

    gc.disable()
    try:
        assert asyncio.run(main()) == [True]
    finally:
        gc.enable()


@collectable
def test_abandoned_in_a_thread_that_has_ended(thread):
    ended = []

    def func():
        try:
            await_(asyncio.get_running_loop().create_future())
        finally:
            ended.append(threading.current_thread())

    def run():
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        task = loop.create_task(to_fiber(func))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return task

    task = thread(run)
    assert not task.done()
    del task
    gc.collect()
    assert ended == [threading.main_thread()]


def test_run_cancels_what_is_left():
    ended = []

    def func():
        try:
            await_(asyncio.Event().wait())
        except asyncio.CancelledError:
            ended.append(await_(give("ended")))
            raise

    async def main():
        main.task = asyncio.create_task(to_fiber(func))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert ended == ["ended"]
    assert main.task.cancelled()
    del main.task


# --- elsewhere --------------------------------------------------------------------


@contextlib.contextmanager
def refused():
    """Gives a coroutine, expects the block to be refused, and the coroutine to be closed."""
    coroutine = give(None)
    with warnings.catch_warnings():
        # "never awaited" would be one.
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="to_fiber"):
            yield coroutine
    assert closed(coroutine)


def test_await_without_a_loop():
    with refused() as coroutine:
        await_(coroutine)
    with refused() as coroutine:
        Fiber(await_, coroutine).switch()


def test_await_in_a_coroutine_and_in_a_callback():
    async def main():
        with refused() as coroutine:
            await_(coroutine)
        failed = asyncio.get_running_loop().create_future()

        def callback():
            with refused() as coroutine:
                await_(coroutine)
            failed.set_result(None)

        asyncio.get_running_loop().call_soon(callback)
        await failed

    asyncio.run(main())


def generated(function):
    """Yields what a function on a fiber of its own gives; the caller resumes it each time."""

    def body():
        function(me.append)
        return END

    me, worker = [], Fiber(body)
    while not worker.dead:
        value = worker.switch()
        yield from me
        me.clear()
        assert worker.dead and value is END


END = object()


def test_await_below_other_fibers():
    """Helpers suspend their makers too; their makers resume when they end."""

    def below(levels):
        if not levels:
            return await_(give("deep", turns=2)), await_(give("again"))
        return Fiber(below, levels - 1).switch()

    def failing():
        await_(give(None))
        raise LookupError("below")

    def func():
        with pytest.raises(LookupError, match="below"):
            Fiber(failing).switch()
        values = list(generated(lambda send: [send(await_(give(i))) for i in range(3)]))
        return below(5), values, await_(give("on"))

    async def main():
        return await asyncio.gather(*(to_fiber(func) for _ in range(3)))

    assert asyncio.run(main()) == [(("deep", "again"), [0, 1, 2], "on")] * 3


def test_await_below_other_fibers_cancelled():
    """What cancels the task is raised where it waits."""
    seen = []

    def waits():
        try:
            await_(asyncio.get_running_loop().create_future())
        except asyncio.CancelledError:
            seen.append(kfiber.current().name)
            raise

    async def main():
        task = asyncio.create_task(to_fiber(lambda: Fiber(waits, name="helper").switch()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == ["helper"]
    seen.clear()


def test_a_closed_coroutine_ends_all_that_wait_in_it():
    seen = []

    def ends(function):
        try:
            return function()
        finally:
            seen.append(kfiber.current().name)

    async def main():
        inner = Fiber(ends, lambda: await_(asyncio.sleep(60)), name="inner", parent=kfiber.root())
        coroutine = to_fiber(ends, inner.switch)
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert len(seen) == 2 and seen[0] == "inner"
    seen.clear()


def test_await_in_a_coroutine_that_is_awaited_from_a_fiber():
    """Its steps run on the fiber."""

    async def inner():
        return await_(give("inner")), await to_fiber(lambda: await_(give("innermost")))

    assert asyncio.run(to_fiber(lambda: await_(inner()))) == ("inner", "innermost")


def test_run_sync(thread):
    """The same function with a loop and without one."""

    def func():
        return kfiber.aio.run_sync(give("value", turns=2))

    assert func() == "value"
    assert asyncio.run(to_fiber(func)) == "value"
    assert asyncio.run(to_fiber(lambda: Fiber(func).switch())) == "value"

    async def main():
        with refused() as coroutine:
            kfiber.aio.run_sync(coroutine)

    asyncio.run(main())


TRIO = """
    import kfiber, sys, trio
    from kfiber.aio import await_, run_sync, to_fiber

    async def give(value):
        await trio.sleep(0.001)
        return value

    def func(value):
        inner = kfiber.Fiber(lambda: await_(give(value)))
        with trio.move_on_after(0.01) as scope:
            await_(trio.sleep_forever())
        return inner.switch(), scope.cancelled_caught, run_sync(give("sync"))

    async def main():
        found = []
        async def child(value):
            found.append(await to_fiber(func, value))
        async with trio.open_nursery() as nursery:
            for value in range(3):
                nursery.start_soon(child, value)
        return sorted(found)

    assert trio.run(main) == [(value, True, "sync") for value in range(3)]
"""
ANYIO = """
    import anyio, kfiber, sys
    from kfiber.aio import await_, to_fiber

    def func():
        send, receive = anyio.create_memory_object_stream(1)
        with send, receive:
            await_(send.send("through"))
            with anyio.move_on_after(0.01) as scope:
                await_(anyio.sleep(60))
            return await_(receive.receive()), scope.cancelled_caught

    async def main():
        return await to_fiber(func)

    for backend in ("asyncio", "trio"):
        assert anyio.run(main, backend=backend) == ("through", True)
"""
SQLALCHEMY = """
    import kfiber.greenlet
    # SQLAlchemy's greenlets would hold the fiber.
    kfiber.greenlet.install()

    import asyncio, sqlalchemy
    from sqlalchemy.ext.asyncio import create_async_engine
    from kfiber.aio import await_, to_fiber

    engine = create_async_engine("sqlite+aiosqlite://")

    def inside(connection):
        value = connection.execute(sqlalchemy.text("select 40")).scalar()
        return value + await_(asyncio.sleep(0.001, 2))

    async def main():
        async with engine.connect() as connection:
            return await connection.run_sync(inside)

    async def whole():
        value = await to_fiber(lambda: await_(main()))
        await engine.dispose()
        return value

    assert asyncio.run(whole()) == 42
"""


@pytest.mark.parametrize(
    ("program", "needs"),
    [(TRIO, ["trio"]), (ANYIO, ["anyio", "trio"]), (SQLALCHEMY, ["sqlalchemy", "aiosqlite"])],
    ids=["trio", "anyio", "sqlalchemy"],
)
def test_with_other_libraries(python, program, needs):
    for each in needs:
        pytest.importorskip(each)
    python(program)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly from 3.12 on")
def test_await_in_a_task_that_starts_eagerly_within():
    async def eager():
        with refused() as coroutine:
            await_(coroutine)
        # That one's own fiber is another matter: its parent is first this fiber, then the root.
        return await to_fiber(lambda: await_(give("eager")))

    def func():
        task = asyncio.create_task(eager())
        return await_(give("mine")), await_(task)

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        return await asyncio.create_task(to_fiber(func))

    assert asyncio.run(main()) == ("mine", "eager")


def test_what_is_no_coroutine_is_left_alone():
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    with pytest.raises(RuntimeError, match="to_fiber"):
        await_(future)
    assert not future.cancelled()
    loop.close()


def test_to_fiber_outside_a_task():
    coroutine = to_fiber(print)
    with pytest.raises(RuntimeError, match="loop"):
        coroutine.send(None)

    async def main():
        loop = asyncio.get_running_loop()
        result = loop.create_future()

        def callback():
            with pytest.raises(RuntimeError, match="tasks"):
                to_fiber(print).send(None)
            result.set_result("refused")

        loop.call_soon(callback)
        return await result

    assert asyncio.run(main()) == "refused"


def test_at_the_interpreters_end(python):
    done = python(
        """
        import asyncio
        from kfiber.aio import await_, to_fiber

        def func():
            try:
                await_(asyncio.get_running_loop().create_future())
            finally:
                print("ended", flush=True)

        loop = asyncio.new_event_loop()
        task = loop.create_task(to_fiber(func))
        loop.run_until_complete(asyncio.sleep(0))
        """
    )
    assert done.stdout == "ended\n"
