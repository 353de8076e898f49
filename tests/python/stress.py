# SPDX-License-Identifier: MIT
"""Random operations of several threads on the same fibers.

    python tests/python/stress.py [--seed N] [--seconds S] [--threads N] [--threshold N]

Each thread draws its operations from the seed; how the threads interleave is up to the machine.
Fibers check what must survive each switch: their locals, what they handle, their context, their
Locals, and which thread runs them. The last line that a good run writes begins with "stress:".
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import faulthandler
import gc
import itertools
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings

import kfiber
from kfiber import Fiber

# So many fibers may be picked at a time, so deep is a fiber's stack, so long a thread's life.
POOL, DEEP, LIFE = 40, 6, 4000
# Seconds without any operation: it hangs. Far more than a busy machine takes for one.
STALLED = 300
# A fork() copies all of it.
FORKS = 0.0005

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")
local = kfiber.Local()
numbers = itertools.count()
pool: list[Fiber] = []
faults: list[str] = []
operations = 0
over = False
# Of the thread: its random numbers.
own = threading.local()


class Nudge(Exception):
    """Thrown into a fiber."""


class Noisy(Fiber):
    """Its destructor switches."""

    def __del__(self):
        Fiber(len, ()).switch()


class Thing:
    """Its destructor uses fibers, wherever it is dropped."""

    def __init__(self, *held):
        self.held = held

    def __del__(self):
        repr(kfiber.current().stats)


def fault(what):
    faults.append(what)
    print(what, file=sys.stderr, flush=True)


def check(condition, what):
    if not condition:
        fault(f"wrong: {what}\n" + "".join(traceback.format_stack()))


def chosen():
    """A fiber of all, or none; most of those that have finished leave the pool instead."""
    try:
        fiber = own.random.choice(pool)
        if fiber.dead and own.random.random() < 0.9:
            pool.remove(fiber)
            return None
        return fiber
    except (IndexError, ValueError):
        return None


def anyone(level):
    """Leaves the calling fiber for another one, or for the thread."""
    other = chosen() if own.random.random() < 0.5 else None
    if other is None:
        other = kfiber.root()
    # A new one, which is false, takes no value.
    return other.switch(*[level] if other else [])


def in_generator(level):
    yield
    yield dive(level)


def in_handler(level):
    error = KeyError(level)
    try:
        raise error
    except KeyError:
        try:
            dive(level)
        finally:
            check(sys.exc_info()[1] is not None, "nothing is handled")
        check(sys.exc_info()[1] is error, "another exception is handled")


def in_generator_of_own(level):
    generator = in_generator(level)
    next(generator)
    next(generator)


def in_c(level):
    sorted([1], key=lambda _: dive(level) or 0)


def in_context(level):
    token = object()
    context = contextvars.copy_context()

    def inside():
        variable.set(token)
        dive(level)
        check(variable.get() is token, "a context's variable")

    context.run(inside)


def pinned(level):
    with kfiber.pin():
        thread = threading.get_ident()
        dive(level)
        check(threading.get_ident() == thread, "it moved in spite of its pin")


def dive(level):
    """Switches some levels of calls below, and looks whether all is as it was."""
    me, marks = kfiber.current(), [level, object()]
    kept = tuple(marks)
    if level < DEEP and own.random.random() < 0.7:
        own.random.choice((dive, in_handler, in_generator_of_own, in_c, in_context, pinned))(
            level + 1
        )
    else:
        anyone(level)
    check(tuple(marks) == kept, "a frame's locals")
    check(kfiber.current() is me, "another fiber than before")


def body(number):
    """A fiber's life."""
    local.number = number
    variable.set(number)
    me = kfiber.current()
    held = Thing(me) if number % 3 == 0 else None
    while own.random.random() < 0.8:
        try:
            dive(0)
        except Nudge:
            if own.random.random() < 0.3:
                raise
        except kfiber.FiberError:
            pass
        check(local.number == number, "a Local")
        check(variable.get() == number, "a variable of the context")
        check(kfiber.current() is me, "another fiber than before")
    del held
    if number % 7 == 0:
        raise Nudge
    return number


def create():
    if len(pool) < POOL:
        number = next(numbers)
        kind = Noisy if own.random.random() < 0.1 else Fiber
        size = own.random.choice((1 << 20, 8 << 20))
        pool.append(kind(body, number, name=f"number {number}", stack_size=size))


def switch():
    fiber = chosen()
    if fiber is not None:
        fiber.switch()


def throw():
    fiber = chosen()
    if fiber is not None:
        fiber.throw(Nudge())


def drop():
    with contextlib.suppress(IndexError):
        del pool[own.random.randrange(POOL)]


def kill():
    fiber = chosen()
    if fiber is not None:
        fiber.kill()


def wait():
    fiber = chosen()
    if fiber is not None and fiber.join(0):
        with contextlib.suppress(Nudge):
            fiber.result()


def collect():
    gc.collect(own.random.randrange(3))


def name():
    fiber = chosen()
    if fiber is not None:
        fiber.name = f"another {own.random.random()}"
        repr([fiber, bool(fiber), fiber.dead, fiber.thread, fiber.context])
        if not fiber.dead:
            repr(fiber.stats)
        frame = fiber.frame
        while frame:
            frame = frame.f_back


def stacks():
    len(kfiber.fibers())
    # A collection within holds a lock of the interpreter: python/cpython#106883, up to 3.11.8.
    gc.disable()
    sys._current_frames()
    gc.enable()


def tracer(frame, event, argument):
    return tracer


def profiler(frame, event, argument):
    return None


def trace():
    sys.settrace(own.random.choice((None, tracer)))
    sys.setprofile(own.random.choice((None, None, profiler)))


def observe():
    kfiber.set_observer(own.random.choice((None, None, lambda left, entered: None)))


def rivals():
    """Two threads, and one fiber."""
    fiber = chosen()
    if fiber is None:
        return

    def rival(seed):
        own.random = random.Random(seed)
        attempt(fiber.switch)

    thread = threading.Thread(target=rival, args=(own.random.random(),))
    thread.start()
    attempt(fiber.switch)
    thread.join()


def fork():
    """The child has fibers, too, and ends without them."""
    seed = own.random.random()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        check(status == 0, f"a child ended with {status}")
        return
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.dump_traceback_later(STALLED, exit=True)
        own.random = random.Random(seed)
        faults.clear()
        for _ in range(50):
            operate(WITHOUT_FORK)
    finally:
        os._exit(bool(faults))


OPERATIONS = {
    create: 30, switch: 60, throw: 5, drop: 6, kill: 2, wait: 2, collect: 0.5, name: 3,
    stacks: 1, trace: 2, observe: 1, rivals: 0.5, fork: 100 * FORKS,
}  # fmt: skip
WITHOUT_FORK = {each: weight for each, weight in OPERATIONS.items() if each is not fork}


def attempt(operation):
    """What it may raise, by the way of other fibers too, is no fault."""
    try:
        operation()
    except (Nudge, kfiber.FiberError, kfiber.FiberExit):
        pass
    except TypeError as error:
        # A new fiber takes no value.
        if "takes no value" not in str(error):
            raise


def operate(weights):
    global operations
    (operation,) = own.random.choices(list(weights), list(weights.values()))
    operations += 1
    attempt(operation)


def work(seed):
    """A thread's life; it ends with fibers suspended on it."""
    own.random = random.Random(seed)
    try:
        for _ in range(own.random.randrange(LIFE)):
            if over:
                break
            operate(OPERATIONS)
    except BaseException:
        fault(traceback.format_exc())
    finally:
        sys.settrace(None)
        sys.setprofile(None)


def unraisable(hook):
    # A fiber that is nudged while it is ended.
    if not isinstance(hook.exc_value, (Nudge, kfiber.FiberError)):
        fault(f"unraisable in {hook.object!r}: {hook.exc_value!r}\n"
              + "".join(traceback.format_tb(hook.exc_traceback)))  # fmt: skip


def run(seed, seconds, threads):
    """The threads, each replaced when it ends, until the time is over."""
    global over
    seeds = random.Random(seed)
    own.random = random.Random(seeds.random())
    signal.signal(signal.SIGALRM, lambda *_: attempt(create))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    workers: list[threading.Thread] = []
    end = time.monotonic() + seconds
    seen, since, started = -1, time.monotonic(), 0
    while workers or not over:
        over = over or time.monotonic() >= end or bool(faults)
        workers = [each for each in workers if each.is_alive()]
        while not over and len(workers) < threads:
            workers.append(threading.Thread(target=work, args=(seeds.random(),), daemon=True))
            workers[-1].start()
            started += 1
        time.sleep(0.05)
        if operations != seen:
            seen, since = operations, time.monotonic()
        elif time.monotonic() - since > STALLED:
            print(f"no operation in {STALLED} seconds", file=sys.stderr)
            faulthandler.dump_traceback(all_threads=True)
            os.abort()
    signal.setitimer(signal.ITIMER_REAL, 0)
    return started


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--threshold", type=int, help="the collector's, of the youngest objects")
    options = parser.parse_args()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    sys.unraisablehook = unraisable
    sys.setswitchinterval(1e-4)
    if options.threshold:
        gc.set_threshold(options.threshold)
    print(f"seed {options.seed}", flush=True)
    started = run(options.seed, options.seconds, options.threads)
    faulthandler.dump_traceback_later(STALLED, exit=True)
    kfiber.set_observer(None)
    pool.clear()
    for _ in range(10):
        Fiber(len, ()).switch()
        gc.collect()
    faulthandler.cancel_dump_traceback_later()
    left = [fiber for fiber in kfiber.fibers() if fiber is not kfiber.root()]
    # Before 3.14 the collector does not see what a frame's stack holds.
    if sys.version_info >= (3, 14):
        check(not left, f"nobody reaches them: {left}")
    if faults:
        sys.exit(f"seed {options.seed}: {len(faults)} faults")
    print(f"stress: {operations} operations, {next(numbers)} fibers, {started} threads, "
          f"{len(left)} left")  # fmt: skip


if __name__ == "__main__":
    main()
