# SPDX-License-Identifier: MIT
"""Fibers: stackful coroutines that threads switch by hand.

    import kfiber

    main = kfiber.current()

    def count():
        for number in range(3):
            main.switch(number)

    fiber = kfiber.Fiber(count)
    print(fiber.switch(), fiber.switch())  # 0 1

A thread becomes a fiber, its root, by its first use of this module; it stays one until it ends.
Any thread may switch to any suspended fiber. At a switch the value that was sent, or an exception,
travels like a call's argument and result. Everything may be called from all threads; of rivals for
one fiber exactly one wins.

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
    for leaving a fiber that is being ended, EINVAL within a greenlet, ENODEV and EPROTO where the
    engine is not there.
    """

    errno: int

class FiberRunningError(FiberError):
    """The fiber is running, here or on another thread."""

class FiberFinishedError(FiberError):
    """The fiber has finished, or its thread has ended."""

class FiberPinnedError(FiberError):
    """The fiber belongs to another thread: it is that one's root or pinned there, or it waits for
    a fiber to end."""

class FiberLimitError(FiberError):
    """Too many fibers, or too many mappings for their stacks; the message names the limit."""

class FiberExit(BaseException):
    """Raised in a suspended fiber that nobody reaches any more, so that it unwinds.

    It is raised on the thread that ran the fiber last: at once if that is the one that noticed or
    is gone, else when that thread next uses fibers or ends. That fibers() has shown it meanwhile
    does not save it. Until it has ended the fiber cannot switch: that is FiberError. One that does
    not give up is abandoned, with all that it refers to.
    """

@final
class FiberStats(structseq[Any], tuple[int, str, str, int, int, int | None, int | None, int]):
    """What has been counted of a fiber."""

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
        """Nanoseconds on a thread, waiting included; None where the kernel knows better."""
    @property
    def cpu_time_ns(self) -> int | None:
        """Nanoseconds on a processor; None with engine `local`."""
    @property
    def longest_run_ns(self) -> int:
        """The longest single run, in nanoseconds, of whichever time is known."""

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

        `name` is shown by all tools; the kernel and the status table keep its first 63 bytes in
        UTF-8, cut between characters, and `Fiber.name` keeps all. Default: the target's qualified
        name. `stack_size` is in bytes, at least 64 KiB (what is less than 256 KiB becomes that from
        3.13 on), 8 MiB by default, as a thread's; memory is taken as it is used, recursion is
        limited by it. Up to 3.13 a level of recursion in C counts as 1 KiB. Where it takes more,
        as through `list.sort(key=...)`, RecursionError may come too late on a small stack; an
        overflow is named on standard error then.
        `context` is what context variables are looked up in, default: a copy of the creator's.
        Only one fiber, or `Context.run()`, is in a Context at a time: RuntimeError by the first
        switch(). `parent` gets the target's value: default: the creator.

        A subclass may have an `__init__` of its own, with any parameters, which calls
        `super().__init__(target, ...)` with these, once; until then its fiber cannot be used.

        TypeError, ValueError: wrong arguments. FiberLimitError: too many. MemoryError.
        FiberError: the engine is not there. RuntimeError: a second `__init__`.
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

        There `value` is what its own pending switch() returns; a new fiber takes none (TypeError).
        Returns what is sent here by the next switch() to the calling fiber, the value of a child
        that finishes, or raises what is thrown here or a child's exception.

        A target's value or exception goes to the first of its fiber's ancestors that is suspended
        and may run on that thread, else to the thread's root.

        FiberRunningError, FiberFinishedError, FiberPinnedError; FiberError within a greenlet other
        than its thread's main one, in a fiber that is being ended, and in finalizers that run when
        the thread's locals are cleared or the interpreter has ended its threads.
        """

    def throw(
        self,
        error: BaseException | type[BaseException],
        value: object = None,
        traceback: TracebackType | None = None,
        /,
    ) -> Any:
        """As switch(), but raises `error` there. A new fiber finishes by it without running.

        The forms are those of a generator: an exception, or a class with its argument or arguments
        (a tuple), and its traceback. TypeError: it is none of these.
        """

    def kill(self) -> None:
        """Ends the fiber now, and returns when it has ended; nothing if it has finished.

        FiberExit is raised in it. Meanwhile it may not leave, and what it raises in turn goes to
        `sys.unraisablehook`, not to the caller. A new fiber finishes without running.

        FiberRunningError: it runs, on the calling thread or another one. FiberPinnedError: it
        belongs to another thread. FiberError: it is a thread's root.
        """

    def join(self, timeout: float | None = None) -> bool:
        """Waits until the fiber, which other threads run, has finished; returns whether it has.

        The calling thread sleeps, with all its fibers, for at most `timeout` seconds; None: for
        ever. ValueError: a negative timeout. FiberError: only the calling thread could run it.
        """

    def result(self, timeout: float | None = None) -> Any:
        """As join(), then returns what its target returned, or raises what that raised.

        TimeoutError: it has not finished. FiberFinishedError: it was ended, or its thread was,
        before its target was done. The parent gets value and exception all the same,
        and the fiber keeps them as long as it lives.
        """

    def __bool__(self) -> bool: ...
    @property
    def id(self) -> int:
        """Unique in the process, never used again; what the tools show."""
    @property
    def name(self) -> str: ...
    @name.setter
    def name(self, name: str, /) -> None: ...
    @property
    def parent(self) -> Fiber | None:
        """Who gets its value; None for a root. ValueError: it would be its own ancestor."""
    @parent.setter
    def parent(self, parent: Fiber, /) -> None: ...
    @property
    def state(self) -> _State:
        """Of a fiber that other threads may run it is old news."""
    @property
    def dead(self) -> bool:
        """Whether it has finished.

        `bool(fiber)` is whether it has started and not finished, as with a greenlet: a new fiber
        is false, so ask `fiber is None` where there may be none.
        """
    @property
    def thread(self) -> int | None:
        """`threading.get_ident()` of the thread that runs it, or ran it last.

        None: it has never run, or that thread is no fiber any more.
        """
    @property
    def context(self) -> Context | None:
        """The Context that it is in, or will be. None: it has set no variable yet."""
    @property
    def stats(self) -> FiberStats:
        """FiberFinishedError: it has finished."""
    @property
    def frame(self) -> FrameType | None:
        """Its innermost frame, as of a generator; None if it is new or has finished."""
    @property
    def stack_size(self) -> int:
        """In bytes; 0 for a root."""

@disjoint_base
class Local:
    """Attributes that are each fiber's own, as those of `threading.local` are each thread's.

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
    """`with kfiber.attach() as root:` The thread is a fiber within the block; nests.

    A thread that was none before is none afterwards, and its root has finished.
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
    """`with kfiber.pin() as fiber:` The calling fiber stays on this thread within the block; nests.

    Others' switches to it raise FiberPinnedError.
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
    """The fiber that the calling thread itself is."""

def fibers() -> list[Fiber]:
    """All fibers of the process that have not finished, the newest first."""

def adopt() -> None:
    """Makes the fibers that this process has by a fork() its own.

    A child of os.fork() has all fibers that the parent had suspended. The child may resume them.
    A fiber that it does not resume is not unwound when nobody refers to it any more, nor at the
    child's end: its `finally` blocks are the parent's. After adopt() they run in the child, too:
    `os.register_at_fork(after_in_child=kfiber.adopt)`. The fiber's kill() ends it in any case.
    """

def engine() -> str:
    """The engine in use: "kernel", "mapped" or "local". FiberError: none works."""

def set_engine(name: str, /) -> None:
    """Chooses the engine, before all else; "auto" takes the best that works. Default: the
    environment variable KFIBER_ENGINE, else "auto". ValueError: no such engine. FiberError: one is
    in use."""

def set_observer(
    function: Callable[[Fiber, Fiber], object] | None, /
) -> Callable[[Fiber, Fiber], object] | None:
    """Has `function(left, entered)` called after each switch, on the fiber that was entered.

    For profilers and tracers that keep something for each fiber; `left.dead` means that it has
    finished. None: nobody is called. Returns the former one, so that the new one can call it, too.
    The switches of all threads are told, one thread's in their order. The function may not switch
    (FiberError). What it raises goes to `sys.unraisablehook`, and it is not called again.
    TypeError: not callable.
    """

def share_context(fiber: Fiber, /) -> None:
    """Has a new fiber run in the caller's Context itself, which stays entered by the caller.

    For schedulers that have entered it for the fiber, as a task of asyncio has: they must not run
    it while somebody else uses the Context. TypeError: not a new fiber.
    """

def otel_enable() -> None:
    """For `kfiber.otel.enable()`."""

def otel_set_span(trace_id: bytes | None, span_id: bytes | None, flags: int, /) -> None:
    """For `kfiber.otel.set_span()`."""

def cycles() -> int:
    """The processor's cycle counter, in which status tables count."""

def swap() -> str:
    """How thread states are swapped: "fast", or "public" and why, in parentheses.

    The fast way is taken if all places where the interpreter notes its current thread state were
    found in memory when the module was imported, as in the usual builds of each release. The
    environment variable KFIBER_SWAP=public forces the other one. From 3.12 on that drops the GIL at
    each switch; on 3.12 a daemon thread that switches while the interpreter ends may abort the
    process.
    """
