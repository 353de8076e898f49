# SPDX-License-Identifier: MIT
"""Two short reports on one machine agree: `make report-check`, which takes seven minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kfiber_bench import data

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif("KFIBER_REPORT" not in os.environ, reason="make report-check runs it"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    found = []
    for name in ("one", "other"):
        folder = tmp_path_factory.mktemp(name)
        words = ["report", "--quick", "--second-kernel", "none", "--output", folder]
        subprocess.run(
            [sys.executable, "-m", "kfiber_bench", *words],
            check=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'bench'}:{ROOT / 'tools'}"},
        )
        found.append(data.load(folder / "report" / "data.json"))
    return found


def test_times_agree_within_their_stated_spread(reports):
    wrong, compared = data.disagreements(*reports)
    assert compared > 50
    # The ranges of two times three samples of the same thing miss each other in one of ten cases.
    assert len(wrong) <= compared / 4, "\n".join(wrong)


def test_instructions_are_the_same(reports):
    assert len(reports[0]["operations"]) > 100
    assert data.inexact(*reports) == []
