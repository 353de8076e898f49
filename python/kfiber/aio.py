# SPDX-License-Identifier: MIT
"""Synchronous code that awaits, in asyncio and trio: it runs on a fiber.

    import asyncio
    import kfiber.aio

    def fetch(host):  # called by anything, colourless
        reader, writer = kfiber.aio.await_(asyncio.open_connection(host, 80))
        ...

    async def main():
        await asyncio.gather(*(kfiber.aio.to_fiber(fetch, host) for host in hosts))

How it works:

    the task's coroutine, to_fiber()              the fiber
      fiber.switch()                 ------>      func(*args)
                                                    await_(coroutine)
      value = yield trap             <------          trap = coroutine.send(None)
      fiber.switch(value)            ------>          coroutine.send(value): it has returned
                                                    its value
      return                         <------      returns, or raises

A trap is what a coroutine yields to its event loop. The coroutine's steps run on the fiber, so what
it calls may await in the same way, on that fiber or on others that it makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, ParamSpec, TypeVar

import kfiber
from kfiber import Fiber
from kfiber._native import share_context

__all__ = ["await_", "run_sync", "to_fiber"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

# No trap: None is one.
_NONE = object()


class _Portal:
    """Where the functions that one to_fiber() runs hand their traps out."""

    def __init__(self, task: Any, current_task: Callable[[], Any]) -> None:
        # Weak: the task owns the coroutine, and that the fiber, whose frames have this.
        self._task = weakref.ref(task)
        self._current_task = current_task
        # The fiber that runs the task's coroutine now.
        self.driver = kfiber.current()
        # What is handed out, and by whom. They are not arguments of switch(), which would stay on
        # the stack meanwhile, where the collector does not see them: a trap refers to the task.
        self.trap: Any = _NONE
        self.waiter: Fiber | None = None

    def is_open(self) -> bool:
        """A task that starts eagerly runs on the fiber of the one that made it."""
        task = self._task()
        return task is not None and self._current_task() is task

    def leave(self) -> Any:
        """Hands `trap` out; returns what comes back for it, or raises that."""
        self.waiter = kfiber.current()
        return self.driver.switch()

    def take(self) -> Any:
        trap, self.trap = self.trap, _NONE
        return trap


class _Here(threading.local):
    portal: _Portal | None = None


_here = _Here()


async def to_fiber(func: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Runs `func(*args, **kwargs)` on a fiber of its own, where it may use await_().

    For tasks of asyncio and trio, with anyio too. Returns the function's value or raises its
    exception. The fiber belongs to the calling task: it runs on the task's thread only, in the
    task's Context itself (not a copy), and sees the running loop and the current task. It holds the
    loop up as long as it does not await, as a coroutine does.

    What cancels the task, or times it out, is raised out of await_(). If the task is destroyed
    without that, `kfiber.FiberExit` is, as in any fiber that nothing refers to any more.

    RuntimeError: not in a task. `kfiber.FiberLimitError`: too many fibers.
    `kfiber.FiberPinnedError`: the loop now runs in another thread. Any number of threads may
    use it, each with its loop.
    """
    # Not kept here: the fiber keeps what it raised, whose traceback has this frame.
    result: _T = await _drive(*_new(func, args, kwargs))
    return result


def await_(awaitable: Awaitable[_T], /) -> _T:
    """Suspends the calling function, not the loop, until `awaitable` is done.

    For functions that to_fiber() runs, and all that these call, on the same fiber or on others that
    they make. Returns the awaitable's value or raises its exception, and what cancels the task.

    RuntimeError: elsewhere, and in another task that starts eagerly within; TypeError: not
    awaitable. `kfiber.FiberError`: within a greenlet that is not `kfiber.greenlet`'s. A coroutine
    is closed then.
    """
    portal = _here.portal
    if portal is None or not portal.is_open():
        if asyncio.iscoroutine(awaitable):
            awaitable.close()
        raise RuntimeError(
            "await_() works only in functions that kfiber.aio.to_fiber() runs; hint: await "
            "kfiber.aio.to_fiber(function)"
        )
    steps = _awaited(awaitable)
    try:
        portal.trap = steps.send(None)
        while True:
            try:
                value = portal.leave()
            except BaseException as error:
                portal.trap = steps.throw(error)
            else:
                portal.trap = steps.send(value)
    except StopIteration as done:
        result: _T = done.value
        return result


def run_sync(coroutine: Coroutine[Any, Any, _T], /) -> _T:
    """Runs a coroutine from synchronous code and returns its value, whether a loop runs or not.

    Without a running loop it is asyncio.run(). Where to_fiber() runs the caller it is await_(), and
    the loop runs meanwhile. RuntimeError: a loop runs, but the caller is on no such fiber.
    """
    portal = _here.portal
    if (portal is not None and portal.is_open()) or asyncio._get_running_loop() is not None:
        return await_(coroutine)
    return asyncio.run(coroutine)


async def _awaited(awaitable: Awaitable[_T]) -> _T:
    """Makes a coroutine of it, as the interpreter does: TypeError if it is none of these."""
    return await awaitable


def _new(func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[_Portal, Fiber]:
    name = getattr(func, "__qualname__", type(func).__name__)
    portal, start = _open()
    fiber = Fiber(_call, portal, start, func, args, kwargs, name=name)
    share_context(fiber)
    return portal, fiber


def _open() -> tuple[_Portal, Callable[[], None] | None]:
    """A portal of the current task, and what the fiber does first."""
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        with contextlib.suppress(sniffio.AsyncLibraryNotFoundError):
            if sniffio.current_async_library() == "trio":
                import trio

                return _Portal(trio.lowlevel.current_task(), trio.lowlevel.current_task), None
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("to_fiber() works in tasks of asyncio and trio only")
    return _portal_of_asyncio(task)


def _portal_of_asyncio(task: asyncio.Task[Any]) -> tuple[_Portal, Callable[[], None]]:
    loop, hooks = task.get_loop(), sys.get_asyncgen_hooks()
    weak = weakref.ref(task)

    def start() -> None:
        # A loop that was started in a fiber is seen in that one only.
        if asyncio._get_running_loop() is None:
            asyncio._set_running_loop(loop)
            sys.set_asyncgen_hooks(*hooks)
            # So is its task from 3.14 on; before, a loop's task is known everywhere.
            if sys.version_info >= (3, 14):
                asyncio.tasks._swap_current_task(loop, weak())

    return _Portal(task, lambda: asyncio.current_task(loop)), start


def _call(portal: _Portal, start: Any, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The fiber's target: hands its pin out, then does the call."""
    if start is not None:
        start()
    portal.trap = kfiber.pin()
    portal.trap.__enter__()
    portal.leave()
    return func(*args, **kwargs)


def _run(portal: _Portal, fiber: Fiber, value: Any, error: BaseException | None) -> Any:
    """Runs a fiber of the portal until one has a trap, or the first has finished."""
    outer, _here.portal = _here.portal, portal
    portal.driver = kfiber.current()
    try:
        return fiber.switch(value) if error is None else fiber.throw(error)
    finally:
        _here.portal = outer
        del fiber, error


@types.coroutine
def _drive(portal: _Portal, fiber: Fiber) -> Generator[Any, Any, Any]:
    """Runs the fiber in the calling task, to which it yields all traps."""
    waiter = fiber
    try:
        _run(portal, fiber, None, None)
        # Owned here: a fiber that keeps its own pin would not go with its last reference.
        pin = portal.take()
        result = _run(portal, fiber, None, None)
        while not fiber.dead:
            waiter, portal.waiter = portal.waiter or fiber, None
            value, error = None, None
            try:
                if portal.trap is _NONE:
                    raise TypeError("a fiber of to_fiber() must leave by await_(), not switch()")
                value = yield portal.take()
            except GeneratorExit:
                # The coroutine is closed, and what waits in it ends first.
                for each in (waiter, fiber):
                    with contextlib.suppress(kfiber.FiberError):
                        each.kill()
                raise
            except BaseException as raised:
                error = raised
            fiber.parent = kfiber.current()
            result = _run(portal, waiter, value, error)
        del pin
        return result
    finally:
        del fiber, waiter
        error = None
