# SPDX-License-Identifier: MIT
"""How fibers fared between two looks: who used the time, who switched, who holds a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kfiber.info import FiberInfo

Key = tuple[int, int]


@dataclass(frozen=True)
class Rate:
    """A fiber, or with `count` above 1 all of a process that have one name.

    Times are in nanoseconds: CPU time where the kernel watches, else time on a thread, waiting
    included. `share` is that time by the time between the two looks, 1.0 being a whole processor.
    """

    pid: int
    id: int  # the least of them
    count: int
    name: str
    state: str  # "mixed" where they differ
    share: float
    time_ns: int
    switches_per_second: float
    longest_run_ns: int
    held_ns: int  # since when one of them has been on its thread; 0: none is


SORTS: dict[str, Callable[[Rate], tuple[float, ...]]] = {
    "share": lambda rate: (-rate.share, -rate.time_ns),
    "time": lambda rate: (-rate.time_ns,),
    "switches": lambda rate: (-rate.switches_per_second,),
    "longest": lambda rate: (-rate.longest_run_ns,),
    "held": lambda rate: (-rate.held_ns,),
    "fiber": lambda rate: (rate.pid, rate.id),
}


def time_of(fiber: FiberInfo) -> int:
    """The fiber's CPU time, or where nobody knows that, its time on threads; in nanoseconds."""
    return (fiber.run_time_ns or 0) if fiber.cpu_time_ns is None else fiber.cpu_time_ns


class Sampler:
    """Compares each look with the one before."""

    def __init__(self) -> None:
        self._before: dict[Key, FiberInfo] = {}
        self._looked: int | None = None

    def compare(self, fibers: Sequence[FiberInfo], now: int) -> list[Rate]:
        """The rates since the last call, by pid and id; empty the first time.

        `now` is a monotonic time in nanoseconds. A fiber that was not there before is new: all of
        its time belongs to this interval.
        """
        before, looked = self._before, self._looked
        self._before = {(fiber.pid, fiber.id): fiber for fiber in fibers}
        self._looked = now
        if looked is None or now <= looked:
            return []
        return [_rate(fiber, before.get((fiber.pid, fiber.id)), now - looked) for fiber in fibers]


def _rate(fiber: FiberInfo, before: FiberInfo | None, interval: int) -> Rate:
    if before is not None and before.activations > fiber.activations:
        # Another process by the same pid.
        before = None
    used = time_of(fiber) - (time_of(before) if before else 0)
    switches = fiber.activations - (before.activations if before else 0)
    return Rate(
        pid=fiber.pid,
        id=fiber.id,
        count=1,
        name=fiber.name,
        state=fiber.state,
        share=max(used, 0) / interval,
        time_ns=time_of(fiber),
        switches_per_second=switches * 1e9 / interval,
        longest_run_ns=fiber.longest_run_ns,
        held_ns=fiber.last_switch_ns_ago if fiber.running else 0,
    )


def by_name(rates: Iterable[Rate]) -> list[Rate]:
    """One rate for each name of each process."""
    groups: dict[tuple[int, str], list[Rate]] = {}
    for rate in rates:
        groups.setdefault((rate.pid, rate.name), []).append(rate)
    return [_together(group) for group in groups.values()]


def _together(group: Sequence[Rate]) -> Rate:
    states = {rate.state for rate in group}
    return Rate(
        pid=group[0].pid,
        id=min(rate.id for rate in group),
        count=len(group),
        name=group[0].name,
        state=states.pop() if len(states) == 1 else "mixed",
        share=sum(rate.share for rate in group),
        time_ns=sum(rate.time_ns for rate in group),
        switches_per_second=sum(rate.switches_per_second for rate in group),
        longest_run_ns=max(rate.longest_run_ns for rate in group),
        held_ns=max(rate.held_ns for rate in group),
    )


def arranged(rates: Iterable[Rate], *, sort: str = "share", match: str = "") -> list[Rate]:
    """Those whose name has `match` in it, ordered by a key of SORTS."""
    chosen = [rate for rate in rates if match in rate.name]
    return sorted(chosen, key=SORTS[sort])
