# SPDX-License-Identifier: MIT
"""set_observer(): who is told of switches, and what tools make of it for two interleaved fibers."""

import gc
import importlib.util
import sys

import pytest

import kfiber
from kfiber import Fiber, FiberError


@pytest.fixture
def seen():
    """What an observer was told; `None` in the end."""
    found = []
    kfiber.set_observer(lambda *fibers: found.append(fibers))
    yield found
    kfiber.set_observer(None)
    found.clear()


def test_each_switch_is_told_in_its_order(seen):
    root = kfiber.root()

    def target():
        told = [kfiber.current() is entered for _, entered in seen[-1:]]
        root.switch()
        return told

    fiber = Fiber(target)
    fiber.switch()
    assert fiber.switch() == [True]
    with pytest.raises(KeyError):
        fiber = Fiber(root.switch)
        fiber.switch()
        fiber.throw(KeyError())
    names = [["root" if each is root else each.id for each in pair] for pair in seen]
    first, second = names[0][1], names[4][1]
    way = [["root", first], [first, "root"]] * 2 + [["root", second], [second, "root"]] * 2
    assert names == way
    seen.clear()


def test_what_the_collector_ends_is_told(seen):
    fiber = Fiber(kfiber.root().switch)
    fiber.switch()
    seen.clear()
    del fiber
    gc.collect()
    assert [(left.dead, entered.dead) for left, entered in seen] == [(False, True), (True, False)]
    seen.clear()


def test_the_former_one_is_returned():
    def one(left, entered): ...

    assert kfiber.set_observer(one) is None
    assert kfiber.set_observer(None) is one
    assert kfiber.set_observer(None) is None
    with pytest.raises(TypeError, match="callable"):
        kfiber.set_observer(5)


def test_an_observer_may_not_switch(seen):
    def observe(left, entered):
        with pytest.raises(FiberError, match="observer"):
            left.switch()
        told.append(Fiber(print).state)

    told = []
    kfiber.set_observer(observe)
    Fiber(lambda: None).switch()
    assert told == ["new", "new"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_fails_is_told_no_more(monkeypatch):
    def observe(left, entered):
        raise LookupError("in the observer")

    caught = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: caught.append(str(args.exc_value)))
    kfiber.set_observer(observe)
    assert Fiber(lambda: "value").switch() == "value"
    assert caught == ["in the observer"]
    assert kfiber.set_observer(None) is None


def needs(module):
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} is not installed"
    )


@needs("memray")
def test_memray(python, tmp_path):
    """Allocations belong to the fiber that made them."""
    done = python(
        """
        import kfiber, memray, os
        from memray._memray import greenlet_trace_function
        kfiber.set_observer(lambda *fibers: greenlet_trace_function("switch", fibers))
        root, kept = kfiber.root(), []
        def take(size):
            kept.append(bytearray(size))
        def one():
            root.switch()
            take(3_000_000)
            root.switch()
        def two():
            root.switch()
            take(5_000_000)
            root.switch()
        with memray.Tracker(os.environ["RECORD"]):
            fibers = [kfiber.Fiber(one), kfiber.Fiber(two)]
            for _ in range(3):
                for fiber in fibers:
                    fiber.switch()
        records = memray.FileReader(os.environ["RECORD"]).get_high_watermark_allocation_records()
        for record in records:
            if record.size in (3_000_001, 5_000_001):
                print(record.size, *[frame[0] for frame in record.stack_trace()])
        """,
        RECORD=str(tmp_path / "record"),
    )
    assert sorted(done.stdout.splitlines()) == ["3000001 take one", "5000001 take two"]
    assert done.stderr == ""


def test_cprofile(python):
    """A profile for each fiber: no function has the time of another fiber's.

    What a function does after it was suspended is not added to its cumulative time: a profile
    forgets the functions that are active when it is disabled.
    """
    python(
        """
        import cProfile, kfiber, pstats, time
        root, profiles = kfiber.root(), {}
        def observe(left, entered):
            profiles[left.id].disable()
            profiles.setdefault(entered.id, cProfile.Profile(time.thread_time)).enable()
        def burn(seconds):
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass
        def one():
            burn(0.1)
            root.switch()
            burn(0.1)
        def two():
            root.switch()
        profiles[root.id] = cProfile.Profile(time.thread_time)
        profiles[root.id].enable()
        kfiber.set_observer(observe)
        fibers = [kfiber.Fiber(one), kfiber.Fiber(two)]
        for _ in range(2):
            for fiber in fibers:
                fiber.switch()
        kfiber.set_observer(None)
        profiles[root.id].disable()
        found = {key[2]: row for key, row in pstats.Stats(*profiles.values()).stats.items()}
        assert found["one"][3] >= 0.1 > 0.05 > found["two"][3], found
        assert (found["burn"][0], found["one"][0]) == (2, 1)
        """
    )


@needs("yappi")
@needs("greenlet")
def test_yappi(python):
    """Its contexts are fibers, and the time while one is suspended is not its own."""
    python(
        """
        import kfiber, time, yappi
        root = kfiber.root()
        def burn(seconds):
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass
        def one():
            burn(0.1)
            root.switch()
            burn(0.1)
        def two():
            root.switch()
        yappi.set_clock_type("cpu")
        yappi.set_context_backend("greenlet")
        yappi.set_context_id_callback(lambda: kfiber.current().id)
        yappi.set_context_name_callback(lambda: kfiber.current().name)
        yappi.start()
        fibers = [kfiber.Fiber(one), kfiber.Fiber(two)]
        for _ in range(2):
            for fiber in fibers:
                fiber.switch()
        yappi.stop()
        found = {each.name: each for each in yappi.get_func_stats()}
        assert found["one"].ttot >= 0.2 > 0.1 > found["two"].ttot, found
        assert (found["burn"].ncall, found["one"].ncall, found["two"].ncall) == (2, 1, 1)
        names = {each.name for each in yappi.get_greenlet_stats()}
        assert names == {"one", "two", root.name}, names
        """
    )


TRACED = """
def FUNCTION(switch):
    first = 1
    switch()
    second = helper()
    switch()
    return first + second
def helper():
    return 5
"""
# Tracers keep a stack of their own for each thread: with a trace function of its own a fiber
# has one, too.
PROGRAM = """
import kfiber, sys, threading
import one, two
def observe(left, entered):
    left.trace = sys.gettrace()
    sys.settrace(getattr(entered, "trace", None) or threading.gettrace())
if threading.gettrace():
    kfiber.set_observer(observe)
root = kfiber.root()
fibers = [kfiber.Fiber(one.one, root.switch), kfiber.Fiber(two.two, root.switch)]
for _ in range(3):
    for fiber in fibers:
        fiber.switch()
"""


@needs("coverage")
@pytest.mark.parametrize("core", ["ctrace", "pytrace", "sysmon"])
def test_coverage(python, tmp_path, core):
    """All lines of two modules whose functions are interleaved."""
    if core == "sysmon" and sys.version_info < (3, 12):
        pytest.skip("sys.monitoring is there from 3.12 on")
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(TRACED.replace("FUNCTION", name))
    (tmp_path / "program.py").write_text(PROGRAM)
    done = python(
        """
        import coverage, os, runpy, sys
        os.chdir(os.environ["FOLDER"])
        sys.path.insert(0, os.getcwd())
        cover = coverage.Coverage(data_file=None, include=["*/one.py", "*/two.py"])
        cover.start()
        runpy.run_path("program.py")
        cover.stop()
        print([cover.analysis2(f"{name}.py")[3] for name in ("one", "two")])
        """,
        FOLDER=str(tmp_path),
        COVERAGE_CORE=core,
    )
    assert done.stdout == "[[], []]\n"
