# SPDX-License-Identifier: MIT
"""Fibers for OpenTelemetry's profilers, which look at a whole machine from outside.

Such a profiler reads what the thread that it stops does (OTEP 4947). With `enable()`, or with
KFIBER_OTEL=1 in the environment, that is the fiber: its samples have the attributes fiber.id and
fiber.name. A span of an SDK that writes thread contexts itself stays with its fiber in any case.
"""

from __future__ import annotations

import errno
import importlib

from kfiber import FiberError, _native


def enable() -> None:
    """Gives each fiber of the process a record with its id and name. It may be called again.

    Other threads' fibers show theirs after the thread's next switch. FiberError: an SDK
    has published this process's context, of which there can be one only; or the compiler of this
    installation could not make the pointer.
    """
    try:
        try:
            _native.otel_enable()
        except FiberError as error:
            if error.errno != errno.ENOENT:
                raise
            # No SDK has the pointer, so this one is the process's only one.
            importlib.import_module("kfiber._otel")
            _native.otel_enable()
    except ImportError:
        raise FiberError(
            "this installation has no kfiber._otel, since its compiler does not know "
            "-mtls-dialect=gnu2; hint: install kfiber with gcc"
        ) from None
    except FiberError as error:
        if error.errno != errno.EEXIST:
            raise
        raise FiberError(
            "an OpenTelemetry SDK has published this process's context; "
            "hint: its spans stay with their fibers without this call"
        ) from None


def set_span(trace_id: int | None, span_id: int | None = None, flags: int = 1) -> None:
    """Has the calling fiber's record show that span, until the next call on this fiber.

    The arguments are what OpenTelemetry's `SpanContext` has: `trace_id`, `span_id`, `trace_flags`.
    None: no span any more. FiberError: `enable()` was not called. ValueError: an id of 0, or one
    that is too long.
    """
    if trace_id is None or span_id is None:
        _native.otel_set_span(None, None, 0)
        return
    if not (0 < trace_id < 1 << 128 and 0 < span_id < 1 << 64):
        raise ValueError("a trace id has 1 to 128 bits and a span id 1 to 64")
    _native.current()
    _native.otel_set_span(trace_id.to_bytes(16, "big"), span_id.to_bytes(8, "big"), flags)
