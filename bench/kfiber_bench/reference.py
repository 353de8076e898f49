# SPDX-License-Identifier: MIT
"""
The figures of the reference report (M. Mariani, R. Chiaretti, Fiber project, chapter 3), read off
its bar charts. These are the only figures here that nobody measures again.
"""

from __future__ import annotations

from typing import NamedTuple


class Bars(NamedTuple):
    """Seconds of its two versions, on the physical machine and in VMware."""

    version1_physical: float
    version2_physical: float
    version1_virtual: float
    version2_virtual: float


# By fibers and processes at once.
INIT = {
    (512, 1): Bars(0.009, 0.011, 0.195, 0.008),
    (512, 3): Bars(0.011, 0.019, 0.696, 0.747),
    (1024, 1): Bars(0.022, 0.023, 0.296, 0.067),
    (1024, 3): Bars(0.029, 0.048, 1.534, 3.305),
}
WORK = {
    (512, 1): Bars(0.397, 2.295, 0.332, 0.47),
    (512, 3): Bars(1.443, 8.268, 1.500, 2.8),
    (1024, 1): Bars(0.403, 5.54, 0.332, 1.032),
    (1024, 3): Bars(1.655, 16.07, 1.540, 5.08),
}
CHARTS = {"init": INIT, "work": WORK}
MACHINES = {
    "physical": "Fedora 28, Linux 4.18, Core i5-7200U",
    "virtual": "Ubuntu 18.04, Linux 4.15, VMware on a Core i5-6360U",
}
CELLS = tuple(WORK)
# Calls that each fiber completes.
CALLS = 15_000


def seconds(chart: str, machine: str, version: str, cell: tuple[int, int]) -> float:
    """One bar."""
    value: float = getattr(CHARTS[chart][cell], f"{version}_{machine}")
    return value


def ratio(machine: str, cell: tuple[int, int]) -> float:
    """How much longer version 2 works than version 1."""
    return seconds("work", machine, "version2", cell) / seconds("work", machine, "version1", cell)
