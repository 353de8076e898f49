# SPDX-License-Identifier: MIT
"""Kinds of recursion, each run in a thread and in a fiber, in processes of their own.

    python recursion.py     prints a JSON object: kind -> [outcome in a thread, in a fiber]

An outcome is "ok", the name of an exception, or the name of a signal. Of a kind whose module is not
here both are "ImportError".
"""

import ast
import collections
import copy
import ctypes
import dataclasses
import email
import fnmatch
import functools
import html.parser
import io
import itertools
import json
import logging
import marshal
import operator
import os
import pickle
import pprint
import re
import signal
import sqlite3
import string
import sys
import threading
import tokenize
import types
import typing
import xml.dom.minidom
import xml.etree.ElementTree as ElementTree
import xml.sax

import kfiber

DEEP = 90_000
KINDS = {}


def kind(function):
    KINDS[function.__name__] = function
    return function


def nest(depth, wrap=lambda inner: [inner]):
    inner = wrap(None)
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def of_class(**methods):
    """A kind for each operator of a class that calls itself."""
    for name, use in methods.items():

        def run(use=use, name=name):
            return use(type("Recursive", (), {f"__{name}__": HOW[name]})())

        KINDS[f"class_{name}"] = run


HOW = {
    "getattr": lambda self, name: getattr(self, name + "x"),
    "eq": lambda self, other: [self] == [type(self)()],
    "lt": lambda self, other: sorted([type(self)(), type(self)()]) and True,
    "add": lambda self, other: type(self)() + other,
    "radd": lambda self, other: sum([type(self)()], other),
    "neg": operator.neg,
    "call": lambda self: self(),
    "index": operator.index,
    "repr": lambda self: repr([self.__class__()]),
    "str": lambda self: f"{type(self)()}",
    "format": lambda self, spec: format(type(self)(), spec),
    "hash": lambda self: hash((type(self)(),)),
    "bool": lambda self: not type(self)(),
    "len": len,
    "iter": lambda self: iter(type(self)()),
    "next": lambda self: next(self),
    "contains": lambda self, item: item in type(self)(),
    "getitem": lambda self, key: type(self)()[key],
    "enter": lambda self: type(self)().__enter__(),
    "reduce": lambda self: (type(self), (type(self)(),)),
    "instancecheck": lambda self, other: isinstance(other, self),
    "int": int,
    "round": round,
    "bytes": bytes,
    "dir": dir,
    "missing": None,
    "fspath": lambda self: os.fspath(type(self)()),
    "copy": lambda self: copy.copy(type(self)()),
}
of_class(
    getattr=lambda x: x.name,
    eq=lambda x: x == x.__class__(),
    lt=lambda x: sorted([x, x.__class__()]),
    add=lambda x: x + 1,
    radd=lambda x: 1 + x,
    neg=operator.neg,
    call=lambda x: x(),
    index=operator.index,
    repr=repr,
    str=str,
    format=lambda x: f"{x:y}",
    hash=hash,
    bool=bool,
    len=len,
    iter=iter,
    next=next,
    contains=lambda x: 1 in x,
    getitem=lambda x: x[1],
    enter=lambda x: x.__enter__(),
    reduce=pickle.dumps,
    instancecheck=lambda x: isinstance(1, x),
    int=int,
    round=round,
    bytes=bytes,
    fspath=os.fspath,
    copy=copy.copy,
)


def of_function(**functions):
    """A kind for each way in which a function comes to call itself; it gets that function."""
    for name, through in functions.items():

        def run(through=through):
            def again(*_):
                return through(again)

            return again()

        KINDS[f"through_{name}"] = run


class Node:
    def __init__(self, inner=None):
        self.inner = inner


def parse_xml(again):
    class Target:
        def start(self, tag, attributes):
            again()

        def close(self):
            pass

    parser = ElementTree.XMLParser(target=Target())
    parser.feed("<a></a>")
    parser.close()


def query(again):
    connection = sqlite3.connect(":memory:")
    connection.create_function("f", 1, again)
    return connection.execute("select f(1)").fetchall()


def log(again):
    class Handler(logging.Handler):
        def emit(self, record):
            again()

    logger = logging.Logger("x")
    logger.addHandler(Handler())
    logger.warning("x")


def make_class(again):
    class Base:
        def __init_subclass__(cls):
            again()

    type("Derived", (Base,), {})


def read_property(again):
    return type("Has", (), {"x": property(again)})().x


def parse_html(again):
    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            again()

    Parser().feed("<a>")


def walk_tree(again):
    class Visitor(ast.NodeVisitor):
        def visit_Constant(self, node):
            again()

    Visitor().visit(ast.parse("1"))


def trace(again):
    sys.settrace(again)
    try:
        (lambda: None)()
        return again()
    finally:
        sys.settrace(None)


def call_back(again):
    # An object as its result would be any word of the stack where the callback failed.
    call = ctypes.PYFUNCTYPE(None, ctypes.c_int)(again)
    return call(1)


def compare_in_c(again):
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    array = (ctypes.c_int * 2)(1, 2)
    failed = []

    def order(a, b):
        try:
            again()
        except RecursionError as error:
            failed.append(error)
        return 0

    ctypes.CDLL(None).qsort(array, 2, 4, compare(order))
    if failed:
        raise failed[0]


of_function(
    itself=lambda again: again(),
    map=lambda again: list(map(again, [1])),
    filter=lambda again: list(filter(again, [1])),
    sort_key=lambda again: sorted([1], key=again),
    max_key=lambda again: max([1, 2], key=again),
    reduce=lambda again: functools.reduce(lambda a, b: again(), [1, 2]),
    cmp_to_key=lambda again: sorted([1, 2], key=functools.cmp_to_key(lambda a, b: again())),
    partial=lambda again: functools.partial(again, 1)(),
    lru_cache=lambda again: functools.lru_cache(None)(again)(),
    singledispatch=lambda again: functools.singledispatch(again)(1),
    regex_sub=lambda again: re.sub("a", again, "a"),
    exec=lambda again: exec("again()", {"again": again}),
    eval=lambda again: eval("again()", {"again": again}),
    generator=lambda again: list(again() for _ in [1]),  # noqa: C400
    comprehension=lambda again: [again() for _ in [1]],
    json_default=lambda again: json.dumps(object(), default=again),
    json_hook=lambda again: json.loads('{"a": 1}', object_hook=again),
    defaultdict=lambda again: collections.defaultdict(again)[1],
    xml=parse_xml,
    sql=query,
    logging=log,
    init_subclass=make_class,
    property=read_property,
    html=parse_html,
    visitor=walk_tree,
    ctypes=call_back,
    qsort=compare_in_c,
    groupby=lambda again: list(itertools.groupby([1], again)),
    accumulate=lambda again: list(itertools.accumulate([1, 2], again)),
    starmap=lambda again: list(itertools.starmap(again, [(1,)])),
    takewhile=lambda again: list(itertools.takewhile(again, [1])),
    iter_callable=lambda again: list(zip(iter(again, 1), [1], strict=False)),
    import_again=lambda again: __import__("os") and again(),
    namedtuple=lambda again: collections.namedtuple("N", "a")(again()),
    template=lambda again: string.Template("$a").substitute({"a": again()}),
    new_class=lambda again: types.new_class("N", (), {}, again),
    attrgetter=lambda again: operator.attrgetter("x")(type("Has", (), {"x": property(again)})()),
    methodcaller=lambda again: operator.methodcaller("m")(type("Has", (), {"m": again})()),
    weak_type=lambda again: type("Has", (), {"__init__": again})(),
    metaclass=lambda again: type("Meta", (type,), {"__call__": again})("C", (), {})(),
    descriptor=lambda again: type("Has", (), {"x": type("D", (), {"__get__": again})()})().x,
    del_=lambda again: type("Dies", (), {"__call__": again})()(),
    trace=trace,
)


def of_data(**uses):
    for name, use in uses.items():
        KINDS[f"data_{name}"] = use


def lists():
    return nest(DEEP)


def tuples():
    return nest(DEEP, lambda inner: (inner,))


def elements():
    root = inner = ElementTree.Element("a")
    for _ in range(5000):
        inner = ElementTree.SubElement(inner, "a")
    return root


@dataclasses.dataclass
class Linked:
    inner: object


of_data(
    repr=lambda: repr(lists()),
    dict_repr=lambda: repr(nest(DEEP, lambda inner: {1: inner})),
    equal=lambda: lists() == lists(),
    hash=lambda: hash(tuples()),
    json=lambda: json.dumps(lists()),
    json_indent=lambda: json.dumps(nest(2000), indent=1),
    json_loads=lambda: json.loads("[" * DEEP),
    json_dicts=lambda: json.loads('{"a":' * DEEP),
    pickle=lambda: pickle.dumps(lists()),
    marshal=lambda: marshal.dumps(tuples()),
    deepcopy=lambda: copy.deepcopy(nest(9000)),
    pprint=lambda: pprint.pformat(nest(2000)),
    percent=lambda: "%s" % lists(),  # noqa: UP031
    isinstance=lambda: isinstance(1, nest(5000, lambda inner: (inner or str,))),
    issubclass=lambda: issubclass(int, nest(5000, lambda inner: (inner or str,))),
    dealloc_list=lambda: nest(300_000) and None,
    dealloc_tuple=lambda: nest(300_000, lambda inner: (inner,)) and None,
    dealloc_dict=lambda: nest(100_000, lambda inner: {1: inner}) and None,
    dealloc_object=lambda: nest(100_000, Node) and None,
    dealloc_closure=lambda: nest(50_000, lambda inner: lambda: inner) and None,
    dealloc_partial=lambda: nest(50_000, lambda inner: functools.partial(print, inner)) and None,
    dealloc_iterator=lambda: nest(50_000, lambda inner: iter([inner])) and None,
    dataclass_repr=lambda: repr(nest(5000, Linked)),
    dataclass_equal=lambda: nest(5000, Linked) == nest(5000, Linked),
    asdict=lambda: dataclasses.asdict(nest(2000, Linked)),
    element_string=lambda: ElementTree.tostring(elements()),
    element_copy=lambda: copy.deepcopy(elements()),
    element_iter=lambda: sum(1 for _ in elements().iter()),
    minidom=lambda: xml.dom.minidom.parseString("<a>" * 3000 + "</a>" * 3000).toxml(),
    sax=lambda: xml.sax.parseString("<a>" * 9000 + "</a>" * 9000, xml.sax.ContentHandler()),
    chain_iter=lambda: list(nest(20_000, lambda inner: itertools.chain(inner or []))),
    map_iter=lambda: list(nest(20_000, lambda inner: map(str, inner or []))),
    zip_iter=lambda: list(nest(20_000, lambda inner: zip(inner or [], strict=True))),
    union=lambda: typing.Union[tuple(nest(10, lambda inner: list[inner]) for _ in range(3))],  # noqa: UP007
    exception_chain=lambda: nest(50_000, lambda inner: with_cause(inner)) and None,
    compile_minus=lambda: compile("-" * DEEP + "1", "x", "eval"),
    compile_minus_some=lambda: compile("-" * 3000 + "1", "x", "eval"),
    compile_parens=lambda: compile("(" * 199 + ")" * 199, "x", "eval"),
    compile_lists=lambda: compile("[" * 190 + "]" * 190, "x", "eval"),
    compile_plus=lambda: compile("+".join(["a"] * 5000), "x", "eval"),
    compile_attributes=lambda: compile("a" + ".b" * 5000, "x", "eval"),
    compile_lambda=lambda: compile("lambda:" * 900 + "1", "x", "eval"),
    compile_elif=lambda: compile("if 1: pass\n" + "elif 1: pass\n" * 2900, "x", "exec"),
    compile_if=lambda: compile(
        "".join(" " * i + "if 1:\n" for i in range(95)) + " " * 95 + "pass", "x", "exec"
    ),
    literal_eval=lambda: ast.literal_eval("-" * 3000 + "1"),
    unparse=lambda: ast.unparse(ast.parse("-" * 500 + "1")),
    dump=lambda: ast.dump(ast.parse("-" * 800 + "1")),
    regex_match=lambda: re.match("(?:a|b)*?c", "ab" * DEEP),
    regex_compile=lambda: re.compile("(" * 3000 + ")" * 3000),
    regex_greedy=lambda: re.match("(?:(?:a)|b)*c", "ab" * DEEP),
    fnmatch=lambda: fnmatch.fnmatch("a" * 200, "*a" * 15),
    tokenize=lambda: list(tokenize.generate_tokens(io.StringIO("(" * 90 + ")" * 90).readline)),
    email=lambda: email.message_from_string("Content-Type: multipart/mixed; boundary=a\n\n" * 500),
    printf=lambda: "%.300f" % 1e300,  # noqa: UP031
    digits=lambda: str(7**4000),
    numpy_inverse=lambda: numpy_inverse(),
    pydantic=lambda: pydantic_validator(),
    lxml=lambda: lxml_tree(),
)


def with_cause(inner):
    error = ValueError()
    error.__cause__ = inner
    return error


def numpy_inverse():
    import numpy

    return numpy.linalg.inv(numpy.random.rand(300, 300))


def pydantic_validator():
    import pydantic

    class Model(pydantic.BaseModel):
        a: int

        @pydantic.field_validator("a")
        @classmethod
        def check(cls, value):
            return Model(a=value)

    return Model(a=1)


def lxml_tree():
    import lxml.etree

    return lxml.etree.tostring(lxml.etree.fromstring("<a>" * 200 + "</a>" * 200))


del KINDS["class_next"]  # `next` of a class without __iter__ says nothing more than __call__


def outcome(run):
    try:
        run()
    except BaseException as error:
        return type(error).__name__
    return "ok"


def in_thread(run):
    found = []
    thread = threading.Thread(target=lambda: found.append(outcome(run)))
    thread.start()
    thread.join()
    return found[0]


def in_fiber(run):
    return kfiber.Fiber(outcome, run).switch()


def apart(how, run):
    """The outcome in a process of its own, which may die."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        # What the child says about its end belongs to nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(writing, how(run).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    _, status = os.waitpid(pid, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else text


if __name__ == "__main__":
    # A thread's stack, where a limit of the shell does not say otherwise.
    threading.stack_size(8 << 20)
    names = sys.argv[1:] or sorted(KINDS)
    print(
        json.dumps(
            {name: [apart(how, KINDS[name]) for how in (in_thread, in_fiber)] for name in names}
        )
    )
