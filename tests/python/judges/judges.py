# SPDX-License-Identifier: MIT
"""What was written for greenlet, over kfiber.greenlet: `make judges`.

Each comes from the package registry, in the release that is pinned here, and is run over greenlet
and over kfiber.greenlet in the same run: nothing may be worse. On all Pythons that are here; with
KFIBER_JUDGES=short on this one, without what takes long.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from interpreters import VERSIONS, environment

PINS = (
    "aiosqlite==0.22.1",
    "anyio==4.16.0",
    "cffi==2.1.1",
    "gevent==26.9.0",
    "greenback==1.3.0",
    "greenlet==3.5.6",
    "gunicorn==27.0.1",
    "objgraph==3.7.0",
    "psutil==7.2.2",
    "setuptools<80",
    "sqlalchemy==2.1.9",
    "trio==0.35.0",
)
SHORT = os.environ.get("KFIBER_JUDGES") == "short"
if SHORT:
    VERSIONS = (f"{sys.version_info.major}.{sys.version_info.minor}",)

pytestmark = pytest.mark.once

# greenlet's own tests are a part of its package: `greenlet.tests` is looked for there too.
SITE = """\
import sys
ours = sys.modules.get("kfiber.greenlet")
if ours:
    import sysconfig
    ours.__path__.append(sysconfig.get_path("platlib") + "/greenlet")
"""

# Prints which tests failed, as JSON, in its last line.
UNITTEST = """\
import json, sys, unittest
suite = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:])
result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(suite)
failed = {test.id().split(" ")[0] for test, _ in result.failures + result.errors}
failed |= {test.id().split(" ")[0] for test in result.unexpectedSuccesses}
print(json.dumps([result.testsRun, sorted(failed)]))
"""


class Done(NamedTuple):
    """How a program ended; "late" after its time."""

    status: int | str
    output: str


@cache
def judged(version: str) -> Path:
    """The Python of that version with what is judged."""
    python = environment(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PINS]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"Python {version}: pip could not fetch them: {done.stderr.strip()[-300:]}")
    return python


def run(
    python: Path, folder: Path, ours: bool, *words: object, timeout: int, **settings: str
) -> Done:
    """A program over greenlet or over `ours`."""
    (folder / "sitecustomize.py").write_text(SITE)
    chosen = {"KFIBER_GREENLET": str(int(ours)), "PYTHONPATH": str(folder)}
    try:
        done = subprocess.run(
            [str(python), "-X", "faulthandler", *map(str, words)],
            cwd=folder,
            env={**os.environ, "KFIBER_ENGINE": "local", **chosen, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        output = late.stdout or ""
        return Done("late", output if isinstance(output, str) else output.decode(errors="replace"))
    return Done(done.returncode, done.stdout)


def modules(python: Path, package: str) -> list[str]:
    """The test modules of a package there."""
    program = f"import pathlib, {package}.tests as t; print(pathlib.Path(t.__file__).parent)"
    folder = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return sorted(path.stem for path in Path(folder.stdout.strip()).glob("test_*.py"))


# What greenlet's own suite asks for and cannot be had.
STACK_COPY = "a stack is never copied, so that copying cannot fail and nothing is saved elsewhere"
NO_LEAK = "it expects a leak, and there is none: a thread ends what was dropped before it goes"
EXPECTED = {
    "test_greenlet.TestBrokenGreenlets.test_failed_to_initialstub": STACK_COPY,
    "test_greenlet.TestBrokenGreenlets.test_failed_to_slp_switch_into_running": STACK_COPY,
    "test_greenlet.TestBrokenGreenlets.test_failed_to_switch_into_running": STACK_COPY,
    "test_stack_saved.Test.test_stack_saved": STACK_COPY,
    "test_leaks.TestLeaks.test_issue251_issue252_explicit_reference_not_collectable": NO_LEAK,
    "test_leaks.TestLeaks.test_issue251_issue252_need_to_collect_in_background": NO_LEAK,
    "test_leaks.TestLeaks"
    ".test_issue251_issue252_need_to_collect_in_background_cleanup_disabled": NO_LEAK,
    "test_interpreter_shutdown.TestInterpreterShutdown.test_switch_no_error_at_module_gc_time": (
        "once the interpreter ends only the thread state that ends it may run, and a greenlet has "
        "one of its own"
    ),
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("version", VERSIONS)
def test_greenlets_own_suite(version, tmp_path):
    """Every test passes but those above, which fail."""
    python = judged(version)
    names = [f"greenlet.tests.{name}" for name in modules(python, "greenlet")]

    def failures(ours: bool, tests: list[str]) -> set[str]:
        done = run(python, tmp_path, ours, "-c", UNITTEST, *tests, timeout=1500)
        last = done.output.rstrip().rpartition("\n")[2]
        assert last.startswith("["), f"status {done.status}\n{done.output[-5000:]}"
        count, failed = json.loads(last)
        assert count
        return {name.removeprefix("greenlet.tests.") for name in failed}

    failed = failures(True, names)
    assert set(EXPECTED) <= failed, "these pass now: take them out of the list"
    others = failed - set(EXPECTED)
    if others:
        # Some measure memory, or time, of which there is little: once more, by themselves.
        names = [f"greenlet.tests.{name}" for name in others]
        worse = failures(True, names) - failures(False, names)
        assert not worse


# Modules of gevent's suite that take more than five seconds, or time what a busy machine delays.
SLOW = {
    "test__issues461_471",
    "test__makefile_ref",
    "test__memleak",
    "test__monkey_fork_atomic",
    "test__monkey_module_run",
    "test__pool",
    "test__socket",
    "test__ssl",
    "test__subprocess",
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("loop", ["libev"] if SHORT else ["libev", "libuv"])
@pytest.mark.parametrize("version", VERSIONS)
def test_gevents_suite(version, loop, tmp_path):
    """No module ends worse than over greenlet, in three attempts."""
    python = judged(version)
    settings = {"GEVENT_LOOP": f"{loop}-cext" if loop == "libev" else f"{loop}-cffi"}
    settings |= {"GEVENTTEST_USE_RESOURCES": "-network", "GEVENT_RESOLVER": "thread"}

    def ends_well(ours: bool, name: str) -> bool:
        words = ("-m", f"gevent.tests.{name}")
        return run(python, tmp_path, ours, *words, timeout=300, **settings).status == 0

    names = [name for name in modules(python, "gevent") if not (SHORT and name in SLOW)]
    bad = [name for name in names if not ends_well(True, name)]
    assert len(bad) < len(names) / 5, "something that all of them need is missing"
    worse = [
        name
        for name in bad
        if ends_well(False, name) and not (ends_well(True, name) or ends_well(True, name))
    ]
    print(f"{len(names)} modules, {len(bad)} failed, {len(worse)} of them over kfiber alone")
    assert not worse


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Gives the folder of a project's sources, which have its tests."""

    @cache
    def fetch(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        (pin,) = (pin for pin in PINS if pin.startswith(f"{name}=="))
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder]
        command += ["--no-binary", name, pin]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = list(folder.glob(f"{name}-*.tar.gz"))
        if done.returncode or not archives:
            pytest.skip(f"the sources of {name}: {done.stderr.strip()[-300:]}")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(folder, filter="data")
        return folder / archives[0].name.removesuffix(".tar.gz")

    return fetch


# The options of pytest, the folder of the tests, and how many there are at least.
SUITES = {
    "greenback": ((), "greenback/_tests", 30),
    "sqlalchemy": (("-c", "setup.cfg", "--db", "aiosqlite"), "test/ext/asyncio", 200),
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name in SUITES if not (SHORT and name == "sqlalchemy")])
@pytest.mark.parametrize("version", VERSIONS)
def test_suite(version, name, sources, tmp_path):
    """Each test of SQLAlchemy's for asyncio, over aiosqlite, and of greenback's ends the same."""
    python, folder = judged(version), sources(name)
    options, tests, least = SUITES[name]
    words = ["-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--rootdir", folder]
    words += [folder / word if word == "setup.cfg" else word for word in options]

    def ends(ours: bool) -> list[str]:
        done = run(python, tmp_path, ours, *words, folder / tests, timeout=900)
        found = re.findall(r"^(?:PASSED|FAILED|ERROR) \S+::\S+", done.output, re.MULTILINE)
        assert len(found) >= least, done.output[-3000:]
        return sorted(found)

    assert ends(True) == ends(False)


APPLICATION = """\
import sys
import gevent

def app(environ, start_response):
    if environ["PATH_INFO"] == "/which":
        said = sys.modules["greenlet"].__name__
    else:
        gevent.sleep(float(environ["QUERY_STRING"] or 0))
        said = "slept"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(said)))])
    return [said.encode()]
"""


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return answer.read().decode()


@contextmanager
def gunicorn(python: Path, folder: Path, ours: bool) -> Iterator[tuple[int, int]]:
    """Its port and the process id of its worker."""
    (folder / "app.py").write_text(APPLICATION)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["-m", "gunicorn", "-k", "gevent", "--no-control-socket"]
    words += ["--bind", f"127.0.0.1:{port}", "--chdir", folder, "app:app"]
    before = ["-m", "kfiber.greenlet"] if ours else []
    with subprocess.Popen(
        [python, *before, *words], env={**os.environ, "KFIBER_ENGINE": "local"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as server:  # fmt: skip
        try:
            for line in server.stdout:
                if "Booting worker" in line:
                    break
            worker = int(line.rpartition(" ")[2])
            threading.Thread(target=server.stdout.read, daemon=True).start()
            yield port, worker
        finally:
            server.terminate()


@pytest.mark.parametrize("version", VERSIONS)
def test_gunicorn(version, tmp_path):
    """It answers as over greenlet; `kfiber ps` names the greenlets that answer."""
    python = judged(version)
    for ours in (False, True):
        with gunicorn(python, tmp_path, ours) as (port, worker):
            assert get(port, "/which") == ("kfiber.greenlet" if ours else "greenlet")
            with ThreadPoolExecutor(40) as pool:
                slow = [pool.submit(get, port, "/sleep?3") for _ in range(20)]
                assert set(pool.map(lambda _: get(port, "/sleep"), range(200))) == {"slept"}
                command = [python, "-m", "kfiber", "ps", "--json", str(worker)]
                shown = json.loads(subprocess.check_output(command)) if ours else []
                assert {each.result() for each in slow} == {"slept"}
            names = [each["name"] for each in shown]
            if ours:
                assert "Hub.run" in names
                handlers = [
                    name for name in names if re.match(r"_handle.* baseserver.py:\d+", name)
                ]
                assert len(handlers) >= 20
