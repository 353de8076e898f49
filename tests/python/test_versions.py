# SPDX-License-Identifier: MIT
"""The tests beside this one on every supported Python that is here, and on the other engines.

Each Python gets a virtual environment in build, into which the package is installed as users
do, from the checkout. It is made again when the sources have changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from interpreters import VERSIONS, environment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Where a fiber is run by a processor that is emulated.
SLOW = 10

pytestmark = pytest.mark.skipif("KFIBER_INNER" in os.environ, reason="runs the others, not itself")


def run(python, *ignored, timeout, **settings):
    """The suite there but for these files. A failure is the inner one's report."""
    command = [
        *(python, "-X", "faulthandler", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("--rootdir", ROOT, "-c", ROOT / "pyproject.toml", "--timeout", str(timeout)),
        *("-m", "not guest", *(f"--ignore={HERE / name}" for name in ignored), HERE),
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


SWAPS = ("fast", "public")
# What conftest.py wants so that it looks whether a test leaves something each time.
UNCACHED = "glibc.malloc.tcache_count=0"


def sessions(version, swaps):
    """Of each way to swap: why it cannot be had, None after its session, or what that raised."""
    python = environment(version)
    if python is None:
        return dict.fromkeys(swaps, f"no Python {version} with its headers and ensurepip here")
    ended = {}
    for swap in swaps:
        settings = {
            "KFIBER_SWAP": "public" if swap == "public" else "",
            "KFIBER_ENGINE": "local",
            "GLIBC_TUNABLES": UNCACHED,
        }
        try:
            said = subprocess.run(
                [python, "-c", "from kfiber import _native; print(_native.swap())"],
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            if not said.startswith(swap):
                ended[swap] = f"Python {version} here: {said}"
                continue
            run(python, timeout=60, **settings)
            ended[swap] = None
        except Exception as error:
            ended[swap] = error
    return ended


@pytest.fixture(scope="module")
def versions(request):
    """What the sessions of each version give, as many at a time as there are processors."""
    wanted = {}
    for item in request.session.items:
        if item.path == Path(__file__) and item.originalname == "test_each_python":
            wanted.setdefault(item.callspec.params["version"], []).append(
                item.callspec.params["swap"]
            )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {version: pool.submit(sessions, version, swaps) for version, swaps in wanted.items()}
        pool.shutdown(cancel_futures=True)


# Those before it may take their time first.
@pytest.mark.timeout(20 * 60 * len(VERSIONS) * len(SWAPS))
@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("version", VERSIONS)
def test_each_python(version, swap, versions):
    ended = versions[version].result()[swap]
    if isinstance(ended, str):
        pytest.skip(ended)
    if ended:
        raise ended


def test_a_free_threaded_python_refuses(tmp_path):
    """What is built for one, in a Python that knows no other way to load it."""
    build = [sys.executable, ROOT / "setup.py", "-q", "build_ext"]
    subprocess.run(
        [*build, "--build-lib", tmp_path, "--build-temp", tmp_path / "objects"],
        cwd=ROOT,
        env={**os.environ, "CFLAGS": "-O0 -DPy_GIL_DISABLED=1"},
        check=True,
    )
    (extension,) = tmp_path.glob("kfiber/_native.*.so")
    program = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('kfiber._native', sys.argv[1])\n"
        "try:\n"
        "    spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    command = [sys.executable, "-c", program, extension]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert "free-threaded" in done.stdout
    assert f"hint: use the build with the GIL, python{version}" in done.stdout


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
    # How deep code may recurse is the stack's business, which is the same for all engines.
    run(sys.executable, "test_recursion.py", timeout=60 * SLOW, **settings)
