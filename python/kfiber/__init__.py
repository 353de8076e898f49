# SPDX-License-Identifier: MIT
"""Fibers that the Linux kernel knows.

Layout:

    _native     fibers: the extension, in C; its stub is the reference
    aio         synchronous code in asyncio, on fibers
    greenlet    greenlet's API on fibers, for gevent and all that knows no other
    errors      the error that a person is meant to read
    info        what can be known of a fiber from outside
    proc        what /proc/PID/fiber says
    table       what the table of observations in a process' memory says
    memory      the memory of another process; core: of a core file; stop: it stands still
    frames      Python frames of fibers; unwind: native ones; stacks: both, of all fibers
    gdb         commands for gdb: fibers and their backtraces
    record      samples over some time; profiles: their formats; exact: every switch
    rates       who used the time between two looks
    holds       who holds a thread for long
    screen      kfiber top on a terminal
    metrics     fibers for Prometheus
    otel        fibers for OpenTelemetry's profilers
    render      fibers as a table, JSON or Prometheus text
    cache       the cache folder, and locks in it
    hint        command lines for hints of errors, for this machine
    module      the kernel module: build, load, unload, status
    vm          a command run inside a virtual machine with the module loaded
    cli         the command `kfiber`, one file a verb
    kmod, uapi  the module's sources

The extension is loaded when a name of it is first used: the tools work where it does not.
"""

import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kfiber._native import (
        Fiber,
        FiberError,
        FiberExit,
        FiberFinishedError,
        FiberLimitError,
        FiberPinnedError,
        FiberRunningError,
        FiberStats,
        Local,
        adopt,
        attach,
        current,
        engine,
        fibers,
        pin,
        root,
        set_engine,
        set_observer,
    )
    from kfiber.holds import watch

__all__ = [
    "Fiber",
    "FiberError",
    "FiberExit",
    "FiberFinishedError",
    "FiberLimitError",
    "FiberPinnedError",
    "FiberRunningError",
    "FiberStats",
    "Local",
    "__version__",
    "adopt",
    "attach",
    "current",
    "engine",
    "fibers",
    "pin",
    "root",
    "set_engine",
    "set_observer",
    "watch",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "watch":
        from kfiber.holds import watch

        globals()["watch"] = watch
        return watch
    try:
        import kfiber._native as _native
    except ModuleNotFoundError as error:
        if error.name != "kfiber._native":
            raise
        raise ImportError(
            f"kfiber's extension is not built for {sys.executable}; "
            "hint: make build in a checkout, or pip install . with this Python"
        ) from None
    for each in __all__:
        if each not in ("__version__", "watch"):
            globals()[each] = getattr(_native, each)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
