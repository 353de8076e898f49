# SPDX-License-Identifier: MIT
"""The tests beside this one on every supported Python that is here, and on the other engines.

Each Python gets a virtual environment in the cache, into which the package is installed as users
do, from the checkout. It is made anew when the sources have changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from interpreters import VERSIONS, find
from kfiber import module

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = ("lib", "uapi", "python/kfiber", "setup.py", "pyproject.toml", "MANIFEST.in")
# Where a fiber is run by a processor that is emulated.
SLOW = 10

pytestmark = pytest.mark.skipif("KFIBER_INNER" in os.environ, reason="runs the others, not itself")


def fingerprint(python):
    state = hashlib.sha256(str(python.stat().st_mtime_ns).encode())
    for name in SOURCES:
        path = ROOT / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for each in files:
            if each.is_file() and each.suffix in (".c", ".h", ".S", ".py", ".pyi", ".map", ".toml"):
                state.update(f"{each.relative_to(ROOT)}\0".encode() + each.read_bytes())
    return state.hexdigest()


def environment(version):
    """The Python of a virtual environment of that version with this checkout's kfiber."""
    python = find(version)
    if python is None:
        pytest.skip(f"no Python {version} with its headers and ensurepip here")
    folder = module.cache() / "python" / version
    stamp = folder / "kfiber-fingerprint"
    inside = folder / "bin" / "python"
    state = fingerprint(python)
    if stamp.exists() and stamp.read_text() == state and inside.exists():
        return inside
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    # A copy: a build leaves its files beside the sources.
    copy = folder / "source"
    for name in (*SOURCES, "README.md", "LICENSES", "kmod"):
        path = ROOT / name
        if path.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "*.ko")
            shutil.copytree(path, copy / name, symlinks=True, ignore=ignore)
        else:
            copy.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy / name)
    pip = [inside, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    tools = ["pytest>=8", "pytest-timeout>=2.3", "greenlet>=3"]
    done = subprocess.run(
        [*pip, *tools, copy],
        env={**os.environ, "CPPFLAGS": "-Werror"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stamp.write_text(state)
    return inside


def run(python, *, timeout, **settings):
    """The suite there. A failure is the inner one's report."""
    command = [
        *(python, "-X", "faulthandler", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("--rootdir", ROOT, "-c", ROOT / "pyproject.toml", "--timeout", str(timeout)),
        *("-m", "not guest", HERE),
    ]
    # In the guest the outer session alone reports.
    inherited = {name: os.environ[name] for name in os.environ if name != "KFIBER_GUEST_TESTS"}
    done = subprocess.run(
        command,
        cwd=HERE,
        env={**inherited, "KFIBER_INNER": "1", **settings},
        capture_output=True,
        text=True,
        timeout=20 * timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("swap", ["fast", "public"])
@pytest.mark.parametrize("version", VERSIONS)
def test_each_python(version, swap):
    python = environment(version)
    settings = {"KFIBER_SWAP": "public" if swap == "public" else "", "KFIBER_ENGINE": "local"}
    if swap == "fast":
        done = subprocess.run(
            [python, "-c", "from kfiber import _native; print(_native.swap())"],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=True,
        )
        if done.stdout.strip() != "fast":
            pytest.skip(f"Python {version} here: {done.stdout.strip()}")
    run(python, timeout=60, **settings)


@pytest.mark.guest
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("engine", ["kernel", "mapped"])
def test_each_engine_of_the_module(engine):
    settings = {"KFIBER_ENGINE": engine, "KFIBER_GUEST": "1"}
    program = "import kfiber; print(kfiber.engine())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"engine {engine}: {done.stderr.splitlines()[-1]}")
    run(sys.executable, timeout=60 * SLOW, **settings)
