# SPDX-License-Identifier: MIT
"""What users of greenlet, generators and threads expect of a fiber."""

import contextvars
import sys
import threading
import time
from traceback import extract_tb

import pytest

import kfiber
from kfiber import Fiber, FiberError, FiberExit, FiberFinishedError, FiberPinnedError

variable = contextvars.ContextVar("variable", default="none")


def test_truth_and_death():
    fiber = Fiber(kfiber.root().switch)
    seen = [(bool(fiber), fiber.dead)]
    for _ in range(2):
        fiber.switch()
        seen.append((bool(fiber), fiber.dead))
    assert seen == [(False, False), (True, False), (False, True)]
    assert kfiber.root() and not kfiber.root().dead
    assert Fiber(lambda: bool(kfiber.current())).switch()


def test_thread(thread):
    fiber = Fiber(kfiber.root().switch)
    assert fiber.thread is None
    fiber.switch()
    assert fiber.thread == kfiber.root().thread == threading.get_ident()

    def elsewhere():
        fiber = Fiber(lambda: None)
        fiber.switch()
        return fiber, fiber.thread == threading.get_ident()

    other, right = thread(elsewhere)
    assert right and other.thread is None


def test_context():
    def target():
        assert kfiber.current().context is context
        variable.set("inside")
        kfiber.root().switch()

    context = contextvars.copy_context()
    fiber = Fiber(target, context=context)
    assert fiber.context is context
    fiber.switch()
    assert fiber.context is context and fiber.context[variable] == "inside"
    fiber.switch()
    assert fiber.context is None


def test_a_context_is_entered_once(thread):
    context = contextvars.copy_context()
    inside, other = Fiber(kfiber.root().switch, context=context), Fiber(print, context=context)
    inside.switch()
    uses = [other.switch, lambda: context.run(print), lambda: thread(context.run, print)]
    for use in uses:
        with pytest.raises(RuntimeError, match="already entered"):
            use()
    assert other.state == "new"
    inside.switch()
    # It has finished; the other may be used.
    assert context.run(lambda: "ran") == "ran"
    inside = Fiber(kfiber.root().switch, context=context)
    inside.switch()
    with pytest.raises(ValueError, match="thrown"):
        inside.throw(ValueError("thrown"))
    assert context.run(lambda: "ran") == "ran"
    with pytest.raises(RuntimeError, match="already entered"):
        context.run(other.switch)


def test_keyword_arguments():
    given = {"sep": "-", "name": "theirs"}
    fiber = Fiber(lambda *args, **kwargs: (args, kwargs), 1, name="ours", kwargs=given)
    given.clear()
    assert fiber.switch() == ((1,), {"sep": "-", "name": "theirs"})
    with pytest.raises(TypeError):
        Fiber(print, kwargs=5)


def made(*args):
    """What throw() with these arguments raises in a fiber, or how it refuses."""
    fiber = Fiber(kfiber.root().switch)
    fiber.switch()
    try:
        fiber.throw(*args)
    except BaseException as error:
        return error


def generated(*args):
    """The same, of a generator."""
    generator = (number for number in range(3))
    next(generator)
    try:
        generator.throw(*args)
    except BaseException as error:
        return error


def traceback():
    try:
        raise LookupError
    except LookupError as error:
        return error.__traceback__


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "args",
    [
        (ValueError,),
        (ValueError, "text"),
        (ValueError, None, None),
        (KeyError, (2, "text")),
        (ValueError, UnicodeError("a", b"b", 0, 1, "c")),
        (ValueError, KeyError("k")),
        (ValueError("instance"),),
        (ValueError("instance"), None, traceback()),
        (ValueError, "text", traceback()),
        (ValueError("instance"), "more"),
        (ValueError, "text", "no traceback"),
        (int,),
        (5,),
        (None, None),
        (UnicodeError, 1, None),
    ],
    ids=str,
)
def test_throw_has_the_forms_of_a_generator(args):
    ours, theirs = made(*args), generated(*args)
    # Up to 3.11 what is wrong with the arguments has other words.
    assert type(ours) is type(theirs)
    if isinstance(theirs, BaseException) and type(theirs) is not TypeError:
        assert ours.args == theirs.args
        if args[-1] is not None and len(args) == 3:
            assert "traceback" in [step.name for step in extract_tb(ours.__traceback__)]
    for each in args:
        if isinstance(each, BaseException):
            # The same one for all rounds, which would grow.
            each.__traceback__ = None


def test_throw_takes_one_to_three_arguments():
    for args in ((), (ValueError, 1, None, 4)):
        with pytest.raises(TypeError):
            Fiber(print).throw(*args)


def test_kill():
    ended = []

    def target():
        try:
            kfiber.root().switch()
        except FiberExit:
            ended.append(kfiber.current().name)
            raise

    fiber = Fiber(target, name="target")
    fiber.switch()
    assert fiber.kill() is None
    assert fiber.dead and ended == ["target"]
    fiber.kill()
    new = Fiber(target)
    new.kill()
    assert new.dead and ended == ["target"]
    with pytest.raises(FiberFinishedError):
        fiber.result()


def test_kill_does_not_hit_the_caller(monkeypatch):
    caught = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: caught.append(args.exc_value))

    def target():
        try:
            kfiber.root().switch()
        finally:
            raise ValueError("instead")

    fiber = Fiber(target)
    fiber.switch()
    # Whoever kills it goes on, and not its parent.
    Fiber(fiber.kill).switch()
    assert [str(error) for error in caught] == ["instead"]
    caught.clear()


def test_kill_refuses(thread):
    with pytest.raises(FiberError, match="is a thread"):
        kfiber.root().kill()
    with pytest.raises(kfiber.FiberRunningError):
        Fiber(lambda: kfiber.current().kill()).switch()

    def target():
        with kfiber.pin():
            kfiber.root().switch()

    fiber = Fiber(target)
    fiber.switch()
    with pytest.raises(FiberPinnedError):
        thread(fiber.kill)
    fiber.kill()


def test_join_and_result(thread):
    def target():
        kfiber.root().switch()
        return "value"

    fiber = Fiber(target)
    fiber.switch()
    assert fiber.join(0) is False
    with pytest.raises(TimeoutError):
        fiber.result(timeout=0.001)

    def wait():
        started.set()
        return fiber.result(60), fiber.join(), fiber.result()

    started, results = threading.Event(), []
    waiter = threading.Thread(target=lambda: results.append(wait()))
    waiter.start()
    started.wait()
    time.sleep(0.01)
    assert fiber.switch() == "value"
    waiter.join()
    assert results == [("value", True, "value")]
    assert thread(fiber.result) == "value"


def test_result_raises():
    fiber = Fiber(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fiber.switch()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fiber.result()
    unrun = Fiber(print)
    with pytest.raises(KeyError):
        unrun.throw(KeyError("k"))
    with pytest.raises(KeyError):
        unrun.result()


def test_a_wait_that_could_not_end():
    for fiber in (kfiber.current(), kfiber.root()):
        for wait in (fiber.join, fiber.result):
            with pytest.raises(FiberError, match="only on this thread"):
                wait()
    for wrong in (-1, float("nan"), "soon"):
        with pytest.raises((ValueError, TypeError)):
            Fiber(print).join(wrong)


def test_a_signal_ends_a_wait(python):
    done = python(
        """
        import kfiber, signal
        def handler(*args):
            raise KeyError("handled")
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            kfiber.Fiber(print).join()
        except KeyError as error:
            print(error)
        """
    )
    assert done.stdout == "'handled'\n"


def test_a_threads_end_ends_a_wait():
    started, results = threading.Event(), []

    def other():
        roots.append(kfiber.root())
        started.set()
        release.wait()

    roots, release = [], threading.Event()
    worker = threading.Thread(target=other)
    worker.start()
    started.wait()
    waiter = threading.Thread(target=lambda: results.append(roots[0].join()))
    waiter.start()
    release.set()
    waiter.join()
    worker.join()
    assert results == [True]
    roots.clear()


class Counter(kfiber.Local):
    kind = "counter"

    def __init__(self, start, *, step=1):
        made_in.append((kfiber.current().name, start))
        self.value, self.step = start, step

    @property
    def next(self):
        return self.value + self.step

    @next.setter
    def next(self, value):
        self.value = value - self.step


made_in = []


def test_a_subclass_of_local():
    made_in.clear()
    counter = Counter(5, step=2)
    counter.next = 100
    assert (counter.value, counter.next, counter.kind) == (98, 100, "counter")
    assert Fiber(lambda: (counter.next, counter.__dict__), name="f").switch() == (
        7,
        {"value": 5, "step": 2},
    )
    assert counter.value == 98
    assert made_in == [("", 5), ("f", 5)]
    with pytest.raises(TypeError):
        Counter()
    with pytest.raises(AttributeError, match="read-only"):
        counter.__dict__ = {}

    class Plain(kfiber.Local):
        pass

    with pytest.raises(TypeError, match="takes no arguments"):
        Plain(1)


def test_a_local_whose_init_fails_is_tried_again():
    class Fails(kfiber.Local):
        def __init__(self):
            if kfiber.current().parent and len(tries) < 1:
                tries.append(1)
                raise ValueError("once")
            self.value = "made"

    tries, local = [], Fails()

    def use():
        with pytest.raises(ValueError, match="once"):
            local.value  # noqa: B018
        return local.value

    assert Fiber(use).switch() == "made"
