# SPDX-License-Identifier: MIT
"""Fibers that the Linux kernel knows.

Layout:

    _native     fibers: the extension, in C; its stub is the reference
    aio         synchronous code in asyncio, on fibers
    errors      the error that a person is meant to read
    stat        what can be known of a fiber from outside
    proc        what /proc/PID/fiber says
    table       what the table of observations in a process' memory says
    render      fibers as a table, JSON or Prometheus text
    module      the kernel module: build, load, unload, status
    vm          a command run inside a virtual machine with the module loaded
    cli         the command `kfiber`, one file a verb
    kmod, uapi  the module's sources

The extension is loaded when a name of it is first used: the tools work where it does not.
"""

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
        attach,
        current,
        engine,
        fibers,
        pin,
        root,
        set_engine,
    )

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
    "attach",
    "current",
    "engine",
    "fibers",
    "pin",
    "root",
    "set_engine",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kfiber import _native

    for each in __all__:
        if each != "__version__":
            globals()[each] = getattr(_native, each)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
