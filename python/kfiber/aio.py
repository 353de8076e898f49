# SPDX-License-Identifier: MIT
"""Synchronous code in asyncio: it runs on a fiber, and awaits without being a coroutine.

    import asyncio
    import kfiber.aio

    def fetch(host):  # called by anything, colourless
        reader, writer = kfiber.aio.await_(asyncio.open_connection(host, 80))
        ...

    async def main():
        await asyncio.gather(*(kfiber.aio.to_fiber(fetch, host) for host in hosts))

How it goes on:

    the task's coroutine, to_fiber()              the fiber
      fiber.switch()                 ------>      func(*args)
      value = await awaitable        <------        await_(awaitable)
      fiber.switch(value)            ------>        returns value
      return                         <------      returns, or raises
"""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar
from typing import Any, ParamSpec, TypeVar, cast

import kfiber
from kfiber import Fiber

__all__ = ["await_", "to_fiber"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_probe: ContextVar[None] = ContextVar("kfiber.aio")


class _TaskFiber(Fiber):
    """Runs a call for a task. Its parent is whoever runs the task's coroutine at the time."""

    # Weak: the task owns the coroutine, and that the fiber.
    task: weakref.ref[asyncio.Task[Any]]
    # What it gives whoever drives it. An argument of switch() would stay on the stack meanwhile,
    # where the collector does not see it, and an awaitable refers to the task that waits for it.
    message: Any = None

    def take(self) -> Any:
        message, self.message = self.message, None
        return message


async def to_fiber(func: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Runs `func(*args, **kwargs)` on a fiber of its own, where it may use await_().

    Returns its value or raises its exception. It belongs to the calling task: it runs on the
    task's thread only, in the task's Context itself (not a copy), and sees the running loop and the
    current task. It holds the loop up as long as it does not await, as a coroutine does.

    What cancels the task, or times it out, is raised out of await_(). Where the task is destroyed
    without that, `kfiber.FiberExit` is, as in any fiber that nobody reaches any more.

    RuntimeError: not in a task. `kfiber.FiberLimitError`: too many fibers.
    `kfiber.FiberPinnedError`: the loop goes on in another thread. Any number of threads may use it,
    each with its loop.
    """
    fiber = _new(func, args, kwargs)
    fiber.switch()
    # Owned here: a fiber that keeps its own pin would not go with its last reference.
    pin = fiber.take()
    result = fiber.switch()
    while fiber.state != "finished":
        try:
            value = await fiber.take()
        except GeneratorExit:
            # The coroutine is closed; this frame had the fiber's last reference.
            raise
        except BaseException as error:
            fiber.parent = kfiber.current()
            result = fiber.throw(error)
        else:
            fiber.parent = kfiber.current()
            result = fiber.switch(value)
    del pin
    return cast(_T, result)


def await_(awaitable: Awaitable[_T], /) -> _T:
    """Suspends the calling function, not the loop, until `awaitable` is done.

    For functions that to_fiber() runs, and all that these call, on the same fiber. Returns the
    awaitable's value or raises its exception; CancelledError when the task is cancelled.

    RuntimeError: elsewhere, and in another task that starts eagerly within; TypeError: not
    awaitable. A coroutine is closed then.
    """
    try:
        value: _T = _leave_with(awaitable).switch()
    except BaseException:
        if asyncio.iscoroutine(awaitable):
            awaitable.close()
        raise
    return value


def _new(func: Callable[..., Any], args: Any, kwargs: Any) -> _TaskFiber:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("to_fiber() works in tasks of asyncio only")
    fiber = _TaskFiber(
        _call,
        *(task, sys.get_asyncgen_hooks(), func, args, kwargs),
        name=getattr(func, "__qualname__", type(func).__name__),
        context=_context(),
    )
    fiber.task = weakref.ref(task)
    return fiber


def _call(task: Any, hooks: Any, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The fiber's target: hands its pin out, then does the call."""
    # A loop that was started in a fiber is seen in that one only.
    if asyncio._get_running_loop() is None:
        loop = task.get_loop()
        asyncio._set_running_loop(loop)
        sys.set_asyncgen_hooks(*hooks)
        # So is its task from 3.14 on; before, a loop's task is known everywhere.
        if sys.version_info >= (3, 14):
            asyncio.tasks._swap_current_task(loop, task)
    # Weak elsewhere: the task owns the coroutine, and that this fiber.
    del task
    _leave_with(_pinned()).switch()
    return func(*args, **kwargs)


def _pinned() -> kfiber.pin:
    pin = kfiber.pin()
    pin.__enter__()
    return pin


def _leave_with(message: object) -> Fiber:
    """Notes what the calling fiber gives; returns who takes it, to be switched to."""
    fiber = kfiber.current()
    if isinstance(fiber, _TaskFiber) and fiber.parent is not None:
        task = fiber.task()
        # A task that starts eagerly runs on the fiber of the one that made it.
        if task is not None and asyncio.current_task(task.get_loop()) is task:
            fiber.message = message
            return fiber.parent
    raise RuntimeError("await_() works in functions only that kfiber.aio.to_fiber() runs")


def _context() -> Context:
    """The Context that the caller is in, itself: a token refers to it, contextvars only copies."""
    token = _probe.set(None)
    _probe.reset(token)
    return next(each for each in gc.get_referents(token) if isinstance(each, Context))
