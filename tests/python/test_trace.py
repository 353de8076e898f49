# SPDX-License-Identifier: MIT
"""Tracing and profiling belong to the thread, whichever fiber it runs."""

from __future__ import annotations

import sys
import threading

import pytest

import kfiber
from kfiber import Fiber


@pytest.fixture(autouse=True)
def tracing_restored():
    before = sys.gettrace(), sys.getprofile()
    yield
    sys.settrace(before[0])
    sys.setprofile(before[1])


def test_a_trace_function_sees_all_fibers_of_its_thread():
    main = kfiber.current()
    events = []

    def trace(frame, event, argument):
        if frame.f_code is target.__code__:
            events.append((event, frame.f_lineno - target.__code__.co_firstlineno))
        return trace

    def target():
        main.switch()
        return 1

    fiber = Fiber(target)
    sys.settrace(trace)
    fiber.switch()
    fiber.switch()
    sys.settrace(None)
    assert events == [("call", 0), ("line", 1), ("line", 2), ("return", 2)]


def test_a_trace_function_set_inside_is_the_threads():
    main = kfiber.current()
    called = []

    def trace(frame, event, argument):
        if event == "call":
            called.append(frame.f_code.co_name)

    def target():
        sys.settrace(trace)
        main.switch()
        sys.settrace(None)

    def function():
        pass

    fiber = Fiber(target)
    fiber.switch()
    function()
    fiber.switch()
    function()
    assert sys.gettrace() is None
    assert called == ["function"]


def test_profiling_over_a_switch():
    main = kfiber.current()
    events = []

    def profile(frame, event, argument):
        if frame.f_code is target.__code__:
            events.append(event)

    def target():
        main.switch()

    fiber = Fiber(target)
    sys.setprofile(profile)
    fiber.switch()
    fiber.switch()
    sys.setprofile(None)
    assert events == ["call", "c_call", "c_return", "return"]


def test_a_profiler_set_inside_is_the_threads():
    main = kfiber.current()
    called = []

    def profile(frame, event, argument):
        if event == "call":
            called.append(frame.f_code.co_name)

    def target():
        sys.setprofile(profile)
        main.switch()
        sys.setprofile(None)

    def function():
        pass

    fiber = Fiber(target)
    fiber.switch()
    function()
    fiber.switch()
    function()
    assert sys.getprofile() is None
    assert called == ["function"]


def test_switching_within_a_tracer():
    main = kfiber.current()
    traced = []

    def trace(frame, event, argument):
        if frame.f_code is function.__code__ and event == "call":
            fiber.switch()
        return

    def target():
        while True:
            traced.append("in the fiber")
            main.switch()

    def function():
        traced.append("function")

    fiber = Fiber(target)
    fiber.switch()
    sys.settrace(trace)
    function()
    function()
    sys.settrace(None)
    assert traced == ["in the fiber", "in the fiber", "function", "in the fiber", "function"]


@pytest.mark.skipif(
    sys.version_info >= (3, 12) and hasattr(sys, "gettotalrefcount"),
    reason="a debug build asserts that what is suspended knows of a change in tracing at once",
)
def test_a_fiber_left_inside_a_tracer_does_not_stop_tracing():
    main = kfiber.current()
    events = []

    def trace(frame, event, argument):
        if frame.f_code is function.__code__:
            events.append(event)
            if len(events) == 1:
                main.switch("from the tracer")
        return trace

    def function():
        pass

    fiber = Fiber(function)
    sys.settrace(trace)
    assert fiber.switch() == "from the tracer"
    function()
    sys.settrace(None)
    # Its call event is dealt with only now; tracing is off.
    fiber.switch()
    assert events[:4] == ["call", "call", "line", "return"]


def test_tracing_stays_with_the_thread(thread):
    main = kfiber.current()
    calls = []

    def trace(frame, event, argument):
        if event == "call" and frame.f_code is function.__code__:
            calls.append(threading.get_ident())

    def function():
        pass

    def target():
        main.switch()
        function()
        kfiber.root().switch()
        function()

    fiber = Fiber(target)
    fiber.switch()
    sys.settrace(trace)
    # Untraced there.
    thread(fiber.switch)
    fiber.switch()
    sys.settrace(None)
    assert calls == [threading.get_ident()]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in 3.12")
def test_monitoring_counts_across_fibers(thread):
    main = kfiber.current()
    monitoring = sys.monitoring
    tool, events = 4, []

    def function():
        pass

    def target():
        for _ in range(3):
            function()
            kfiber.root().switch()

    monitoring.use_tool_id(tool, "kfiber test")
    try:
        fiber = Fiber(target)
        fiber.switch()
        # While it is suspended: its code must notice.
        monitoring.register_callback(
            tool,
            monitoring.events.PY_START,
            lambda code, offset: events.append(code is function.__code__),
        )
        monitoring.set_events(tool, monitoring.events.PY_START)
        fiber.switch()
        thread(fiber.switch)
        monitoring.set_events(tool, 0)
        fiber.switch()
    finally:
        monitoring.free_tool_id(tool)
    assert events.count(True) == 2
    assert main is kfiber.current()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in 3.12")
def test_switching_within_a_monitoring_callback():
    main = kfiber.current()
    monitoring = sys.monitoring
    tool, order = 4, []

    def function():
        order.append("function")

    def callback(code, offset):
        if kfiber.current() is main:
            other.switch()
        else:
            main.switch("from the callback")

    def target():
        while True:
            order.append("the other one")
            main.switch()

    monitoring.use_tool_id(tool, "kfiber test")
    monitoring.register_callback(tool, monitoring.events.PY_START, callback)
    try:
        fiber, other = Fiber(function), Fiber(target)
        monitoring.set_local_events(tool, function.__code__, monitoring.events.PY_START)
        # That one's call is dealt with only later.
        assert fiber.switch() == "from the callback"
        function()
        function()
        assert fiber.switch() is None
        monitoring.set_local_events(tool, function.__code__, 0)
        function()
    finally:
        monitoring.register_callback(tool, monitoring.events.PY_START, None)
        monitoring.free_tool_id(tool)
    assert order == ["the other one", "function"] * 2 + ["function"] * 2


def test_frames_of_threads_only():
    main = kfiber.current()
    fibers = [Fiber(main.switch) for _ in range(1000)]
    for fiber in fibers:
        fiber.switch()
    assert set(sys._current_frames()) == {each.ident for each in threading.enumerate()}
    inside = Fiber(lambda: set(sys._current_frames())).switch()
    assert inside == set(sys._current_frames())
    while fibers:
        fibers.pop().switch()


def test_the_frames_shown_are_the_running_fibers():
    def inside():
        return sys._current_frames()[threading.get_ident()]

    frame = Fiber(inside).switch()
    assert frame.f_code is inside.__code__


def test_faulthandler_lists_threads_only(python):
    done = python(
        """
        import faulthandler, threading, kfiber
        main = kfiber.current()
        fibers = [kfiber.Fiber(main.switch) for _ in range(1000)]
        for fiber in fibers:
            fiber.switch()
        def shown():
            faulthandler.dump_traceback(all_threads=True)
        def target():
            shown()
        kfiber.Fiber(target).switch()
        worker = threading.Thread(target=lambda: kfiber.Fiber(target).switch())
        worker.start()
        worker.join()
        """
    )
    dumps = done.stderr.split("Current thread")
    assert len(dumps) == 3
    assert done.stderr.count("hread 0x") == 3
    for dump in dumps[1:]:
        assert dump.index("in shown") < dump.index("in target")


def test_an_exception_in_code_that_was_left_before_a_tracer_came(python):
    """3.15 keeps the events of each code object, and crashed where there were none yet."""
    done = python(
        """
        import kfiber, sys
        root, seen = kfiber.root(), []
        def target():
            root.switch()
        def trace(frame, event, arg):
            seen.append(event)
            return trace
        for install in (sys.setprofile, sys.settrace):
            fibers = [kfiber.Fiber(target) for _ in range(3)]
            for fiber in fibers:
                fiber.switch()
            install(trace)
            for fiber in fibers:
                try:
                    fiber.throw(ValueError)
                except ValueError:
                    seen.append("raised")
            install(None)
        print(seen.count("raised"))
        """
    )
    assert done.stdout == "6\n"
