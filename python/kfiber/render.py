# SPDX-License-Identifier: MIT
"""Fibers as text. Pure functions: what they are given decides what they return."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence

from kfiber.stat import Fiber

COLUMNS = ("PID", "FIBER", "STATE", "TID", "CPU", "RUN", "SWITCHES", "FAILED", "NAME")


def duration(nanoseconds: int | None) -> str:
    """Three significant digits and a unit: 0ns, 12.3us, 546ms, 1.25s, 3600s; "-" for None."""
    if nanoseconds is None:
        return "-"
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
    """A line a fiber under a heading, numbers right-aligned, no line longer than `width`.

    Of CPU and run time only the columns are there that some fiber has.
    """
    rows: list[tuple[str, ...]] = [COLUMNS]
    rows += [
        (
            str(fiber.pid),
            str(fiber.id),
            fiber.state,
            str(fiber.thread_id or "-"),
            duration(fiber.cpu_time_ns),
            duration(fiber.run_time_ns),
            str(fiber.activations),
            str(fiber.failed_activations),
            _printable(fiber.name),
        )
        for fiber in fibers
    ]
    for name in ("RUN", "CPU"):
        column = rows[0].index(name)
        if all(row[column] == "-" for row in rows[1:]) and (name == "RUN" or len(rows) > 1):
            rows = [(*row[:column], *row[column + 1 :]) for row in rows]
    heading = rows[0]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    left = (heading.index("STATE"), heading.index("NAME"))
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


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


def prometheus(fibers: Sequence[Fiber]) -> str:
    """Prometheus' text format, version 0.0.4; times in seconds, as is the custom there."""
    metrics: tuple[tuple[str, str, Callable[[Fiber], float | None]], ...] = (
        ("kfiber_cpu_seconds_total", "CPU time of a fiber", lambda f: _seconds(f.cpu_time_ns)),
        (
            "kfiber_run_seconds_total",
            "Time of a fiber on a thread, waiting included",
            lambda f: _seconds(f.run_time_ns),
        ),
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
            f'{name}{{pid="{fiber.pid}",fiber="{fiber.id}",name={_label(fiber.name)}}} {number}'
            for fiber in fibers
            if (number := value(fiber)) is not None
        ]
    return "".join(f"{line}\n" for line in lines)
