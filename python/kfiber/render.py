# SPDX-License-Identifier: MIT
"""Fibers as text. Pure functions: what they are given decides what they return."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence

from kfiber.proc import Fiber

COLUMNS = ("PID", "FIBER", "STATE", "TID", "CPU", "SWITCHES", "FAILED", "NAME")


def duration(nanoseconds: int) -> str:
    """Three significant digits and a unit: 0ns, 12.3us, 546ms, 1.25s, 3600s."""
    if nanoseconds < 1000:
        return f"{nanoseconds}ns"
    value, unit = float(nanoseconds), "ns"
    for unit in ("us", "ms", "s"):
        value /= 1000
        # 999.6 would be printed as 1000 of the smaller unit.
        if value < 999.5 or unit == "s":
            break
    return f"{value:.3g}{unit}" if value < 999.5 else f"{value:.0f}{unit}"


def _printable(name: str) -> str:
    """One line that cannot drive a terminal."""
    return "".join(char if char.isprintable() else "?" for char in name)


def table(fibers: Sequence[Fiber], *, width: int = 80) -> str:
    """A line a fiber under a heading, numbers right-aligned, no line longer than `width`."""
    rows = [COLUMNS]
    rows += [
        (
            str(fiber.pid),
            str(fiber.id),
            fiber.state,
            str(fiber.thread_id or "-"),
            duration(fiber.cpu_time_ns),
            str(fiber.activations),
            str(fiber.failed_activations),
            _printable(fiber.name),
        )
        for fiber in fibers
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    left = (COLUMNS.index("STATE"), COLUMNS.index("NAME"))
    lines = (
        " ".join(
            cell.ljust(widths[column]) if column in left else cell.rjust(widths[column])
            for column, cell in enumerate(row)
        )
        for row in rows
    )
    return "".join(f"{line[:width].rstrip()}\n" for line in lines)


def to_json(fibers: Sequence[Fiber]) -> str:
    """A list of objects with the fields of `Fiber`."""
    return json.dumps([dataclasses.asdict(fiber) for fiber in fibers], indent=2) + "\n"


def _label(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'"{escaped}"'


def prometheus(fibers: Sequence[Fiber]) -> str:
    """Prometheus' text format, version 0.0.4; times in seconds, as is the custom there."""
    metrics: tuple[tuple[str, str, Callable[[Fiber], float]], ...] = (
        ("kfiber_cpu_seconds_total", "CPU time of a fiber", lambda f: f.cpu_time_ns / 1e9),
        ("kfiber_activations_total", "Switches to a fiber", lambda f: f.activations),
        (
            "kfiber_failed_activations_total",
            "Refused switches to a fiber",
            lambda f: f.failed_activations,
        ),
    )
    lines = []
    for name, text, value in metrics:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} counter"]
        lines += [
            f'{name}{{pid="{fiber.pid}",fiber="{fiber.id}",name={_label(fiber.name)}}} '
            f"{value(fiber)}"
            for fiber in fibers
        ]
    return "".join(f"{line}\n" for line in lines)
