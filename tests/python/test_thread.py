# SPDX-License-Identifier: MIT
"""Fibers and threads: any thread may run any suspended fiber but another one's own."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import sys
import threading

import pytest

import kfiber
from kfiber import Fiber


def park():
    while True:
        kfiber.root().switch()


def test_a_fiber_moves(thread):
    main = kfiber.current()

    def target():
        yielded = [threading.get_ident()]
        main.switch()
        yielded.append(threading.get_ident())
        return yielded

    fiber = Fiber(target)
    fiber.switch()
    here, there = thread(fiber.switch)
    assert here == threading.get_ident() != there


def test_generators_callbacks_and_handlers_move(thread):
    def target():
        def generator():
            for i in itertools.count():
                try:
                    raise KeyError(i)
                except KeyError as error:
                    kfiber.root().switch(i)
                    assert sys.exc_info()[1] is error
                yield i

        numbers = generator()
        return sorted([3, 1, 2], key=lambda value: (next(numbers), value)[1])

    fiber = Fiber(target)
    assert fiber.switch() == 0
    assert thread(fiber.switch) == 1
    assert thread(fiber.switch) == 2
    assert fiber.switch() == [1, 2, 3]


def test_a_threads_own_fiber_is_pinned(thread):
    main = kfiber.root()

    def enter():
        # From the suspended state: main waits in join(), so it is running.
        with pytest.raises(kfiber.FiberRunningError):
            main.switch()
        return kfiber.root(), kfiber.root() is kfiber.current()

    other, its_own = thread(enter)
    assert its_own
    assert other is not main
    assert other.state == "finished"
    with pytest.raises(kfiber.FiberFinishedError):
        other.switch()

    def rob():
        with pytest.raises(kfiber.FiberPinnedError):
            main.switch()
        kfiber.root().switch()

    # main is suspended while a fiber runs here and starts a thread.
    def wrap():
        thread_result.append(thread(rob_suspended))

    def rob_suspended():
        with pytest.raises(kfiber.FiberPinnedError, match="another thread"):
            main.switch()
        return "refused"

    thread_result = []
    Fiber(wrap).switch()
    assert thread_result == ["refused"]


def test_pin(thread):
    main = kfiber.current()

    def target():
        with kfiber.pin() as fiber:
            assert fiber is kfiber.current()
            with kfiber.pin():
                main.switch()
            main.switch()
        main.switch()

    fiber = Fiber(target)
    for _ in range(2):
        fiber.switch()
        with pytest.raises(kfiber.FiberPinnedError):
            thread(fiber.switch)
    fiber.switch()

    def free():
        with pytest.raises(kfiber.FiberRunningError):
            fiber.switch()
            main.switch()

    fiber.parent = main
    # main is running, so the value goes to that thread's own fiber.
    assert thread(fiber.switch) is None
    assert fiber.state == "finished"


def test_pin_misused():
    pin = kfiber.pin()
    with pytest.raises(RuntimeError, match="not entered"):
        pin.__exit__(None, None, None)
    with pin, pytest.raises(RuntimeError, match="entered already"):
        pin.__enter__()


def test_attach(thread):
    def main():
        with kfiber.attach() as outer:
            with kfiber.attach() as inner:
                assert outer is inner is kfiber.root()
                assert Fiber(lambda: 5).switch() == 5
            assert outer.state == "running"
        finished = outer.state
        fresh = kfiber.root()
        return finished, fresh is not outer

    assert thread(main) == ("finished", True)


def test_attach_misused():
    attach = kfiber.attach()
    with pytest.raises(RuntimeError, match="not entered"):
        attach.__exit__(None, None, None)
    with attach, pytest.raises(RuntimeError, match="entered already"):
        attach.__enter__()


def test_attach_leaves_an_attached_thread_as_it_is():
    root = kfiber.root()
    with kfiber.attach() as own:
        assert own is root
    assert kfiber.root() is root
    assert root.state == "running"


def test_a_creators_end_leaves_its_fibers(thread):
    def create():
        fiber = Fiber(park)
        fiber.switch()
        return fiber, Fiber(lambda: "started elsewhere")

    suspended, new = thread(create)
    assert suspended.parent.state == "finished"
    assert suspended.switch() is None
    assert new.switch() == "started elsewhere"


def test_rivals_exactly_one_wins():
    arrived = threading.Barrier(4)
    inside = []
    outcomes = []

    def target():
        while True:
            inside.append(threading.get_ident())
            go.wait()
            kfiber.root().switch()

    go = threading.Event()
    fiber = Fiber(target)

    def main():
        arrived.wait()
        try:
            fiber.switch()
            outcomes.append("won")
        except kfiber.FiberRunningError:
            outcomes.append("lost")
            if outcomes.count("lost") == 3:
                go.set()

    threads = [threading.Thread(target=main) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(outcomes) == ["lost", "lost", "lost", "won"]
    assert len(inside) == 1


@pytest.mark.parametrize(
    "resumes",
    [
        20_000,
        pytest.param(
            1_000_000,
            marks=[
                pytest.mark.once,
                pytest.mark.skipif("KFIBER_GUEST" in os.environ, reason="an emulated processor"),
            ],
        ),
    ],
)
def test_migration_stress(resumes):
    wrong = []

    def target(i):
        def generator():
            for n in itertools.count():
                try:
                    if kfiber.root().switch(n) != i:
                        wrong.append(i)
                except KeyError as error:
                    if error.args != (i,):
                        wrong.append(i)
                yield n

        for n in generator():
            if n % 7 == 0:
                sorted([2, 1], key=lambda value: (kfiber.root().switch(n), value)[1])

    fibers = [Fiber(target, i) for i in range(32)]
    for fiber in fibers:
        fiber.switch()
    counts = [0] * 4

    def main(number):
        chosen = random.Random(number)
        while counts[number] < resumes // 4:
            i = chosen.randrange(len(fibers))
            try:
                fibers[i].switch(i)
                counts[number] += 1
            except kfiber.FiberRunningError:
                pass

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=main, args=(i,)) for i in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert sum(counts) == resumes
    assert sum(fiber.stats.activations for fiber in fibers) == sum(counts) + len(fibers)
    fibers.clear()


def test_other_threads_run_while_fibers_switch():
    main = kfiber.current()
    turns = []
    stop = threading.Event()

    def other():
        while not stop.is_set():
            turns.append(None)

    def target():
        while True:
            main.switch()

    fiber = Fiber(target)
    worker = threading.Thread(target=other)
    worker.start()
    # Starved, it would never come to its tenth turn.
    while len(turns) < 10:
        fiber.switch()
    stop.set()
    worker.join()


def test_fibers_run_while_another_thread_is_busy():
    main = kfiber.current()
    stop = threading.Event()

    def other():
        while not stop.is_set():
            pass

    def target():
        for _ in range(1000):
            main.switch()
        return "through"

    worker = threading.Thread(target=other)
    worker.start()
    fiber = Fiber(target)
    for _ in range(1000):
        fiber.switch()
    stop.set()
    worker.join()
    assert fiber.switch() == "through"


def test_the_gil_is_released_inside(thread):
    main = kfiber.current()
    read, write = os.pipe()

    def target():
        data = os.read(read, 1)
        main.switch(data)
        return os.read(read, 1)

    fiber = Fiber(target)
    worker = threading.Thread(target=os.write, args=(write, b"xy"))
    worker.start()
    assert fiber.switch() == b"x"
    worker.join()
    assert fiber.switch() == b"y"
    os.close(read)
    os.close(write)


def test_what_threads_have_follows_the_thread(thread):
    local = threading.local()

    def target():
        while True:
            seen.append((local.value, threading.get_ident(), threading.current_thread()))
            kfiber.root().switch()

    def enter(value):
        local.value = value
        fiber.switch()
        return value, threading.get_ident(), threading.current_thread()

    seen = []
    fiber = Fiber(target)
    expected = [enter("here"), thread(enter, "there"), enter("here again"), thread(enter, "last")]
    assert seen == expected


def test_native_threads_that_come_and_go():
    """The interpreter knows them only while they call back; their fibers stay."""
    library = ctypes.CDLL(None)
    fibers = []

    def main(_):
        fibers.append(Fiber(park))
        for fiber in fibers:
            fiber.switch()

    callback = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(main)
    for _ in range(5):
        thread = ctypes.c_ulong()
        assert library.pthread_create(ctypes.byref(thread), None, callback, None) == 0
        assert library.pthread_join(thread, None) == 0
    assert [fiber.stats.activations for fiber in fibers] == [5, 4, 3, 2, 1]
    assert {fiber.parent.state for fiber in fibers} == {"finished"}
    fibers.clear()


def test_callbacks_find_the_running_fibers_state():
    """They ask GILState for it."""
    main = kfiber.current()
    back = ctypes.PYFUNCTYPE(ctypes.c_int)
    released = ctypes.CFUNCTYPE(ctypes.c_int)

    def target():
        assert released(lambda: kfiber.root().switch(1) or 2)() == 2
        assert back(lambda: 3)() == 3
        return "end"

    fiber = Fiber(target)
    assert fiber.switch() == 1
    assert main is kfiber.current()
    assert fiber.switch() == "end"


@pytest.mark.once
@pytest.mark.skipif(sys.version_info < (3, 13), reason="requests belong to the interpreter")
def test_no_request_for_the_gil_stays_with_a_suspended_fiber(python):
    """One that came too late, from a thread that waits no more, stops nobody."""
    program = """
        import ctypes
        import kfiber

        EVAL_BREAKER = 3 * ctypes.sizeof(ctypes.c_void_p)
        DROP_REQUEST = 1

        def body():
            get = ctypes.pythonapi.PyThreadState_Get
            get.restype = ctypes.c_void_p
            root.switch(get())
            for _ in range(1000):
                pass
            return "done"

        root = kfiber.root()
        fiber = kfiber.Fiber(body)
        events = ctypes.c_size_t.from_address(fiber.switch() + EVAL_BREAKER)
        events.value |= DROP_REQUEST
        print(fiber.switch())
    """
    assert python(program).stdout == "done\n"
