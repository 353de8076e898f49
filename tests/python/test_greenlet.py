# SPDX-License-Identifier: MIT
"""Real greenlets beside fibers: what would overwrite a stack is refused before it is done."""

import importlib.util
import textwrap

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("greenlet") is None, reason="greenlet is not installed"
)


def test_greenlets_wholly_within_a_fiber(python):
    python(
        """
        import greenlet, kfiber
        main = kfiber.current()
        def target():
            outer = greenlet.getcurrent()
            inner = greenlet.greenlet(lambda x: outer.switch(x + 1) + 1)
            assert inner.switch(1) == 2
            main.switch()
            assert inner.switch(5) == 6
            return "end"
        fibers = [kfiber.Fiber(target) for _ in range(3)]
        for fiber in fibers:
            fiber.switch()
        assert [fiber.switch() for fiber in fibers] == ["end"] * 3
        """
    )


def test_no_switch_inside_a_greenlet(python):
    python(
        """
        import greenlet, kfiber
        main = kfiber.current()
        fiber = kfiber.Fiber(main.switch)
        def inside():
            try:
                fiber.switch()
            except kfiber.FiberError as error:
                assert "greenlet" in str(error)
                return "refused"
        assert greenlet.greenlet(inside).switch() == "refused"
        fiber.switch()
        assert kfiber.Fiber(lambda: greenlet.greenlet(inside).switch()).switch() == "refused"
        fiber.switch()
        """
    )


BOTH_ORDERS = pytest.mark.parametrize(
    "imports", ["import kfiber, greenlet", "import greenlet, kfiber"], ids=["kfiber", "greenlet"]
)

# A greenlet with frames deep in C that live on the stack where it was started, and ways to use it.
DEEP = """
root, finals = kfiber.root(), []
def deep(levels, function):
    if not levels:
        return function()
    return sorted([levels], key=lambda level: (deep(level - 1, function), level)[1])
def started(kind=greenlet.greenlet):
    main = greenlet.getcurrent()
    def body():
        try:
            for number in range(10):
                main.switch(number)
        finally:
            finals.append(kfiber.current().name)
    worker = kind(lambda: deep(20, body))
    worker.switch()
    return worker
def refused(function, *args):
    try:
        function(*args)
    except kfiber.FiberError as error:
        return "this greenlet was started on" in str(error)
"""


@BOTH_ORDERS
@pytest.mark.parametrize("where", ["root", "fiber"])
def test_a_greenlet_runs_on_the_fiber_only_that_started_it(python, imports, where):
    done = python(
        imports
        + textwrap.dedent(DEEP)
        + f"where = {where!r}"
        + textwrap.dedent("""
        worker = None
        def first():
            global worker
            worker = started()
            deep(30, root.switch)
            return worker.switch()
        def second():
            assert refused(worker.switch) and refused(worker.throw, ValueError)
            assert refused(greenlet.greenlet.switch, worker)
            mine = started()
            assert mine.switch() == 1
            assert refused(worker.switch)
            return mine
        one = kfiber.Fiber(first)
        if where == "root":
            worker = started()
        else:
            one.switch()
        mine = kfiber.Fiber(second).switch()
        # That fiber has finished: its stack is not there any more.
        assert refused(mine.switch)
        if where == "root":
            assert worker.switch() == 1
        else:
            assert refused(worker.switch)
            assert one.switch() == 1
        print("well")
        """)
    )
    assert done.stdout == "well\n"


@BOTH_ORDERS
def test_a_greenlet_ends_on_the_fiber_only_that_started_it(python, imports):
    """Its last reference goes on another fiber, on another thread, or when it is too late."""
    done = python(
        imports
        + textwrap.dedent(DEEP)
        + textwrap.dedent("""
        import threading
        class Sub(greenlet.greenlet):
            pass
        held = []
        def first():
            for kind in (greenlet.greenlet, Sub, Sub):
                held.append(started(kind))
            root.switch()
            started()
            return finals
        one = kfiber.Fiber(first, name="first")
        one.switch()
        held.pop()
        thread = threading.Thread(target=held.pop)
        thread.start()
        thread.join()
        kfiber.Fiber(held.pop).switch()
        assert not finals
        assert one.switch() == ["first"] * 4, finals
        kfiber.Fiber(lambda: held.append(started())).switch()
        held.clear()
        greenlet.greenlet(lambda: None).switch()
        assert len(finals) == 4
        print("well")
        """)
    )
    assert done.stdout == "well\n"


def test_greenlets_started_before_anybody_watched(python):
    deep = textwrap.dedent(DEEP).replace("root, finals = kfiber.root(), []", "finals = []")
    python(
        "import greenlet, kfiber"
        + deep
        + textwrap.dedent("""
        early = started()
        assert kfiber.Fiber(refused, early.switch).switch()
        assert early.switch() == 1
        """)
    )


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")
@pytest.mark.parametrize("imports", ["import kfiber, gevent", "import gevent, kfiber"])
def test_gevent_on_two_fibers_of_a_thread(python, imports):
    done = python(
        imports
        + textwrap.dedent("""
        root = kfiber.root()
        def body():
            for number in range(5):
                gevent.sleep(0.0001 if number % 2 else 0)
                root.switch(number)
        one, two = kfiber.Fiber(body), kfiber.Fiber(body)
        one.switch()
        for use in (two.switch, lambda: gevent.sleep(0)):
            try:
                use()
            except kfiber.FiberError as error:
                print(str(error).split(";")[0])
        print(one.switch(), kfiber.Fiber(lambda: "without").switch())
        """)
    )
    refusal = "this greenlet was started on fiber 2\n"
    assert done.stdout == refusal * 2 + "1 without\n"
