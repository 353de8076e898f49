# SPDX-License-Identifier: MIT
"""
kfiber.greenlet beside greenlet, on each Python that is here: the same program over both, which take
turns, pass by pass. Each figure is a process of its own (coroutine.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from interpreters import install
from kfiber_bench.greenlets import SECONDS, measure_each, pythons, run, timed
from kfiber_bench.native import Figures, engine
from kfiber_bench.peers import PeerError
from kfiber_bench.row import Row, row

# Those that gevent has wheels for.
MEASURED = ("3.11", "3.12", "3.13", "3.14")
OURS, THEIRS = "kfiber.greenlet", "greenlet"


class Case(NamedTuple):
    """A figure over both, and how much of the other's time ours may take; None: no goal."""

    name: str
    title: str
    goal: float | None


CASES = (
    Case("switch", "switch to and from main", 0.35),
    Case("switch-deep", "the same 20 C calls deep", 0.06),
    Case("create", "create, run, end", None),
    Case("sleep", "gevent.sleep(0)", 0.65),
)
# Suspended ones, and how many C calls deep each is.
COUNT = 10_000
LEVELS = (0, 5, 20)
# As many handlers of a Flask application.
HANDLERS = Path(__file__).with_name("handlers.py")


def handlers(python: Path, side: str, _: int) -> float:
    """Bytes of each."""
    command = [str(python), str(HANDLERS), str(COUNT), side]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS,
        env={**os.environ, "KFIBER_ENGINE": engine()},
    )  # fmt: skip
    if done.returncode:
        raise PeerError(f"handlers: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


def programs(python: Path) -> dict[tuple[str, str], Callable[[int], float]]:
    """One pass runs each of these, by case and side."""
    found: dict[tuple[str, str], Callable[[int], float]] = {}
    for side in (OURS, THEIRS):
        for case in CASES:
            found[case.name, side] = partial(
                lambda words, _: timed(python, *words), (case.name, side)
            )
        found["handlers", side] = partial(handlers, python, side)
        for levels in LEVELS:
            words = ("--memory", COUNT, side, levels)
            found[f"memory-{levels}", side] = partial(
                lambda words, _: float(run(python, *words)), words
            )
    return found


def compare(version: str, figures: dict[tuple[str, str], Figures]) -> Iterator[Row]:
    """The rows of one Python; none for what failed."""
    wanted = [(case.name, case.title, case.goal, 1e9, "ns") for case in CASES]
    wanted += [
        (
            f"memory-{levels}",
            f"memory of each of {COUNT:,}, {levels} C calls deep",
            None,
            1,
            "bytes",
        )
        for levels in LEVELS
    ]
    title = f"memory of each of {COUNT:,} idle Flask handlers"
    wanted.append(("handlers", title, 0.9, 1, "bytes"))
    for name, title, goal, scale, unit in wanted:
        ours, theirs = figures.get((name, OURS)), figures.get((name, THEIRS))
        if not ours or not theirs:
            continue
        yield row(
            f"{version}: {title}", ours.median * scale, unit, engine=engine(), peer=THEIRS,
            ratio=ours.median / theirs.median, goal=goal, spread=ours.spread * scale,
        )  # fmt: skip


def measure(passes: int) -> tuple[dict[str, str], list[Row]]:
    """On all of them."""
    found = {}
    for version, python in pythons(MEASURED):
        if failed := install(python, "flask"):
            print(f"bench: no Flask for {version}: {failed[-200:]}", file=sys.stderr)
        else:
            found[version] = python
    return measure_each("greenlet", found, passes, programs, compare)
