# SPDX-License-Identifier: MIT
"""
Cases that are measured on this machine, each in one run with its peers: pass after pass goes round
all of them, so that what disturbs the machine meets all alike. Figures are medians over the
passes, spreads the distance between their quartiles.
"""

from __future__ import annotations

import mmap
import os
import statistics
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from kfiber_bench import peers
from kfiber_bench.peers import Peer, PeerError
from kfiber_bench.row import Row, row

NUMBERS = (2, 512, 1024, 10_000, 100_000)
# Goals of a switch are for so many fibers.
FEW = NUMBERS[:3]
SWITCHES = 1_000_000
CREATIONS = 200_000
# Each a stack that was never used.
COLD = 5_000
LIVE = 100_000
# See ring_body() in measure.h: in bytes, all that there are within a cache line.
DEPTHS = (0, 16, 32, 48)
# Passes: by default, and thoroughly; each depth as often.
PASSES = 2 * len(DEPTHS)
THOROUGH = 6 * len(DEPTHS)

# What a pass, whose number it gets, runs of one thing.
Program = Callable[[int], float]

Key = TypeVar("Key", bound=Hashable)


def engine() -> str:
    """Which of libfiber's engines is measured."""
    return os.environ.get("KFIBER_ENGINE", "local")


def kfiber(variant: str = "") -> Peer:
    """libfiber as one of those that are compared; with the `hint`, or with a `rival` thread."""
    return Peer(f"kfiber_{variant}" if variant else "kfiber", engine=engine())


class Figures:
    """What the passes gave for one thing that was measured."""

    def __init__(self, values: Sequence[float]) -> None:
        self.median = statistics.median(values)
        quartiles = (
            statistics.quantiles(values, n=4, method="inclusive") if values[1:] else [0, 0, 0]
        )
        self.spread = quartiles[2] - quartiles[0]


def interleave(programs: Mapping[Key, Program], passes: int) -> dict[Key, Figures]:
    """Runs each once a pass. What fails is said once and left out."""
    values: dict[Key, list[float]] = {key: [] for key in programs}
    for number in range(passes):
        for key in list(values):
            try:
                values[key].append(programs[key](number))
            except PeerError as e:
                print(f"bench: {e}", file=sys.stderr)
                del values[key]
    return {key: Figures(found) for key, found in values.items() if found}


def here(*wanted: Peer) -> list[Peer]:
    """Those that are built."""
    absent = peers.missing()
    return [peer for peer in wanted if peer not in absent]


def compare(
    case: str, figures: Figures | None, peer: str, base: Figures | None, goal: float,
    fibers: int | None = None,
) -> Iterator[Row]:  # fmt: skip
    """The row with a goal; none where one of the two is absent."""
    if figures and base:
        yield row(
            case, figures.median, "ns", engine=engine(), fibers=fibers, peer=peer,
            ratio=figures.median / base.median, goal=goal, spread=figures.spread,
        )  # fmt: skip


def ring(peer: Peer, fibers: int) -> Program:
    """A ring of so many fibers, in which each switches to the next: the time of a switch."""
    # Three laps at least.
    switches = max(int(SWITCHES * peer.share), 3 * fibers)
    return lambda number: peer.run("ring", fibers, switches, DEPTHS[number % len(DEPTHS)])[0]


def switch(passes: int, numbers: Sequence[int] = NUMBERS) -> Iterator[Row]:
    """Rings of fibers, each of which switches to the next."""
    own, rivalled, hinted = kfiber(), kfiber("rival"), kfiber("hint")
    others = here(
        peers.FULL, peers.FULL_HINT, peers.PLAIN, peers.BOOST, peers.LIBCO, peers.MINICORO,
        peers.WINE_FIBERS, peers.SWAPCONTEXT,
    )  # fmt: skip

    figures = interleave(
        {
            (peer, fibers): ring(peer, fibers)
            for fibers in numbers
            for peer in (own, rivalled, hinted, *others)
            if fibers <= peer.most
        },
        passes,
    )
    case = {hinted: "switch with the hint", rivalled: "switch, two fiber threads"}
    for (peer, fibers), each in figures.items():
        yield row(
            case.get(peer, "switch"), each.median, "ns", engine=peer.engine, fibers=fibers,
            peer=peer.name, spread=each.spread,
        )  # fmt: skip

    for mine, fibers, peer, goal in (
        *((own, fibers, peers.FULL, 0.65) for fibers in FEW),
        *((rivalled, fibers, peers.FULL, 1) for fibers in (*FEW, 10_000)),
        *((own, fibers, peers.WINE_FIBERS, 0.7 if fibers == 2 else 0.6) for fibers in FEW),
        *((own, fibers, peers.SWAPCONTEXT, 0.1) for fibers in FEW),
        (hinted, 100_000, peers.LIBCO, 3),
    ):
        yield from compare(
            case.get(mine, "switch"), figures.get((mine, fibers)), peer.name,
            figures.get((peer, fibers)), goal, fibers,
        )  # fmt: skip
    yield from compare(
        "switch", figures.get((own, 10_000)), "itself, 2 fibers", figures.get((own, 2)), 7, 10_000
    )


def create(passes: int, _: Sequence[int] = ()) -> Iterator[Row]:
    """A fiber is created, runs, and is deleted: on a pooled stack, on one never used."""
    own, rivalled = kfiber(), kfiber("rival")
    pooled = here(
        peers.FULL,
        peers.PLAIN,
        peers.BOOST,
        peers.LIBCO,
        peers.MINICORO,
        peers.WINE_FIBERS,
        peers.SWAPCONTEXT,
    )
    fresh = here(peers.FULL, peers.BOOST_PROTECTED)

    def program(peer: Peer, what: str, count: int) -> Program:
        return lambda _: peer.run(what, count)[0]

    programs = {
        ("create", peer): program(peer, "create", int(CREATIONS * peer.share))
        for peer in (own, rivalled, *pooled)
    }
    programs |= {("cold", peer): program(peer, "cold", COLD) for peer in (own, *fresh)}
    figures = interleave(programs, passes)
    titles = {"create": "create, run, delete", "cold": "the same, stacks never used before"}

    def title(what: str, peer: Peer) -> str:
        return titles[what] + (", two fiber threads" if peer == rivalled else "")

    for (what, peer), each in figures.items():
        yield row(
            title(what, peer), each.median, "ns", engine=peer.engine, peer=peer.name,
            spread=each.spread,
        )  # fmt: skip
    for what, mine, peer, goal in (
        ("create", own, peers.FULL, 1),
        ("create", rivalled, peers.FULL, 1.25),
        ("cold", own, peers.BOOST_PROTECTED, 0.25),
    ):
        yield from compare(
            title(what, mine), figures.get((what, mine)), peer.name, figures.get((what, peer)), goal
        )


def guards_are_mappings() -> bool:
    """Whether this kernel is older than 6.13, so that fibers are as many as it allows mappings."""
    guard_install = 102
    with mmap.mmap(-1, 2 * mmap.PAGESIZE) as memory:
        try:
            memory.madvise(guard_install, 0, mmap.PAGESIZE)
        except OSError:
            return True
    return False


def resident(passes: int, _: Sequence[int] = ()) -> Iterator[Row]:
    """The memory of 100,000 fibers, and that there can be so many."""
    own = kfiber()
    title = f"{LIVE:,} live fibers, with guards"
    try:
        runs = [own.run("resident", LIVE) for _ in range(passes)]
    except PeerError as e:
        print(f"bench: {e}", file=sys.stderr)
        if guards_are_mappings():
            print("bench: no MADV_GUARD_INSTALL here, so each guard is a mapping", file=sys.stderr)
        else:
            yield row(title, 0, "fibers", engine=own.engine, met=False)
        return
    yield row(title, LIVE, "fibers", engine=own.engine, met=True)
    for values, (name, goal) in zip(
        zip(*runs, strict=True),
        (
            ("resident a fiber, not started", 256),
            ("page tables a fiber, not started", None),
            # 4.3 KB of 1,024 bytes.
            ("resident a fiber, started", 4403),
            ("page tables a fiber, started", None),
        ),
        strict=True,
    ):
        each = Figures(values)
        yield row(name, each.median, "bytes", engine=own.engine, goal=goal, spread=each.spread)


def windows(passes: int, numbers: Sequence[int] = FEW) -> Iterator[Row]:
    """SwitchToFiber() over libfiber, beside fiber_switch() and Wine, in rings."""
    ours = Peer("windows", "SwitchToFiber", engine=engine())
    own = kfiber()
    wine = here(peers.WINE_FIBERS)

    numbers = [number for number in numbers if number in FEW]
    figures = interleave(
        {(peer, fibers): ring(peer, fibers) for fibers in numbers for peer in (own, ours, *wine)},
        passes,
    )
    title = {own: "fiber_switch()", ours: "SwitchToFiber()"}
    for (peer, fibers), each in figures.items():
        yield row(
            title.get(peer, "switch"), each.median, "ns", engine=peer.engine, fibers=fibers,
            peer=peer.name, spread=each.spread,
        )  # fmt: skip
    for fibers in numbers:
        for base, name, goal in (
            (own, "fiber_switch()", 1.05),
            (peers.WINE_FIBERS, peers.WINE_FIBERS.name, 0.8 if fibers == 2 else 0.6),
        ):
            yield from compare(
                title[ours], figures.get((ours, fibers)), name, figures.get((base, fibers)), goal,
                fibers,
            )  # fmt: skip


CASES: dict[str, Callable[..., Iterator[Row]]] = {
    "switch": switch,
    "create": create,
    "resident": resident,
    "windows": windows,
}


def machine() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine


def measure(
    case: str, passes: int, numbers: Sequence[int] = NUMBERS
) -> tuple[dict[str, str], list[Row]]:
    """On one processor, the last that this process may use; `numbers` of fibers for `switch`."""
    print(f"bench: {case}, {passes} passes", file=sys.stderr)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        rows = list(CASES[case](passes, numbers))
    finally:
        os.sched_setaffinity(0, allowed)
    environment = {
        "kernel": os.uname().release,
        "machine": f"{machine()}, pinned to CPU {max(allowed)}, {passes} passes",
        "max_map_count": Path("/proc/sys/vm/max_map_count").read_text().strip(),
    }
    return environment, rows
