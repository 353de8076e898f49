# SPDX-License-Identifier: MIT
"""Fiber as a class: subclasses, and what help() says of it and of the rest."""

import abc
import ast
import inspect
from pathlib import Path

import pytest

import kfiber
import kfiber._native
from kfiber import Fiber, FiberError

STUB = Path(kfiber.__file__).with_name("_native.pyi")


class Worker(Fiber):
    def __init__(self, number, *, extra=0):
        super().__init__(self.work, 1, name=f"worker {number}")
        self.number = number + extra

    def work(self, one):
        return self.number + one


def test_a_subclass_with_its_own_init():
    worker = Worker(3, extra=10)
    assert (worker.name, worker.state) == ("worker 3", "new")
    assert worker.switch() == 14


def test_a_subclass_with_its_own_new():
    class Given(Fiber):
        def __new__(cls, number):
            return super().__new__(cls, lambda: number)

        def __init__(self, number):
            self.number = number

    assert Given(5).switch() == 5


def test_a_subclass_of_a_subclass():
    class Special(Worker):
        def __init__(self):
            super().__init__(7)

    assert Special().switch() == 8


def test_an_init_that_forgets_ours():
    class Forgetful(Fiber):
        def __init__(self, target):
            self.mine = target

    fiber = Forgetful(print)
    for use in (fiber.switch, lambda: fiber.throw(ValueError()), lambda: fiber.stats):
        with pytest.raises(FiberError, match=r"Forgetful must call super\(\)\.__init__"):
            use()
    assert (fiber.name, fiber.id, fiber.parent, fiber.frame) == ("", 0, None, None)
    assert "not made" in repr(fiber)
    fiber.name = "named"
    assert fiber not in kfiber.fibers()
    with pytest.raises(ValueError, match="own ancestor"):
        Fiber.__init__(fiber, print, parent=fiber)
    # It is not too late.
    Fiber.__init__(fiber, lambda: "late")
    assert fiber.switch() == "late"


def test_an_init_that_calls_ours_twice():
    class Twice(Fiber):
        def __init__(self):
            super().__init__(print)
            super().__init__(print)

    with pytest.raises(RuntimeError, match="twice"):
        Twice()
    worker = Worker(1)
    assert worker.switch() == 2
    with pytest.raises(RuntimeError, match="twice"):
        Worker.__init__(worker, 1)


def test_an_init_that_fails_and_tries_again():
    class Stubborn(Fiber):
        def __init__(self):
            for arguments in ((), (5,), (print, "too", "much"), (lambda: "well",)):
                try:
                    super().__init__(*arguments, name=None if arguments else 5)
                except TypeError:
                    continue
                break

    assert Stubborn().state == "new"
    with pytest.raises(TypeError):
        Worker()
    with pytest.raises(TypeError, match="needs a target"):
        Fiber()


def test_an_abstract_class():
    class Abstract(Fiber, abc.ABC):
        @abc.abstractmethod
        def run(self): ...

    class Concrete(Abstract):
        def __init__(self):
            super().__init__(self.run)

        def run(self):
            return "ran"

    with pytest.raises(TypeError, match="abstract"):
        Abstract(print)
    assert Concrete().switch() == "ran"


def parameters(function):
    """Names and kinds as the stub has them, without `self` and `cls`."""
    arguments = function.args
    found = [(each.arg, "POSITIONAL_ONLY") for each in arguments.posonlyargs]
    found += [(each.arg, "POSITIONAL_OR_KEYWORD") for each in arguments.args]
    if arguments.vararg:
        found.append((arguments.vararg.arg, "VAR_POSITIONAL"))
    found += [(each.arg, "KEYWORD_ONLY") for each in arguments.kwonlyargs]
    if arguments.kwarg:
        found.append((arguments.kwarg.arg, "VAR_KEYWORD"))
    return [each for each in found if each[0] not in ("self", "cls")]


def documented():
    """(path, node of the stub) of all that the stub documents."""
    for node in ast.parse(STUB.read_text()).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        yield node.name, node
        for each in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(each, ast.FunctionDef) and not any(
                ast.unparse(mark).endswith("setter") for mark in each.decorator_list
            ):
                yield f"{node.name}.{each.name}", each


def test_each_docstring_and_signature_is_there_at_run_time():
    checked = 0
    for path, node in documented():
        name, _, member = path.partition(".")
        thing = getattr(kfiber._native, name)
        if member and member != "__new__":
            thing = getattr(thing, member)
        text = inspect.cleandoc(ast.get_docstring(node) or "")
        # What object has anyway is inherited.
        if text:
            assert text in inspect.cleandoc(thing.__doc__), path
            checked += 1
        marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", [])]
        inherited = member.startswith("__") and member not in ("__new__", "__enter__", "__exit__")
        if isinstance(node, ast.FunctionDef) and "property" not in marks and not inherited:
            seen = [
                (each.name, each.kind.name)
                for each in inspect.signature(thing).parameters.values()
                if each.name != "self"
            ]
            assert seen == parameters(node), path
            checked += 1
    assert checked > 40
