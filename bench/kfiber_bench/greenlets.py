# SPDX-License-Identifier: MIT
"""
Fibers in Python beside greenlets, on each Python that is here: what a switch, a fiber's life and
its memory cost. Each figure is a process of its own (coroutine.py). The two sides take turns, pass
by pass, so that what disturbs the machine meets both. Statistics are kept all the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from interpreters import environment
from kfiber_bench.native import Figures, engine, interleave, machine
from kfiber_bench.peers import PeerError
from kfiber_bench.row import Row, row

PROGRAM = Path(__file__).with_name("coroutine.py")
# Those that the goals are for.
MEASURED = ("3.11", "3.12", "3.13", "3.14", "3.15")
# Of a processor that is left alone, as a rule.
PROCESSOR = max(os.sched_getaffinity(0))
SECONDS = 300


class Case(NamedTuple):
    """What is measured beside what, how many of its times it may take, and in which unit."""

    name: str
    title: str
    goal: float
    scale: float = 1e9
    unit: str = "ns"
    peer: str = "greenlet"


CASES = (
    Case("switch", "switch to and from main", 0.25),
    Case("switch-deep", "the same 20 C calls deep", 0.04),
    Case("ring", "ring of 1,024, 20 C calls deep", 0.015),
    Case("create", "create, run, end", 0.04),
    Case("busy", "switch beside a busy thread", 1.5, peer="itself alone"),
    Case("collect", "gc.collect(), 100,000 suspended", 1.5, 1e3, "ms"),
)
COUNTS = (10_000, 100_000)
MEMORY = 9 << 10


def run(python: Path, *words: object) -> str:
    """What the program printed. PeerError: it failed."""
    done = subprocess.run(
        [python, PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=SECONDS,
        env={**os.environ, "KFIBER_ENGINE": engine()},
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise PeerError(f"{' '.join(map(str, words[:2]))}: {reason}")
    return done.stdout


def timed(python: Path, case: str, side: str) -> float:
    """Seconds, by pyperf."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pyperf.json"
        words: list[object] = [case, side, "--quiet", "--output", file]
        words += ["--inherit-environ", "KFIBER_ENGINE,KFIBER_SWAP"]
        # A busy thread has the other processors.
        if not case.startswith("busy"):
            words += ["--affinity", PROCESSOR]
        run(python, *words)
        (benchmark,) = json.loads(file.read_text())["benchmarks"]
    return Figures([value for each in benchmark["runs"] for value in each.get("values", ())]).median


def programs(python: Path) -> dict[tuple[str, str], Callable[[int], float]]:
    """What a pass goes round, by case and side."""
    found: dict[tuple[str, str], Callable[[int], float]] = {}
    for case in CASES:
        other = ("busy-alone", "kfiber") if case.name == "busy" else (case.name, "greenlet")
        for words in ((case.name, "kfiber"), other):
            found[words] = partial(lambda words, _: timed(python, *words), words)
    for count in COUNTS:
        for side in ("kfiber", "greenlet"):
            found[f"memory-{count}", side] = partial(
                lambda words, _: float(run(python, *words)), ("--memory", count, side)
            )
    return found


def compare(version: str, figures: dict[tuple[str, str], Figures]) -> Iterator[Row]:
    """The rows of one Python; none for what failed."""
    for case in CASES:
        own = figures.get((case.name, "kfiber"))
        other = figures.get(
            ("busy-alone", "kfiber") if case.name == "busy" else (case.name, "greenlet")
        )
        if own and other:
            yield row(
                f"{version}: {case.title}", own.median * case.scale, case.unit, engine=engine(),
                peer=case.peer, ratio=own.median / other.median, goal=case.goal,
                spread=own.spread * case.scale,
            )  # fmt: skip
    for count in COUNTS:
        for side in ("kfiber", "greenlet"):
            each = figures.get((f"memory-{count}", side))
            if each:
                yield row(
                    f"{version}: memory of each of {count:,}", each.median, "bytes",
                    engine=engine() if side == "kfiber" else None, spread=each.spread,
                    goal=MEMORY if side == "kfiber" else None,
                    peer="" if side == "kfiber" else side,
                )  # fmt: skip


def about(python: Path) -> str:
    """Which releases are compared, and which swap kfiber takes."""
    program = (
        "import platform, greenlet; from kfiber import _native\n"
        "print(platform.python_version(), 'swap', _native.swap(), 'greenlet', greenlet.__version__)"
    )
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def measure_each(
    title: str,
    pythons: Mapping[str, Path],
    passes: int,
    programs: Callable[[Path], Mapping[tuple[str, str], Callable[[int], float]]],
    compare: Callable[[str, dict[tuple[str, str], Figures]], Iterable[Row]],
) -> tuple[dict[str, str], list[Row]]:
    """Runs the programs on each of these Pythons, by version: the machine, and all rows."""
    rows: list[Row] = []
    releases = []
    for version, python in pythons.items():
        print(f"bench: {title} {version}, {passes} passes", file=sys.stderr)
        releases.append(about(python))
        rows += compare(version, interleave(programs(python), passes))
    return {
        "kernel": os.uname().release,
        "machine": f"{machine()}, {passes} passes",
        "python": ", ".join(releases),
    }, rows


def pythons(versions: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Those of these versions that are here, with this checkout's kfiber."""
    for version in versions:
        python = environment(version)
        if python is None:
            print(f"bench: no Python {version} with its headers here", file=sys.stderr)
        else:
            yield version, python


def measure(passes: int) -> tuple[dict[str, str], list[Row]]:
    """On all of them."""
    return measure_each("python", dict(pythons(MEASURED)), passes, programs, compare)
