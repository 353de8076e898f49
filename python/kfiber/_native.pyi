# SPDX-License-Identifier: MIT
"""Fibers: stackful coroutines that threads switch by hand.

    import kfiber

    main = kfiber.current()

    def count():
        for number in range(3):
            main.switch(number)

    fiber = kfiber.Fiber(count)
    print(fiber.switch(), fiber.switch())  # 0 1

A thread becomes a fiber, its root fiber, when it first uses this module, and stays one until it
ends. Any thread may switch to any suspended fiber. A switch passes a value or an exception, as a
call passes its argument and result. All functions may be called from all threads; if several
threads switch to one fiber at the same time, exactly one succeeds.

What belongs to the thread stays with it: `threading.local()`, `threading.get_ident()`, tracing,
asyncio's running loop. Locks that a thread owns (`threading.RLock`, the import lock) exclude
threads, not the fibers of one thread, and must be released on the thread that took them: see
`pin()`.
"""

from collections.abc import Callable, Mapping
from contextvars import Context
from types import FrameType, ModuleType, TracebackType
from typing import Any, Final, Literal, TypeAlias, final

from _typeshed import structseq
from typing_extensions import Self, TypeVarTuple, Unpack, disjoint_base

_State: TypeAlias = Literal["new", "running", "suspended", "finished"]
_Ts = TypeVarTuple("_Ts")

class FiberError(RuntimeError):
    """A fiber cannot do what was asked.

    `errno` is an error number: EBUSY, EOWNERDEAD, EPERM and EAGAIN for the classes below, ECANCELED
    for leaving a fiber that is being ended, EINVAL inside a greenlet, ENODEV and EPROTO if the
    engine is not available.
    """

    errno: int

class FiberRunningError(FiberError):
    """The fiber is running, here or on another thread."""

class FiberFinishedError(FiberError):
    """The fiber has finished, or its thread has ended."""

class FiberPinnedError(FiberError):
    """Only another thread can run the fiber, which is that thread's root or pinned to it; or the
    fiber is waiting for another fiber to end."""

class FiberLimitError(FiberError):
    """Too many fibers, or too many mappings for their stacks; the message names the limit."""

class FiberExit(BaseException):
    """Raised in a suspended fiber that nothing refers to any more, so that it unwinds.

    It is raised on the thread that last ran the fiber: at once if that is the calling thread or if
    that thread has ended, otherwise when that thread next uses fibers or ends. A reference from
    fibers() in the meantime does not save the fiber. While it unwinds it cannot switch: FiberError.
    A fiber that does not end is abandoned, with everything it refers to.
    """

@final
class FiberStats(structseq[Any], tuple[int, str, str, int, int, int | None, int | None, int]):
    """A fiber's counters and times."""

    __match_args__: Final = (
        "id",
        "name",
        "state",
        "activations",
        "failed_activations",
        "run_time_ns",
        "cpu_time_ns",
        "longest_run_ns",
    )
    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> _State: ...
    @property
    def activations(self) -> int:
        """How often it was switched to."""
    @property
    def failed_activations(self) -> int:
        """How often it was switched to while it was running."""
    @property
    def run_time_ns(self) -> int | None:
        """Nanoseconds during which it was a thread's running fiber, also while that thread waited;
        None if `cpu_time_ns` is known instead."""
    @property
    def cpu_time_ns(self) -> int | None:
        """Nanoseconds on a processor; None with engine `local`."""
    @property
    def longest_run_ns(self) -> int:
        """The longest time between two switches, in nanoseconds, of the time that is known."""

@disjoint_base
class Fiber:
    """A function that runs on a stack of its own."""

    def __new__(
        cls,
        target: Callable[[Unpack[_Ts]], Any],
        /,
        *args: Unpack[_Ts],
        name: str | None = None,
        stack_size: int | None = None,
        context: Context | None = None,
        parent: Fiber | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> Self:
        """A new fiber that will call `target(*args, **kwargs)`.

        `name` is what all tools show. The kernel and the status table keep its first 63 bytes in
        UTF-8, cut between characters; `Fiber.name` keeps all of it. Default: the target's qualified
        name.

        `stack_size` is in bytes: at least 64 KiB (from 3.13 on at least 256 KiB is used), by
        default 8 MiB, as for a thread. Memory is used only as the stack grows. The size limits
        recursion: up to 3.13 a level of recursion in C counts as 1 KiB. Where a level needs more,
        as in `list.sort(key=...)`, RecursionError may come too late on a small stack; a message on
        standard error then names the fiber that overflowed.

        `context` is where context variables are looked up; default: a copy of the creator's.
        Only one fiber, or `Context.run()`, can be in a Context at a time; otherwise the first
        switch() raises RuntimeError. `parent` receives the target's value; default: the creator.

        A subclass may have an `__init__` of its own, with any parameters, which calls
        `super().__init__(target, ...)` with these, once; until then its fiber cannot be used.

        TypeError, ValueError: wrong arguments. FiberLimitError: too many fibers. MemoryError.
        FiberError: the engine is not available. RuntimeError: a second call of `__init__`.
        """

    def __init__(
        self,
        target: Callable[[Unpack[_Ts]], Any],
        /,
        *args: Unpack[_Ts],
        name: str | None = None,
        stack_size: int | None = None,
        context: Context | None = None,
        parent: Fiber | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None: ...
    def switch(self, value: Any = None, /) -> Any:
        """Suspends the calling fiber and resumes this one.

        In this fiber, `value` becomes the result of its own pending switch(); a new fiber takes no
        value (TypeError). The call returns when somebody switches back to the calling fiber: with
        the value they send, or with the value of a child that finishes. It raises what is thrown
        into the calling fiber, or a child's exception.

        A target's value or exception goes to the first of its fiber's ancestors that is suspended
        and may run on that thread, otherwise to the thread's root.

        FiberRunningError, FiberFinishedError, FiberPinnedError; FiberError inside a greenlet other
        than its thread's main one, in a fiber that is being ended, and in finalizers that run while
        the thread's locals are cleared or after the interpreter has ended its threads.
        """

    def throw(
        self,
        error: BaseException | type[BaseException],
        value: object = None,
        traceback: TracebackType | None = None,
        /,
    ) -> Any:
        """Like switch(), but raises `error` in this fiber. A new fiber finishes without running.

        The forms are those of a generator's throw(): an exception, or a class with its argument or
        arguments (a tuple), and its traceback. TypeError: none of these.
        """

    def kill(self) -> None:
        """Ends the fiber now, and returns when it has ended; does nothing if it has finished.

        FiberExit is raised in the fiber, which cannot switch while it unwinds. What it raises in
        turn goes to `sys.unraisablehook`, not to the caller. A new fiber finishes without running.

        FiberRunningError: it is running, on the calling thread or another one. FiberPinnedError:
        only another thread can run it. FiberError: it is a thread's root.
        """

    def join(self, timeout: float | None = None) -> bool:
        """Waits until the fiber has finished, which other threads run; returns whether it has.

        The calling thread sleeps, with all its fibers, for at most `timeout` seconds; None: without
        limit. ValueError: a negative timeout. FiberError: only the calling thread can run it.
        """

    def result(self, timeout: float | None = None) -> Any:
        """Like join(), then returns what its target returned, or raises what the target raised.

        TimeoutError: it has not finished. FiberFinishedError: the fiber or its thread was ended
        before the target returned. The parent also gets the value or exception, and the fiber keeps
        it as long as the fiber object exists.
        """

    def __bool__(self) -> bool: ...
    @property
    def id(self) -> int:
        """Unique in the process and never reused; the id that the tools show."""
    @property
    def name(self) -> str: ...
    @name.setter
    def name(self, name: str, /) -> None: ...
    @property
    def parent(self) -> Fiber | None:
        """Gets its value; None for a root. ValueError: it would be its own ancestor."""
    @parent.setter
    def parent(self, parent: Fiber, /) -> None: ...
    @property
    def state(self) -> _State:
        """May be out of date at once if other threads can run the fiber."""
    @property
    def dead(self) -> bool:
        """Whether it has finished.

        `bool(fiber)` is whether it has started and not finished, as with a greenlet. A new fiber
        is false, so test `fiber is None` where a fiber may be missing.
        """
    @property
    def thread(self) -> int | None:
        """`threading.get_ident()` of the thread that runs it, or last ran it.

        None: it has never run, or that thread has reverted or ended.
        """
    @property
    def context(self) -> Context | None:
        """The Context that it runs in, or will run in. None: it has set no variable yet."""
    @property
    def stats(self) -> FiberStats:
        """FiberFinishedError: it has finished."""
    @property
    def frame(self) -> FrameType | None:
        """Its innermost frame; None if it is new or has finished."""
    @property
    def stack_size(self) -> int:
        """In bytes; 0 for a root."""

@disjoint_base
class Local:
    """Attributes of which each fiber has its own values, as threads have with `threading.local`.

    A subclass may have an `__init__`, which is called with the same arguments in each fiber that
    uses the object, and class attributes, properties and methods, which are the same for all.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """TypeError: arguments for a class without an `__init__`."""

    def __getattribute__(self, name: str, /) -> Any: ...
    def __setattr__(self, name: str, value: Any, /) -> None: ...
    def __delattr__(self, name: str, /) -> None: ...

@final
class attach:
    """`with kfiber.attach() as root:` makes the thread a fiber inside the block. Blocks nest.

    A thread that was no fiber before the block is none after it, and its root has finished.
    """

    def __enter__(self) -> Fiber: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class pin:
    """`with kfiber.pin() as fiber:` keeps the calling fiber on this thread. Blocks nest.

    On other threads a switch to it raises FiberPinnedError.
    """

    def __enter__(self) -> Fiber: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

greenlet: ModuleType

def current() -> Fiber:
    """The calling fiber."""

def root() -> Fiber:
    """The calling thread's root fiber."""

def fibers() -> list[Fiber]:
    """All fibers of the process that have not finished, the newest first."""

def adopt() -> None:
    """Makes the fibers that a fork() copied into this process its own.

    A child of os.fork() has a copy of each fiber that was suspended in the parent, and may resume
    it. A copy that the child never resumes is not unwound, neither when nothing refers to it any
    more nor when the child ends, since its `finally` blocks are the parent's business. After
    adopt() they run in the child, too: `os.register_at_fork(after_in_child=kfiber.adopt)`. The
    fiber's kill() ends it in any case.
    """

def engine() -> str:
    """The engine in use: "kernel", "mapped" or "local". FiberError: no engine works."""

def set_engine(name: str, /) -> None:
    """Chooses the engine, before the first fiber; "auto" takes the best one that works. Default:
    the environment variable KFIBER_ENGINE, otherwise "auto". ValueError: no such engine.
    FiberError: an engine is already in use."""

def set_observer(
    function: Callable[[Fiber, Fiber], object] | None, /
) -> Callable[[Fiber, Fiber], object] | None:
    """Calls `function(left, entered)` after each switch, on the fiber that was switched to.

    For profilers and tracers that keep state for each fiber; `left.dead` is true if that fiber has
    finished. None: no function. Returns the previous one, so that the new one can call it, too. It
    is called for the switches of all threads, and for each thread in their order. The function
    must not switch (FiberError). What it raises goes to `sys.unraisablehook`, and it is not called
    again. TypeError: not callable.
    """

def share_context(fiber: Fiber, /) -> None:
    """Lets a new fiber run in the caller's own Context, which the caller stays in.

    For schedulers that have entered a Context on behalf of the fiber, as a task of asyncio has.
    They must not run the fiber while other code uses the Context. TypeError: not a new fiber.
    """

def otel_enable() -> None:
    """For `kfiber.otel.enable()`."""

def otel_set_span(trace_id: bytes | None, span_id: bytes | None, flags: int, /) -> None:
    """For `kfiber.otel.set_span()`."""

def cycles() -> int:
    """The processor's time stamp counter, the clock of the status tables."""

def swap() -> str:
    """How thread states are swapped: "fast", or "public" and why, in parentheses.

    The fast way is used if the import of this module found all places in memory where the
    interpreter keeps its current thread state, as it does in the usual builds of each release. The
    environment variable KFIBER_SWAP=public forces the other way, which from 3.12 on releases the
    GIL at each switch; on 3.12 a daemon thread that switches while the interpreter ends may then
    abort the process.
    """
