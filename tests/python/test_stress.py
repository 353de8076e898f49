# SPDX-License-Identifier: MIT
"""stress.py, for a minute on this Python; `make stress`: for longer, on each that is here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from interpreters import VERSIONS, environment

PROGRAM = Path(__file__).parent / "stress.py"
MODES = {"plain": [], "malloc": [], "threshold": ["--threshold", "1"]}
# Of each mode. In the sessions that this one starts there are many of them.
SECONDS = float(os.environ.get("KFIBER_STRESS", 2 if "KFIBER_INNER" in os.environ else 20))
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.once
@pytest.mark.timeout(SECONDS + 1200)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", VERSIONS if "KFIBER_STRESS" in os.environ else [HERE])
def test_stress(version, mode):
    """It ends by itself where nothing moves any more, and says where each thread is."""
    python = sys.executable if version == HERE else environment(version)
    if python is None:
        pytest.skip(f"no Python {version} with its headers and ensurepip here")
    settings = {"PYTHONMALLOC": "debug"} if mode == "malloc" else {}
    done = subprocess.run(
        [python, PROGRAM, "--seconds", str(SECONDS), *MODES[mode]],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stress: " in done.stdout
