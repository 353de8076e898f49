# SPDX-License-Identifier: MIT
"""Fibers as objects."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import sys
import weakref

import pytest

import kfiber
from kfiber import Fiber


def test_attributes_over_its_life():
    main = kfiber.current()
    fiber = Fiber(lambda: main.switch(), name="worker", stack_size=256 << 10)
    assert (fiber.name, fiber.state, fiber.stack_size) == ("worker", "new", 256 << 10)
    assert fiber.frame is None
    assert fiber.id > 0
    fiber.switch()
    assert fiber.state == "suspended"
    assert main.state == "running"
    fiber.switch()
    assert fiber.state == "finished"
    assert fiber.frame is None
    with pytest.raises(kfiber.FiberFinishedError):
        _ = fiber.stats
    assert "worker" in repr(fiber)
    assert "finished" in repr(fiber)


def test_default_names():
    class Callable:
        def __call__(self):
            pass

    def function():
        pass

    assert Fiber(function).name == function.__qualname__
    assert Fiber(functools.partial(function)).name == "functools.partial"
    assert Fiber(Callable()).name == "Callable"
    assert Fiber(print).name == "print"
    assert kfiber.root().name == ""


def test_names_can_be_long_and_changed():
    name = "ж" * 100
    fiber = Fiber(print, name=name)
    assert fiber.name == name
    fiber.name = "short"
    assert fiber.name == fiber.stats.name == "short"
    with pytest.raises(TypeError):
        fiber.name = 1
    with pytest.raises(TypeError):
        del fiber.name


def test_wrong_arguments():
    with pytest.raises(TypeError, match="target"):
        Fiber()
    with pytest.raises(TypeError, match="callable"):
        Fiber(1)
    with pytest.raises(TypeError, match="target"):
        Fiber(print, target=1)
    with pytest.raises(TypeError, match="name"):
        Fiber(print, name=1)
    with pytest.raises(TypeError, match="context"):
        Fiber(print, context=1)
    with pytest.raises(TypeError, match="parent"):
        Fiber(print, parent=1)
    with pytest.raises(ValueError, match="stack_size"):
        Fiber(print, stack_size=1)
    with pytest.raises((OverflowError, TypeError)):
        Fiber(print, stack_size=-1)
    with pytest.raises(MemoryError):
        Fiber(print, stack_size=1 << 62)


def test_subclass_weakref_hash():
    class Named(Fiber):
        extra = 1

    fiber = Named(print, "x")
    fiber.more = 2
    reference = weakref.ref(fiber)
    assert reference() is fiber
    assert {fiber: 1}[fiber] == 1
    del fiber
    assert reference() is None


def test_it_is_neither_copied_nor_pickled():
    fiber = Fiber(print)
    with pytest.raises(TypeError):
        pickle.dumps(fiber)
    with pytest.raises(TypeError):
        copy.copy(fiber)


def test_all_living_ones_are_listed():
    main = kfiber.current()
    new, suspended, finished = Fiber(print), Fiber(main.switch), Fiber(lambda: None)
    suspended.switch()
    finished.switch()
    living = kfiber.fibers()
    assert main in living
    assert new in living
    assert suspended in living
    assert finished not in living


def test_statistics():
    main = kfiber.current()
    fiber = Fiber(lambda: main.switch(), name="counted")
    fiber.switch()
    for _ in range(2):
        with pytest.raises(kfiber.FiberRunningError):
            main.switch()
    stats = fiber.stats
    assert (stats.id, stats.name, stats.state) == (fiber.id, "counted", "suspended")
    assert stats.activations == 1
    assert stats.failed_activations == 0
    # What the kernel watches has CPU time, and no need for the other.
    times = (stats.run_time_ns, stats.cpu_time_ns)
    known, unknown = times if kfiber.engine() == "local" else reversed(times)
    assert unknown is None
    assert 0 < stats.longest_run_ns <= known
    failed = main.stats.failed_activations
    with pytest.raises(kfiber.FiberRunningError):
        main.switch()
    assert main.stats.failed_activations == failed + 1
    fiber.switch()


def test_frames_of_parked_fibers():
    main = kfiber.current()

    def inner():
        main.switch()

    def outer():
        inner()

    fiber = Fiber(outer)
    fiber.switch()
    names = []
    frame = fiber.frame
    while frame:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    assert names == ["inner", "outer"]
    assert main.frame.f_code is sys._getframe().f_code
    fiber.switch()


def test_frames_of_a_fiber_that_runs_while_a_collection_comes_by():
    """3.11 collects while it makes the objects of frames, and then the fiber may go on."""
    main = kfiber.current()

    def dive(level):
        return dive(level - 1) if level else main.switch()

    def other(level):
        return other(level - 1) if level else main.switch()

    def go_on(phase, information):
        if fiber.state == "suspended":
            fiber.switch()
            # It takes the memory of the frames that are gone.
            rival.switch()

    for _ in range(10):
        fiber, rival = Fiber(dive, 50), Fiber(other, 50)
        fiber.switch()
        threshold = gc.get_threshold()
        gc.callbacks.append(go_on)
        gc.set_threshold(1)
        try:
            frame = fiber.frame
            while frame:
                assert frame.f_code is dive.__code__
                frame = frame.f_back
        finally:
            gc.set_threshold(*threshold)
            gc.callbacks.remove(go_on)
        for each in (fiber, rival):
            if each.state == "suspended":
                each.switch()


def test_local_attributes_are_each_fibers_own():
    main = kfiber.current()
    local = kfiber.Local()
    local.value = "main"

    def target():
        assert not hasattr(local, "value")
        local.value = "fiber"
        main.switch()
        assert local.__dict__ == {"value": "fiber"}
        del local.value
        with pytest.raises(AttributeError, match="value"):
            _ = local.value
        with pytest.raises(AttributeError, match="value"):
            del local.value

    fiber = Fiber(target)
    fiber.switch()
    assert local.value == "main"
    fiber.switch()
    assert local.value == "main"
    with pytest.raises(TypeError):
        kfiber.Local(1)


def test_local_values_go_with_the_fiber():
    class Value:
        pass

    main = kfiber.current()
    local = kfiber.Local()
    references = []

    def target():
        local.value = Value()
        references.append(weakref.ref(local.value))
        main.switch()

    first, second = Fiber(target), Fiber(target)
    first.switch()
    second.switch()
    first.switch()
    assert references[0]() is None
    assert references[1]() is not None
    # The target refers to it.
    second.switch()
    assert references[1]() is None
    local.value = Value()
    references.append(weakref.ref(local.value))
    local.value = None
    assert references[2]() is None


def test_local_values_go_with_the_local():
    value = type("Value", (), {})()
    reference = weakref.ref(value)
    kfiber.Local().value = value
    del value
    assert reference() is None


def test_errors_and_their_numbers():
    import errno

    numbers = {
        kfiber.FiberRunningError: errno.EBUSY,
        kfiber.FiberFinishedError: errno.EOWNERDEAD,
        kfiber.FiberPinnedError: errno.EPERM,
        kfiber.FiberLimitError: errno.EAGAIN,
    }
    for error, number in numbers.items():
        assert issubclass(error, kfiber.FiberError)
        assert error.errno == error("text").errno == number
    assert issubclass(kfiber.FiberError, RuntimeError)
    assert issubclass(kfiber.FiberExit, BaseException)
    assert not issubclass(kfiber.FiberExit, Exception)


def test_the_engine_is_chosen_before_first_use(python):
    python(
        """
        import kfiber
        try:
            kfiber.set_engine("none such")
        except ValueError as error:
            assert "none such" in str(error)
        kfiber.set_engine("local")
        assert kfiber.engine() == "local"
        try:
            kfiber.set_engine("local")
        except kfiber.FiberError as error:
            assert "in use" in str(error)
        else:
            raise AssertionError
        """
    )


def test_an_engine_that_is_not_there_says_so(python):
    done = python(
        """
        import kfiber, os
        if os.path.exists("/dev/fiber"):
            raise SystemExit
        try:
            kfiber.Fiber(print)
        except kfiber.FiberError as error:
            print(error)
        """,
        KFIBER_ENGINE="kernel",
    )
    assert done.stdout == "" or "hint: kfiber module load" in done.stdout


def test_what_is_exported():
    assert set(kfiber.__all__) <= set(dir(kfiber))
    for name in kfiber.__all__:
        assert getattr(kfiber, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = kfiber.nothing


def test_the_tools_do_without_the_extension(python):
    python(
        """
        import sys
        import kfiber, kfiber.cli.ps, kfiber.cli.doctor
        assert "kfiber._native" not in sys.modules
        """
    )
