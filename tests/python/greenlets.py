# SPDX-License-Identifier: MIT
"""What programs do with greenlets, and what comes out: test_drop_in.py runs it over both kinds.

greenlets.py SCENARIO
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import ctypes
import gc
import pickle
import re
import sys
import threading
import time
import weakref

if "KFIBER" in sys.argv:
    import kfiber.greenlet

    kfiber.greenlet.install()

import greenlet
from greenlet import GreenletExit, getcurrent
from greenlet import greenlet as Greenlet

Variable = contextvars.ContextVar("Variable", default=0)


def say(*what):
    print(*(re.sub(r"0x\w+|\(nil\)", "PLACE", repr(each)) for each in what), flush=True)


def tried(function, *args, **kwargs):
    """Its value or its exception."""
    try:
        return function(*args, **kwargs)
    except BaseException as error:
        return type(error), str(error)


def echo(*args, **kwargs):
    """Sends to its parent what it gets, until that is "end"."""
    got = args, kwargs
    while got != "end":
        try:
            got = getcurrent().parent.switch(got)
        except ZeroDivisionError as error:
            got = "thrown", str(error), type(error.__context__)
    return "ended"


def flags(g):
    return bool(g), g.dead, g.gr_frame is None, g._stack_saved > 0


def life():
    g = Greenlet(echo)
    say(g, flags(g), g.run is echo, g.parent is getcurrent(), hash(g) == hash(g))
    say(g.switch(1, 2, three=3), g, flags(g), tried(getattr, g, "run"), tried(setattr, g, "run", 1))
    say(g.gr_frame.f_code.co_name, g.gr_frame.f_back is None, g.gr_context)
    for sent in [(), (1,), (1, 2), ((1,),), (None,)]:
        say(g.switch(*sent), g.switch(*sent, key=1))
    say(g.switch(key=1), g.switch(), g.throw(ZeroDivisionError("by hand")))
    say(
        g.throw(ZeroDivisionError),
        g.throw(ZeroDivisionError, "text"),
        g.throw(ZeroDivisionError, None),
    )
    say(g.switch("end"), g, flags(g), g.switch(), g.switch(1), g.switch(1, 2), g.switch(1, a=2))
    say(g.throw(), g.throw(GreenletExit("x")), tried(g.throw, ValueError("dead")))
    say(tried(g.throw, 1), tried(g.throw, ValueError("x"), 2), tried(g.throw, ValueError, 1, 2))
    main = getcurrent()
    say(main, flags(main), main.switch(4), main.switch(4, b=5), tried(main.throw, ValueError("me")))
    say(main.parent, tried(getattr, main, "run"), tried(setattr, main, "run", 1))
    say(
        tried(setattr, main, "parent", g),
        tried(setattr, g, "parent", None),
        tried(delattr, g, "parent"),
    )
    say(
        tried(pickle.dumps, g),
        tried(copy.copy, g),
        tried(Greenlet, 1, 2, 3),
        tried(Greenlet, parent=1),
    )
    say(tried(Greenlet().switch), tried(Greenlet(1).switch), tried(Greenlet(None).switch))
    say(Greenlet.__mro__, Greenlet.getcurrent() is main, Greenlet.GreenletExit, Greenlet.error)
    say(isinstance(GreenletExit(), Exception), greenlet.error.__mro__)


def parents():
    main = getcurrent()
    order = []

    def child(name, error=None):
        order.append(name)
        if error:
            raise error
        return name

    # The dead are passed over, the new are started with what comes.
    dead = Greenlet(child)
    say(dead.switch("dead"))
    new = Greenlet(child, dead)
    say(Greenlet(child, new).switch("value"), new.dead, order)
    say(tried(Greenlet(child, Greenlet(child)).switch, "error", ValueError("up")), order)
    say(Greenlet(child).switch("exit", GreenletExit("as a value")), order)
    say(tried(Greenlet(child, Greenlet()).switch, "no run above"))
    a, b = Greenlet(echo), Greenlet(echo)
    a.parent = b
    say(tried(setattr, b, "parent", a), tried(setattr, a, "parent", 3), a.parent is b)
    # The parent can change while it runs.
    c = Greenlet(echo)
    c.switch()
    g = Greenlet(lambda: setattr(getcurrent(), "parent", c) or "to c")
    say(g.switch(), c.dead)
    say(getcurrent() is main)


def killed():
    log = []

    def target(name, again=None):
        try:
            main.switch(name)
        except GreenletExit as error:
            log.append((name, str(error), getcurrent().parent is main))
            if again:
                log.append(again.switch(name))
            raise

    main = getcurrent()
    g = Greenlet(target)
    say(g.switch("dropped"))
    reference = weakref.ref(g)
    del g
    say(log, reference())
    g = Greenlet(target, parent=Greenlet(lambda: 0))
    g.parent.parent = main
    say(g.switch("its parent is new"), log)
    del g
    say(log)
    helper = Greenlet(echo)
    helper.switch()
    g = Greenlet(target)
    g.switch("switches", helper)
    del g
    say(log)

    def never():
        while True:
            with contextlib.suppress(GreenletExit):
                main.switch()

    sys.stderr = sys.stdout
    g = Greenlet(never)
    g.switch()
    del g
    # One that is active is not collected.
    g = Greenlet(echo)
    g.me = g
    g.switch()
    reference = weakref.ref(g)
    del g
    gc.collect()
    say(reference() is not None, reference().switch("end"))
    gc.collect()
    say(reference())
    # What is new is.
    g = Greenlet(echo)
    g.me = g
    reference = weakref.ref(g)
    del g
    gc.collect()
    say(reference())


def threads():
    log = []
    made, dropped, leave = threading.Event(), threading.Event(), threading.Event()
    box = []

    def target():
        try:
            getcurrent().parent.switch()
        except GreenletExit:
            log.append(("killed on", threading.current_thread().name))
            raise

    def thread():
        box.append(Greenlet(target))
        box.append(Greenlet(target))
        box.append(Greenlet(target))
        box[0].switch()
        box[2].switch()
        made.set()
        dropped.wait()
        say(log)
        getcurrent()
        say(log)
        leave.wait()

    other = threading.Thread(target=thread, name="other")
    other.start()
    made.wait()
    say(tried(box[0].switch), tried(box[0].throw), tried(box[1].switch), flags(box[0]))
    say(
        tried(setattr, Greenlet(target), "parent", box[0]),
        tried(setattr, box[0], "parent", getcurrent()),
    )
    main_of_other = box[0].parent
    say(main_of_other, tried(getattr, main_of_other, "gr_context"), main_of_other.gr_frame)
    del box[0]
    say(log)
    dropped.set()
    leave.set()
    other.join()
    # greenlet knows a little later than join().
    while not main_of_other.dead:
        time.sleep(0.001)
    say(tried(box[0].switch), box[1].dead, tried(box[1].switch), tried(box[1].throw, ValueError))
    say(main_of_other.dead, tried(main_of_other.switch), log)
    # A new one may go to another thread by its parent.
    box[0].parent = getcurrent()
    say(box[0].switch(), box[0].dead)


def tracing():
    log = []
    names = {}

    def name(g):
        return names.setdefault(g, f"g{len(names)}")

    def trace(event, args):
        log.append((event, *map(name, args)))

    name(getcurrent())
    say(greenlet.gettrace(), greenlet.settrace(trace), greenlet.gettrace() is trace)
    g = Greenlet(echo)
    g.switch(), g.switch(1), g.throw(ZeroDivisionError)
    say(log)
    getcurrent().switch()
    say(g.switch("end"), g.switch("dead"), log)
    say(tried(Greenlet(lambda: 1 / 0).switch), log)
    say(tried(Greenlet(echo).throw, KeyError), log)
    other = threading.Thread(target=lambda: say(greenlet.gettrace()))
    other.start()
    other.join()

    def failing(event, args):
        raise ValueError(event)

    greenlet.settrace(failing)
    g = Greenlet(echo)
    say(tried(g.switch), greenlet.gettrace(), g.dead)
    g = Greenlet(echo)
    g.switch()
    greenlet.settrace(failing)
    say(tried(g.switch, "into one that is suspended"), greenlet.gettrace(), g.dead)


def python_tracing():
    """A trace function that switches is not called by the others either."""
    calls = []

    def trace(frame, event, arg):
        if frame.f_code is target.__code__:
            calls.append(event)
        if frame.f_code is traced.__code__ and event == "call":
            g.switch()
        return trace

    def target():
        here.switch()
        here.switch()

    def traced():
        pass

    here, g = getcurrent(), Greenlet(target)
    sys.settrace(trace)
    traced()
    g.switch()
    sys.settrace(None)
    say(calls)


def context():
    def target():
        values = [Variable.get()]
        Variable.set(2)
        getcurrent().parent.switch(values)
        return Variable.get()

    Variable.set(1)
    g = Greenlet(target)
    say(g.gr_context, g.switch(), Variable.get(), g.gr_context[Variable])
    say(g.switch(), Variable.get(), g.gr_context[Variable])
    g = Greenlet(target)
    g.gr_context = contextvars.copy_context()
    say(g.switch(), g.switch(), tried(setattr, g, "gr_context", 1), tried(delattr, g, "gr_context"))
    g = Greenlet(target)
    say(contextvars.copy_context().run(g.switch), Variable.get())
    here = getcurrent()
    before, here.gr_context = here.gr_context, None
    say(Variable.get(), here.gr_context)
    here.gr_context = before
    say(Variable.get())
    g = Greenlet(target)
    g.switch()
    g.gr_context = before
    say(g.switch())


def classes():
    class Sub(Greenlet):
        def run(self, *args):
            return self.attribute, args, type(self).__name__

    class Meddling(Greenlet):
        meddled = False

        def __getattribute__(self, name):
            if name == "run" and not Meddling.meddled:
                Meddling.meddled = True
                say("first", self.switch("inner"))
            return super().__getattribute__(name)

        def run(self, got):
            while True:
                got = self.parent.switch(got)

    class Deleted(Greenlet):
        def __del__(self):
            say("__del__", self)

        def run(self):
            try:
                self.parent.switch()
            finally:
                say("finally")

    class Caught(Greenlet):
        def throw(self, *args):
            return "thrown", args

    sub = Sub()
    sub.attribute = 1
    say(sub.switch(2, 3), sub.__dict__, sub)
    sub.run = 5
    m = Meddling()
    say(m.switch("outer"), m.switch("again"))
    d = Deleted()
    d.switch()
    del d
    say(Caught().throw(1), tried(Greenlet.throw, Caught(), ValueError("x")))
    say(tried(setattr, sub, "__dict__", 1)[0], tried(delattr, sub, "__dict__")[0])


def api():
    """The functions that compiled modules call."""
    get = ctypes.PYFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p, ctypes.c_int)(
        ("PyCapsule_Import", ctypes.pythonapi)
    )
    table = get(b"greenlet._C_API", 0)
    py_object, c_int = ctypes.py_object, ctypes.c_int

    def function(number, result, *arguments):
        return ctypes.PYFUNCTYPE(result, *arguments)(table[number])

    types = [ctypes.cast(table[each], py_object).value for each in range(3)]
    say(
        types == [Greenlet, greenlet.error, GreenletExit],
        Greenlet.__basicsize__,
        Greenlet.__flags__ & 0x200,
    )
    new = function(3, py_object, py_object, py_object)
    current = function(4, py_object)
    throw = function(5, py_object, *[py_object] * 4)
    switch = function(6, py_object, *[py_object] * 3)
    set_parent = function(7, c_int, py_object, py_object)
    main, started, active = (function(each, c_int, py_object) for each in (8, 9, 10))
    parent = function(11, py_object, py_object)
    has_parent = function(11, ctypes.c_void_p, py_object)
    g = new(echo, getcurrent())
    say(current() is getcurrent(), parent(g) is getcurrent(), has_parent(getcurrent()))

    def state(each):
        return bool(main(each)), bool(started(each)), bool(active(each))

    say(state(g), switch(g, (1, 2), {"a": 3}), state(g), state(getcurrent()))
    say(
        throw(g, ZeroDivisionError, ZeroDivisionError("x"), None), switch(g, ("end",), {}), state(g)
    )
    say(tried(main, 1), tried(switch, 1, (), {}), tried(set_parent, g, g))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
