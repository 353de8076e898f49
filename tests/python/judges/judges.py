# SPDX-License-Identifier: MIT
"""The test suites of greenlet and of what builds on it, over kfiber.greenlet: `make judges`.

Each comes from the package registry, in the release of tools/constraints.txt, and is run over
greenlet and over kfiber.greenlet in the same run: nothing may be worse. What differs is run again
by itself, because some tests measure time, of which a busy machine has little. With
KFIBER_JUDGES=short on this Python only, without what takes long.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from interpreters import CONSTRAINTS
from judged import SHORT

pytestmark = pytest.mark.once

# Prints which tests failed, as JSON, in its last line.
UNITTEST = """\
import json, sys, unittest
suite = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:])
result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(suite)
failed = {test.id().split(" ")[0] for test, _ in result.failures + result.errors}
failed |= {test.id().split(" ")[0] for test in result.unexpectedSuccesses}
print(json.dumps([result.testsRun, sorted(failed)]))
"""


def modules(judged, package: str) -> list[str]:
    """The test modules of a package there."""
    program = f"import pathlib, {package}.tests as t; print(pathlib.Path(t.__file__).parent)"
    folder = subprocess.check_output([judged.python, "-c", program], text=True)
    return sorted(path.stem for path in Path(folder.strip()).glob("test_*.py"))


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
def test_greenlets_own_suite(judged, tmp_path):
    """Every test passes but those above, which fail."""
    judged.needs("objgraph", "psutil", "setuptools")
    names = [f"greenlet.tests.{name}" for name in modules(judged, "greenlet")]

    def failures(ours: bool, tests: list[str]) -> set[str]:
        done = judged.run(tmp_path, ours, "-c", UNITTEST, *tests, timeout=1500)
        last = done.output.rstrip().rpartition("\n")[2]
        assert last.startswith("["), f"status {done.status}\n{done.output[-5000:]}"
        count, failed = json.loads(last)
        assert count
        return {name.removeprefix("greenlet.tests.") for name in failed}

    failed = failures(True, names)
    assert set(EXPECTED) <= failed, "these pass now: take them out of the list"
    others = failed - set(EXPECTED)
    if others:
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
def test_gevents_suite(judged, loop, tmp_path):
    """No module ends worse than over greenlet, in three attempts."""
    judged.needs("cffi", "objgraph", "psutil", "setuptools")
    settings = {"GEVENT_LOOP": f"{loop}-cext" if loop == "libev" else f"{loop}-cffi"}
    settings |= {"GEVENTTEST_USE_RESOURCES": "-network", "GEVENT_RESOLVER": "thread"}

    # It has patience where gevent's authors run it on machines that others use, too.
    patience = {**settings, "GITHUB_ACTIONS": "true"}

    def ends_well(ours: bool, name: str, settings: dict[str, str] = patience) -> bool:
        words = ("-m", f"gevent.tests.{name}")
        return judged.run(tmp_path, ours, *words, **settings).status == 0

    names = [name for name in modules(judged, "gevent") if not (SHORT and name in SLOW)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ends = pool.map(lambda name: ends_well(True, name, settings), names)
        well = dict(zip(names, ends, strict=True))
    bad = [name for name in names if not well[name]]
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
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder]
        command += ["--no-binary", name, "--constraint", CONSTRAINTS, name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = list(folder.glob(f"{name}-*.tar.gz"))
        if done.returncode or not archives:
            pytest.skip(f"the sources of {name}: {done.stderr.strip()[-300:]}")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(folder, filter="data")
        return folder / archives[0].name.removesuffix(".tar.gz")

    return fetch


# pytest's words for a test that has run, and the test.
ENDED = re.compile(r"^(PASSED|FAILED|ERROR|XFAIL|XPASS) (\S+::[^\n]*?)(?: - .*)?$", re.MULTILINE)


def compare(judged, folder: Path, project: Path, words: list[object], tests: str, least: int):
    """All those tests end as over greenlet; at least so many run."""

    def ends(ours: bool, *chosen: object) -> dict[str, str]:
        done = judged.run(
            folder, ours, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider",
            "--rootdir", project, *words, *chosen, timeout=1500,
        )  # fmt: skip
        found = {test: how for how, test in ENDED.findall(done.output)}
        assert found, f"status {done.status}\n{done.output[-5000:]}"
        return found

    ours, theirs = ends(True, project / tests), ends(False, project / tests)
    assert len(theirs) >= least, theirs
    differ = {test for test in ours.keys() | theirs.keys() if ours.get(test) != theirs.get(test)}
    print(f"{len(ours)} tests, {len(differ)} of them run once more")
    assert len(differ) < 30, differ
    for test in sorted(differ):
        assert ends(True, project / test) == ends(False, project / test), test


@pytest.mark.timeout(3600)
def test_greenbacks_suite(judged, sources, tmp_path):
    judged.needs("greenback", "anyio", "trio")
    compare(judged, tmp_path, sources("greenback"), [], "greenback/_tests", 30)


@pytest.mark.timeout(3600)
@pytest.mark.skipif(SHORT, reason="takes long")
def test_sqlalchemys_suite(judged, sources, tmp_path):
    """Its tests for asyncio, over aiosqlite."""
    judged.needs("sqlalchemy", "aiosqlite")
    project = sources("sqlalchemy")
    words = ["-c", project / "setup.cfg", "--db", "aiosqlite"]
    compare(judged, tmp_path, project, words, "test/ext/asyncio", 200)


@pytest.mark.timeout(3600)
@pytest.mark.skipif(SHORT, reason="takes long")
def test_sqlalchemys_suite_with_a_server(judged, sources, postgres, tmp_path):
    """Its tests for asyncio, over asyncpg and a PostgreSQL."""
    judged.needs("sqlalchemy", "asyncpg")
    project = sources("sqlalchemy")
    words = ["-c", project / "setup.cfg", "--dburi", f"postgresql+asyncpg://{postgres}"]
    compare(judged, tmp_path, project, words, "test/ext/asyncio", 200)


@pytest.mark.timeout(3600)
@pytest.mark.skipif(SHORT, reason="takes long")
def test_eventlets_suite(judged, sources, tmp_path):
    judged.needs("eventlet")
    compare(judged, tmp_path, sources("eventlet"), [], "tests", 300)
