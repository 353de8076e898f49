# SPDX-License-Identifier: MIT
"""Libraries written in C, Rust and Cython, on fibers that move between threads: `make libraries`.

Each is fetched from the package registry into the cache, as a built package; one that there is
none of for a Python is skipped, and so is what this machine cannot build. On this Python, or on
those that LIBRARIES names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

from interpreters import environment
from kfiber.cache import cache as cache_folder
from kfiber.cache import locked

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
VERSIONS = os.environ.get("LIBRARIES", HERE).split()

pytestmark = [pytest.mark.once, pytest.mark.timeout(1200)]

PRELUDE = """
import kfiber, sys, threading
def away():
    kfiber.root().switch()
def interleave(*functions, move=True):
    '''What they return. All begin before one is resumed; `move`: two threads take turns.'''
    fibers = [kfiber.Fiber(function) for function in functions]
    def turn():
        for fiber in fibers:
            if not fiber.dead:
                fiber.switch()
    while not all(fiber.dead for fiber in fibers):
        turn()
        if move:
            thread = threading.Thread(target=turn)
            thread.start()
            thread.join()
    return [fiber.result() for fiber in fibers]
def deep(level):
    '''Suspended with a deep C stack, which nobody may overwrite.'''
    if level:
        return sorted([level], key=lambda _: deep(level - 1) or level)
    away()
    away()
"""


@cache
def folder(version: str) -> Path:
    target = cache_folder() / "libraries" / version
    target.mkdir(parents=True, exist_ok=True)
    return target


@cache
def fetched(version: str, *packages: str) -> Path:
    """The Python of that version; its libraries are in folder(version)."""
    python = Path(sys.executable) if version == HERE else environment(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    with locked(folder(version).parent / f"{version}.lock"):
        have = {each.name.partition("-")[0] for each in folder(version).glob("*.dist-info")}
        if missing := [each for each in packages if each not in have]:
            done = subprocess.run(
                [*pip, "--upgrade", "--only-binary=:all:", "--target", folder(version), *missing],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                why = done.stderr.strip().splitlines()[-1]
                pytest.skip(f"Python {version}: no built {', '.join(missing)}: {why}")
    return python


@pytest.fixture(params=VERSIONS)
def run(request):
    """Runs a program on fibers with those packages; what it prints."""

    def run(program: str, *packages: str, path: Path | None = None, **settings: str) -> str:
        python = fetched(request.param, *packages)
        paths = [str(each) for each in (path, folder(request.param)) if each]
        done = subprocess.run(
            [python, "-X", "faulthandler", "-c", PRELUDE + textwrap.dedent(program)],
            env={**os.environ, "PYTHONPATH": ":".join(paths), **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.version = request.param
    return run


def test_numpy(run):
    """BLAS with threads beside suspended stacks; errstate is the fiber's own; a ufunc switches."""
    run(
        """
        import numpy as np
        matrix = np.random.default_rng(1).random((300, 300))
        inverse = np.linalg.inv(matrix)
        def invert():
            away()
            return np.array_equal(np.linalg.inv(matrix), inverse) or \\
                np.allclose(np.linalg.inv(matrix), inverse)
        def strict():
            with np.errstate(divide="raise"):
                away()
                assert np.geterr()["divide"] == "raise"
                away()
        def lenient():
            away()
            return np.geterr()["divide"]
        def ufunc():
            def add(value):
                away()
                return value + 1
            return np.frompyfunc(add, 1, 1)(np.arange(5)).sum()
        results = interleave(*[lambda: deep(100)] * 4, invert, strict, lenient, invert, ufunc)
        assert results[4:] == [True, None, "warn", True, 15], results
        """,
        "numpy",
        OPENBLAS_NUM_THREADS="4",
    )


def test_scipy(run):
    """LAPACK with threads, and functions in Python that solvers call."""
    run(
        """
        import numpy as np, scipy.integrate, scipy.linalg, scipy.optimize
        matrix = np.random.default_rng(1).random((300, 300))
        values = scipy.linalg.svdvals(matrix)
        def svd():
            away()
            return bool(np.allclose(scipy.linalg.svdvals(matrix), values))
        def minimum(place):
            def function(x):
                away()
                return (x[0] - place) ** 2
            return round(scipy.optimize.minimize(function, [0.0]).x[0], 3)
        def integral():
            # It notes its function for the thread: docs/howto/threads.md.
            def function(x):
                away()
                return x
            with kfiber.pin():
                return round(scipy.integrate.quad(function, 0, 2)[0], 6)
        results = interleave(*[lambda: deep(100)] * 4, svd, svd, lambda: minimum(1),
                             lambda: minimum(2))
        assert results[4:] == [True, True, 1, 2], results
        assert interleave(integral, integral, move=False) == [2, 2]
        """,
        "numpy",
        "scipy",
        OPENBLAS_NUM_THREADS="4",
    )


def test_lxml(run):
    """A parser's target and a function of XPath switch."""
    run(
        """
        from lxml import etree
        class Target:
            def __init__(self):
                self.seen = []
            def start(self, tag, attributes):
                self.seen.append(tag)
                away()
            def close(self):
                return self.seen
        def parse(name):
            parser = etree.XMLParser(target=Target())
            for piece in ("<a>", f"<{name}/>", f"<{name}>", f"</{name}></a>"):
                parser.feed(piece)
                away()
            return parser.close()
        def broken():
            try:
                etree.fromstring("<a><b></a>")
            except etree.XMLSyntaxError as error:
                away()
                return error.lineno
        def path():
            tree = etree.fromstring("<a><b>1</b><b>2</b></a>")
            def twice(context, value):
                away()
                return value * 2
            find = etree.XPath("f(number(b[2]))", extensions={(None, "f"): twice})
            return find(tree)
        results = interleave(lambda: parse("one"), lambda: parse("two"), broken, path, path)
        assert results == [["a", "one", "one"], ["a", "two", "two"], 1, 4.0, 4.0], results
        """,
        "lxml",
    )


def test_sqlite3(run):
    """A function of SQL switches; SQLite holds a lock of the thread meanwhile."""
    run(
        """
        import sqlite3
        def query(factor):
            base = sqlite3.connect(":memory:", check_same_thread=False)
            def times(value):
                away()
                return value * factor
            base.create_function("times", 1, times)
            base.execute("create table t (x)")
            base.executemany("insert into t values (?)", [(each,) for each in range(5)])
            away()
            with kfiber.pin():
                return [row[0] for row in base.execute("select times(x) from t")]
        results = interleave(lambda: query(2), lambda: query(3), move=False)
        assert results == [[0, 2, 4, 6, 8], [0, 3, 6, 9, 12]], results
        """
    )


def test_cffi(run):
    """Callbacks below qsort() switch."""
    run(
        """
        import cffi
        ffi = cffi.FFI()
        ffi.cdef("void qsort(void *, size_t, size_t, int (*)(const void *, const void *));")
        library = ffi.dlopen(None)
        def sort(sign):
            @ffi.callback("int(const void *, const void *)")
            def compare(a, b):
                away()
                a, b = ffi.cast("int *", a)[0], ffi.cast("int *", b)[0]
                return sign * ((a > b) - (a < b))
            numbers = ffi.new("int[]", [3, 1, 4, 1, 5, 9, 2, 6])
            library.qsort(numbers, len(numbers), ffi.sizeof("int"), compare)
            return list(numbers)
        results = interleave(lambda: sort(1), lambda: sort(-1))
        assert results == [[1, 1, 2, 3, 4, 5, 6, 9], [9, 6, 5, 4, 3, 2, 1, 1]], results
        """,
        "cffi",
    )


def test_ctypes(run):
    """The same with ctypes; errno's copy belongs to the thread."""
    run(
        """
        import ctypes
        kind = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.POINTER(ctypes.c_int)] * 2)
        qsort = ctypes.CDLL(None).qsort
        def sort(sign):
            def compare(a, b):
                away()
                return sign * ((a[0] > b[0]) - (a[0] < b[0]))
            numbers = (ctypes.c_int * 8)(3, 1, 4, 1, 5, 9, 2, 6)
            qsort(numbers, ctypes.c_size_t(8), ctypes.c_size_t(4), kind(compare))
            return list(numbers)
        results = interleave(lambda: sort(1), lambda: sort(-1))
        assert results == [[1, 1, 2, 3, 4, 5, 6, 9], [9, 6, 5, 4, 3, 2, 1, 1]], results
        """
    )


CYTHON = """
# cython: language_level=3
cdef extern from *:
    '''
    typedef long (*step_t)(void *, long);
    static long walk(step_t step, void *data, long n) {
        volatile char used[4096];
        long one, others;
        used[0] = 0;
        if (!n)
            return 0;
        one = step(data, n);
        others = one == -1 ? -1 : walk(step, data, n - 1);
        return others == -1 ? -1 : one + others + used[0];
    }
    '''
    ctypedef long (*step_t)(void *, long) except? -1 with gil
    long walk(step_t step, void *data, long n) except? -1 nogil

cdef long step(void *data, long n) except? -1 with gil:
    return (<object>data)(n)

def total(function, long n):
    cdef void *data = <void *>function
    cdef long result
    with nogil:
        result = walk(step, data, n)
    return result

def generate(function, n):
    for each in range(n):
        yield function(each)

cdef class Held:
    cdef object function
    def __init__(self, function):
        self.function = function
    def __lt__(self, other):
        return self.function(other)
"""


def test_cython(run, tmp_path):
    """Callbacks that take the GIL again, generators and special methods switch."""
    source = tmp_path / "walker.pyx"
    source.write_text(CYTHON)
    (tmp_path / "setup.py").write_text(
        "from setuptools import Extension, setup\n"
        "from Cython.Build import cythonize\n"
        "setup(ext_modules=cythonize([Extension('walker', ['walker.pyx'])], quiet=True))\n"
    )
    python = fetched(run.version, "cython", "setuptools")
    done = subprocess.run(
        [python, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(folder(run.version))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"Python {run.version}: Cython built nothing: {done.stderr.strip()[-300:]}")
    run(
        """
        import walker
        def total(factor):
            def step(n):
                away()
                return n * factor
            return walker.total(step, 20)
        def generate(factor):
            def step(n):
                away()
                return n * factor
            return list(walker.generate(step, 4))
        def compare():
            def less(other):
                away()
                return True
            return walker.Held(less) < walker.Held(less)
        def fail():
            def step(n):
                away()
                return 1 // (n - 5)
            try:
                walker.total(step, 20)
            except ZeroDivisionError:
                return "raised"
        results = interleave(lambda: total(1), lambda: total(2), lambda: generate(3), compare, fail)
        assert results == [210, 420, [0, 3, 6, 9], True, "raised"], results
        """,
        path=tmp_path,
    )


def test_pydantic(run):
    """Validators switch, on one thread, since PyO3 counts per thread; endless ones are refused."""
    run(
        """
        import pydantic
        class Model(pydantic.BaseModel):
            number: int
            inner: list["Model"] = []
            @pydantic.field_validator("number")
            @classmethod
            def check(cls, value):
                away()
                if value < 0:
                    raise ValueError("below 0")
                return value + 1
        def validate(number):
            model = Model(number=number, inner=[{"number": number * 10}, {"number": number * 20}])
            away()
            return model.number, [each.number for each in model.inner], Model(number=0).number
        def invalid():
            try:
                Model(number=1, inner=[{"number": -1}])
            except pydantic.ValidationError as error:
                return error.errors()[0]["loc"]
        class Endless(pydantic.BaseModel):
            number: int
            @pydantic.field_validator("number")
            @classmethod
            def check(cls, value):
                return Endless(number=value).number
        def endless():
            try:
                Endless(number=1)
            except (RecursionError, pydantic.ValidationError) as error:
                return True
        tests = lambda: validate(1), lambda: validate(2), invalid, endless
        results = interleave(*tests, move=False)
        assert results[:2] == [(2, [11, 21], 1), (3, [21, 41], 1)], results
        assert results[2:] == [("inner", 0, "number"), True], results
        """,
        "pydantic",
    )


def test_orjson(run):
    """`default` switches."""
    run(
        """
        import orjson
        class Thing:
            def __init__(self, value):
                self.value = value
        def dump(value):
            def default(thing):
                away()
                return {"value": thing.value}
            return orjson.loads(orjson.dumps([Thing(value), Thing(value + 1)], default=default))
        results = interleave(lambda: dump(1), lambda: dump(5), lambda: deep(50))
        assert results[:2] == [[{"value": n}, {"value": n + 1}] for n in (1, 5)], results
        """,
        "orjson",
    )


def test_cryptography(run):
    """Keys, signatures and contexts of ciphers and digests, half-way through at each switch."""
    run(
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.fernet import Fernet
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        import hashlib
        def digest(text):
            state = hashes.Hash(hashes.SHA256())
            for _ in range(5):
                state.update(text)
                away()
            return state.finalize() == hashlib.sha256(text * 5).digest()
        def cipher(text):
            made = Cipher(algorithms.AES(b"k" * 32), modes.CTR(b"n" * 16))
            writer, reader, got = made.encryptor(), made.decryptor(), b""
            for _ in range(5):
                got += reader.update(writer.update(text))
                away()
            return got == text * 5
        def sign():
            key = rsa.generate_private_key(65537, 2048)
            away()
            signature = key.sign(b"text", padding.PKCS1v15(), hashes.SHA256())
            away()
            key.public_key().verify(signature, b"text", padding.PKCS1v15(), hashes.SHA256())
            other = ed25519.Ed25519PrivateKey.generate()
            away()
            try:
                other.public_key().verify(other.sign(b"text"), b"another")
            except InvalidSignature:
                return True
        def token():
            box = Fernet(Fernet.generate_key())
            made = box.encrypt(b"text")
            away()
            return box.decrypt(made) == b"text"
        results = interleave(lambda: digest(b"one"), lambda: digest(b"two"),
                             lambda: cipher(b"a" * 100), sign, token, lambda: deep(100))
        assert results[:5] == [True] * 5, results
        """,
        "cryptography",
    )
