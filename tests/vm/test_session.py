# SPDX-License-Identifier: MIT
"""How a pytest session includes the guest's tests: tests/conftest.py in sessions of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import os, sys
import pytest

def test_here():
    assert "KFIBER_GUEST" not in os.environ

@pytest.mark.guest
class TestGuest:
    def test_there(self):
        assert os.environ["KFIBER_GUEST"] == "1"

    def test_fails(self):
        print("said before")
        assert 1 + 1 == 3, "a reason"

    def test_skips(self):
        pytest.skip("a reason to skip")

    @pytest.mark.parametrize("value", ["x/y", "\\u00fc", "a b"])
    def test_values(self, value, tmp_path):
        (tmp_path / "file").write_text(value)

    @pytest.mark.xfail(strict=True)
    def test_expected(self):
        assert False

    @pytest.mark.skipif("KFIBER_GUEST" in os.environ, reason="x")
    def test_not_there(self):
        pass

    def test_warns(self):
        with open("/dev/kmsg", "w") as log:
            log.write("WARNING: CPU: 0 made up")

if not os.environ.get("KFIBER_GUEST"):
    @pytest.mark.guest
    def test_lost():
        pass

def test_here_as_well():
    pass

@pytest.mark.guest
def test_dies():
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")

@pytest.mark.guest
def test_never_runs():
    pass
"""


@pytest.fixture
def session(tmp_path):
    here = Path(__file__).parent.parent
    (tmp_path / "conftest.py").write_text((here / "conftest.py").read_text())
    (tmp_path / "pyproject.toml").write_text((here.parent / "pyproject.toml").read_text())
    (tmp_path / "test_it.py").write_text(TESTS)

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--color=no", *arguments, "test_it.py"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.stderr == ""
        return done

    return run


def test_reports_come_out_as_if_run_here(session):
    done = session("-v", "-k", "not dies and not never")
    out = done.stdout
    assert done.returncode == 1, out
    for line in (
        "test_it.py::test_here PASSED",
        "test_it.py::test_here_as_well PASSED",
        "test_it.py::TestGuest::test_there PASSED",
        "test_it.py::TestGuest::test_fails FAILED",
        "test_it.py::TestGuest::test_skips SKIPPED",
        "test_it.py::TestGuest::test_values[x/y] PASSED",
        "test_it.py::TestGuest::test_values[a b] PASSED",
        "test_it.py::TestGuest::test_expected XFAIL",
        "test_it.py::test_lost ERROR",
        "AssertionError: a reason",
        "said before",
        "a reason to skip",
        "the guest's pytest does not find this test",
        "WARNING: CPU: 0 made up",
        "ERROR guest - ",
    ):
        assert line in out
    assert out.index("test_here_as_well") < out.index("test_there")
    assert "1 failed, 7 passed, 2 skipped, 2 deselected, 1 xfailed, 2 errors" in out


def test_a_guest_that_dies_fails_its_tests(session):
    done = session("-k", "dies or never")
    out = done.stdout
    assert done.returncode == 1, out
    assert "the guest died while running test_it.py::test_dies" in out
    assert "Kernel panic - not syncing: sysrq triggered crash" in out
    assert "ERROR test_it.py::test_never_runs - not run" in out
    assert "1 failed" in out and "1 error" in out


def test_the_first_failure_ends_the_session(session):
    done = session("-x", "-k", "there or fails or skips")
    assert "1 failed, 1 passed" in done.stdout
