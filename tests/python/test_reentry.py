# SPDX-License-Identifier: MIT
"""Code that runs in the middle of what the extension does: finalizers, callbacks, attributes.

It may switch, and the fiber that was in the middle may go on on another thread.
"""

from __future__ import annotations

import gc
import sys
import threading

import kfiber
from kfiber import Fiber


def test_a_fiber_goes_on_elsewhere_while_it_ends_others(python):
    python(
        """
        import threading, weakref, kfiber
        from kfiber import Fiber

        parked, dropped = threading.Event(), threading.Event()
        box = []

        def gives_way(reference):
            kfiber.root().switch()

        def mover():
            parked.set()
            dropped.wait()
            box[0].switch()     # ends the victim first, whose weak reference gives way
            return threading.current_thread().name

        def run():
            victim = Fiber(lambda: kfiber.root().switch())
            victim.switch()
            box.extend((Fiber(int), weakref.ref(victim, gives_way), victim))
            del victim
            box.append(Fiber(mover))
            box[-1].switch()

        thread = threading.Thread(target=run)
        thread.start()
        parked.wait()
        del box[2]
        dropped.set()
        thread.join()
        first, reference, mover = box
        assert mover.state == "suspended"
        mover.parent = kfiber.root()
        first.parent = mover
        assert mover.switch() == "MainThread"
        """
    )


def test_a_fiber_goes_on_elsewhere_while_it_creates_one(python):
    python(
        """
        import threading, kfiber
        from kfiber import Fiber

        class Target:
            def __call__(self):
                pass

            def __getattr__(self, name):
                kfiber.root().switch()
                raise AttributeError(name)

        made = []
        maker = Fiber(lambda: made.append(Fiber(Target())))
        thread = threading.Thread(target=maker.switch)
        thread.start()
        thread.join()
        maker.parent = kfiber.root()
        maker.switch()
        assert made[0].parent is maker
        """
    )


def test_one_in_a_cycle_is_ended_though_another_thread_collects_it():
    ended = []
    parked, collected = threading.Event(), threading.Event()

    def target():
        me = kfiber.current()
        try:
            kfiber.root().switch()
        finally:
            ended.append(me.name)

    def run():
        Fiber(target, name="victim").switch()
        parked.set()
        collected.wait()
        Fiber(int).switch()

    thread = threading.Thread(target=run)
    thread.start()
    parked.wait()
    gc.collect()
    collected.set()
    thread.join()
    assert ended == ["victim"]


def test_one_that_fibers_shows_is_ended_all_the_same():
    ended = []
    parked, dropped = threading.Event(), threading.Event()
    box = []

    def target():
        try:
            kfiber.root().switch()
        finally:
            ended.append(True)

    def run():
        box.append(Fiber(target))
        box[0].switch()
        parked.set()
        dropped.wait()
        Fiber(int).switch()

    thread = threading.Thread(target=run)
    thread.start()
    parked.wait()
    box.clear()
    shown = kfiber.fibers()
    dropped.set()
    thread.join()
    assert ended == [True]
    assert "finished" in [fiber.state for fiber in shown]


def test_who_ends_a_fiber_lives_until_it_has(python):
    python(
        """
        import kfiber
        from kfiber import Fiber

        root = kfiber.root()
        box = {}

        def victim():
            try:
                root.switch()
            finally:
                del box["ender"]    # the last reference to the fiber that ends this one

        def ender():
            child = Fiber(lambda: root.switch())
            box["child"] = child
            child.switch()          # its end resumes this fiber: no stack holds it
            del child
            box.pop("child").parent = root
            del box["victim"]
            return "went on"

        box["victim"] = Fiber(victim)
        box["victim"].switch()
        box["ender"] = Fiber(ender)
        box["ender"].switch()
        assert box["child"].switch() == "went on"
        """
    )


def test_one_that_had_failed_already_is_ended_without_a_trace(python):
    done = python(
        """
        import kfiber
        from kfiber import Fiber

        root = kfiber.root()

        class Last:
            def __del__(self):
                root.switch()

        def fails(last):
            del last        # its arguments alone refer to it
            raise ValueError("its own")

        fiber = Fiber(fails, Last())
        fiber.switch()
        del fiber
        assert len("it") == 2
        """
    )
    assert "ValueError: its own" in done.stderr


def test_thread_locals_may_hold_suspended_fibers(thread):
    local = threading.local()
    ended = []

    def target():
        try:
            kfiber.root().switch()
        finally:
            ended.append(kfiber.current().name)

    def run():
        local.fiber = Fiber(target, name="kept")
        local.fiber.switch()

    thread(run)
    gc.collect()
    assert ended == ["kept"]
    assert [fiber for fiber in kfiber.fibers() if fiber is not kfiber.current()] == []


def test_a_thread_that_ends_is_not_made_a_fiber(thread):
    local = threading.local()
    refused = []

    class Value:
        def __del__(self):
            try:
                kfiber.current()
            except kfiber.FiberError as error:
                refused.append(str(error))

    def run():
        kfiber.current()
        local.value = Value()

    thread(run)
    gc.collect()
    assert [fiber for fiber in kfiber.fibers() if fiber is not kfiber.current()] == []
    # From 3.13 on a thread's locals die before it ends as a fiber.
    if sys.version_info < (3, 13):
        assert refused == ["this thread is ending: it cannot run fibers any more"]


def test_a_collection_during_the_first_use_on_a_thread(python):
    python(
        """
        import gc, threading, kfiber

        seen = []

        class Finalized:
            def __init__(self):
                self.me = self

            def __del__(self):
                seen.append(kfiber.current())

        def run():
            Finalized()
            gc.enable()
            mine = kfiber.current()
            gc.disable()
            gc.collect()
            assert seen.pop() is mine and not seen

        gc.disable()
        gc.set_threshold(1)
        for _ in range(10):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        """
    )


def test_a_collection_while_attributes_are_made(python):
    python(
        """
        import gc, kfiber

        kfiber.current()
        local = kfiber.Local()

        class Finalized:
            def __init__(self):
                self.me = self

            def __del__(self):
                local.finalized = True

        gc.disable()
        gc.set_threshold(1)
        # So many that none is kept for the next.
        dictionaries = [{i: i} for i in range(2000)]
        Finalized()
        gc.enable()
        local.mine = True
        gc.disable()
        gc.collect()
        assert local.mine and local.finalized
        """
    )


def test_one_that_is_cleared_does_not_start(python):
    python(
        """
        import gc, kfiber
        from kfiber import Fiber

        found = []

        class Finalized:
            def __del__(self):
                found.extend(fiber.state for fiber in kfiber.fibers() if fiber.name == "new")

        class Garbage(Fiber):
            pass

        local = kfiber.Local()
        local.value = Finalized()       # goes with the Local, which only the garbage refers to
        fiber = Garbage(print, local, name="new")
        fiber.me = fiber
        del local, fiber
        gc.collect()
        assert found == []
        """
    )


def test_no_switch_when_the_interpreter_ends(python):
    done = python(
        """
        import os
        from kfiber import Fiber

        class Late:
            def __del__(self, os=os, Fiber=Fiber):
                try:
                    Fiber(os.write, 1, b"in a fiber").switch()
                finally:
                    os.write(1, b"after it")

        late = Late()
        """
    )
    assert done.stdout == "after it"
    assert "FiberError: the interpreter is ending: fibers cannot run any more" in done.stderr


def test_threading_may_be_imported_in_a_fiber(python):
    done = python(
        """
        from kfiber import Fiber, root

        def imports():
            import threading
            root().switch()

        # Enough for the state of the last to be freed and not kept.
        fibers = [Fiber(root().switch) for _ in range(300)] + [Fiber(imports)]
        for fiber in fibers:
            fiber.switch()
        for fiber in fibers:
            fiber.switch()
        import threading
        assert threading.main_thread().is_alive()

        def works():
            threading.main_thread().join(0.1)
            print("worked")

        threading.Thread(target=works).start()
        """
    )
    assert done.stdout == "worked\n"
