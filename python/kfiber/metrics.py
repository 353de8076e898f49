# SPDX-License-Identifier: MIT
"""Fibers as Prometheus metrics, with a bounded number of series.

A series is a process and a name. Those who ended count on in the totals: Totals keeps what it saw
of them. What a fiber did between the last look and its end is not seen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
)
from prometheus_client.metrics_core import Metric

from kfiber.info import FiberInfo

REST = "(rest)"
"""The name under which those are added up that have no series of their own."""

BUCKETS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
"""Of the longest runs, in seconds."""

_LABELS = ("pid", "command", "name")
_STATES = ("new", "suspended", "running", "finished")


@dataclass
class Counts:
    """What only grows. Times in nanoseconds."""

    cpu: int = 0
    run: int = 0
    activations: int = 0
    failed: int = 0

    def add(self, other: Counts) -> None:
        """Adds `other` to these."""
        self.cpu += other.cpu
        self.run += other.run
        self.activations += other.activations
        self.failed += other.failed


def counts_of(fiber: FiberInfo) -> Counts:
    """What one fiber counts."""
    return Counts(
        fiber.cpu_time_ns or 0, fiber.run_time_ns or 0, fiber.activations, fiber.failed_activations
    )


@dataclass
class _Process:
    """What is known of one process. A name keeps the series that it once got."""

    command: str
    start: str
    ended: dict[str, Counts] = field(default_factory=dict)
    alive: dict[int, FiberInfo] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Series:
    """All of one process that go by one name."""

    labels: tuple[str, str, str]
    counts: Counts
    fibers: Sequence[FiberInfo]


def identity(pid: int) -> tuple[str, str]:
    """The process' command and when it began, both empty if it has ended."""
    try:
        head, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return "", ""
    return head.partition("(")[2], rest.split()[19]


class Totals:
    """Adds up look after look. `top` names of a process have a series each, the rest one."""

    def __init__(self, top: int, identify: Callable[[int], tuple[str, str]] = identity) -> None:
        self._top = top
        self._identify = identify
        self._processes: dict[int, _Process] = {}

    def take(self, fibers: Iterable[FiberInfo]) -> None:
        """One look at all processes that are observed. One that has no fibers left is forgotten."""
        now: dict[int, dict[int, FiberInfo]] = {}
        for fiber in fibers:
            now.setdefault(fiber.pid, {})[fiber.id] = fiber
        for pid in self._processes.keys() - now.keys():
            del self._processes[pid]
        for pid, alive in now.items():
            command, start = self._identify(pid)
            process = self._processes.get(pid)
            if process is None or process.start != start:
                process = self._processes[pid] = _Process(command, start)
            for number, fiber in process.alive.items():
                if number not in alive:
                    ended = process.ended.setdefault(fiber.name, Counts())
                    ended.add(counts_of(fiber))
            process.alive = alive
            self._name(process)

    def _name(self, process: _Process) -> None:
        """Gives free series to those names that have used most time."""
        free = self._top - len(process.named)
        if free <= 0:
            return
        used: dict[str, int] = {}
        for fiber in process.alive.values():
            counts = counts_of(fiber)
            used[fiber.name] = used.get(fiber.name, 0) + counts.cpu + counts.run
        new = [name for name in used if name not in process.named and name != REST]
        process.named.update(sorted(new, key=lambda name: (-used[name], name))[:free])

    def series(self) -> Iterator[Series]:
        """What there is after the last look."""
        for pid, process in sorted(self._processes.items()):
            counts: dict[str, Counts] = {}
            fibers: dict[str, list[FiberInfo]] = {}
            for name, ended in process.ended.items():
                label = name if name in process.named else REST
                counts.setdefault(label, Counts()).add(ended)
            for fiber in process.alive.values():
                label = fiber.name if fiber.name in process.named else REST
                counts.setdefault(label, Counts()).add(counts_of(fiber))
                fibers.setdefault(label, []).append(fiber)
            for label in sorted(counts):
                yield Series(
                    (str(pid), process.command, label), counts[label], fibers.get(label, [])
                )


class Collector:
    """For prometheus_client's registry; any thread may collect. `look` gives the fibers."""

    def __init__(self, look: Callable[[], Iterable[FiberInfo]], top: int) -> None:
        self._look = look
        self._totals = Totals(top)
        self._lock = threading.Lock()

    def look(self) -> None:
        """Looks, so that those who end before the next collection are counted."""
        with self._lock:
            self._totals.take(self._look())

    def collect(self) -> Iterator[Metric]:
        """The metrics now. A label `name` of "(rest)" is all that have no series of their own."""
        with self._lock:
            self._totals.take(self._look())
            found = list(self._totals.series())
        counters: tuple[tuple[str, str, Callable[[Counts], float]], ...] = (
            ("kfiber_cpu_seconds", "CPU time of fibers", lambda c: c.cpu / 1e9),
            ("kfiber_run_seconds", "Time of fibers on threads, waiting included",
             lambda c: c.run / 1e9),
            ("kfiber_activations", "Switches to fibers", lambda c: c.activations),
            ("kfiber_failed_activations", "Refused switches to fibers", lambda c: c.failed),
        )  # fmt: skip
        for name, text, value in counters:
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            for each in found:
                counter.add_metric(each.labels, value(each.counts))
            yield counter
        states = GaugeMetricFamily("kfiber_fibers", "Fibers there are", labels=[*_LABELS, "state"])
        longest = GaugeHistogramMetricFamily(
            "kfiber_longest_run_seconds", "Longest single runs of the fibers there are",
            labels=_LABELS,
        )  # fmt: skip
        for each in found:
            for state in _STATES:
                number = sum(fiber.state == state for fiber in each.fibers)
                states.add_metric([*each.labels, state], number)
            runs = [fiber.longest_run_ns / 1e9 for fiber in each.fibers]
            buckets = [(str(bound), float(sum(run <= bound for run in runs))) for bound in BUCKETS]
            longest.add_metric(each.labels, [*buckets, ("+Inf", float(len(runs)))], sum(runs))
        yield states
        yield longest
