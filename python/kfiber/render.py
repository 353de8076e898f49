# SPDX-License-Identifier: MIT
"""Fibers as text. Pure functions: what they are given decides what they return."""

from __future__ import annotations

import dataclasses
import itertools
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from kfiber.info import FiberInfo
from kfiber.rates import Rate

if TYPE_CHECKING:
    from kfiber.stacks import Stack

COLUMNS = ("PID", "COMMAND", "FIBER", "STATE", "TID", "CPU", "RUN", "SWITCHES", "FAILED", "NAME")


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


def printable(name: str) -> str:
    """One line that cannot drive a terminal."""
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else "?" for char in name)


def table(
    fibers: Sequence[FiberInfo],
    *,
    width: int | None = None,
    commands: Mapping[int, str] = MappingProxyType({}),
) -> str:
    """A line a fiber under a heading, numbers right-aligned, no line wider than `width` columns.

    `commands` has the names of processes by their pids. Columns that no fiber has are left out.
    """
    rows: list[tuple[str, ...]] = [COLUMNS]
    rows += [
        (
            str(fiber.pid),
            printable(commands.get(fiber.pid, "")) or "-",
            str(fiber.id),
            fiber.state,
            str(fiber.thread_id or "-"),
            duration(fiber.cpu_time_ns),
            duration(fiber.run_time_ns),
            str(fiber.activations),
            str(fiber.failed_activations),
            printable(fiber.name),
        )
        for fiber in fibers
    ]
    for name in ("RUN", "CPU", "COMMAND"):
        column = rows[0].index(name)
        if all(row[column] == "-" for row in rows[1:]) and (name != "CPU" or len(rows) > 1):
            rows = [(*row[:column], *row[column + 1 :]) for row in rows]
    return _aligned(rows, left=("COMMAND", "STATE", "NAME"), width=width)


RATE_COLUMNS = ("PID", "FIBER", "COUNT", "STATE", "%", "TIME", "SW/S", "LONGEST", "HELD", "NAME")


def rate_row(rate: Rate) -> tuple[str, ...]:
    """The cells of RATE_COLUMNS."""
    return (
        str(rate.pid),
        str(rate.id),
        str(rate.count),
        rate.state,
        f"{100 * rate.share:.1f}",
        duration(rate.time_ns),
        f"{rate.switches_per_second:.0f}",
        duration(rate.longest_run_ns),
        duration(rate.held_ns) if rate.held_ns else "-",
        printable(rate.name),
    )


def rates(rows: Sequence[Rate], *, width: int | None = None) -> str:
    """A line a rate under a heading, no line wider than `width` columns.

    COUNT is there only where some rate is of several fibers, FIBER where one is of one.
    """
    table = [RATE_COLUMNS, *map(rate_row, rows)]
    grouped = any(rate.count > 1 for rate in rows)
    column = RATE_COLUMNS.index("FIBER" if grouped else "COUNT")
    table = [(*row[:column], *row[column + 1 :]) for row in table]
    return _aligned(table, left=("STATE", "NAME"), width=width)


def cells(text: str) -> int:
    """The columns that `text` takes on a terminal: two for a wide character, none for an accent."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def _cut(text: str, width: int | None) -> str:
    """As much of `text` as fits into `width` columns."""
    if width is None or cells(text) <= width:
        return text
    ends = itertools.accumulate(cells(char) for char in text)
    return text[: sum(end <= width for end in ends)]


def _aligned(rows: Sequence[Sequence[str]], *, left: Sequence[str], width: int | None) -> str:
    """The rows under their heading, which is the first; columns of `left` begin at the left."""
    # By columns, which is what takes time with 100,000 fibers.
    columns = [_padded(column, left=column[0] in left) for column in zip(*rows, strict=True)]
    lines = map(" ".join, zip(*columns, strict=True))
    return "".join([f"{_cut(line, width).rstrip()}\n" for line in lines])


def _padded(column: Sequence[str], *, left: bool) -> list[str]:
    """The cells of a column, all of one width."""
    if all(map(str.isascii, column)):
        most = max(map(len, column))
        return [cell.ljust(most) if left else cell.rjust(most) for cell in column]
    most = max(map(cells, column))
    spaces = [" " * (most - cells(cell)) for cell in column]
    pairs = zip(column, spaces, strict=True)
    return [cell + space if left else space + cell for cell, space in pairs]


def _head(stack: Stack) -> str:
    """A fiber, its name, and what it does."""
    fiber = stack.fiber
    name = f' "{printable(fiber.name)}"' if fiber.name else ""
    since = f" for {duration(fiber.last_switch_ns_ago)}" if fiber.activations else ""
    thread = f" on thread {fiber.thread_id}" if fiber.running else ""
    return f"fiber {fiber.id}{name}: {fiber.state}{thread}{since}{_created(stack)}"


def _created(stack: Stack) -> str:
    return f", created at {printable(str(stack.created))}" if stack.created else ""


def _frames(stack: Stack) -> str:
    torn = "    (torn)\n" if stack.torn else ""
    return "".join(f"    {printable(str(frame))}\n" for frame in stack.frames) + torn


def stacks(found: Sequence[Stack]) -> str:
    """A line a fiber, then its frames, then an empty line."""
    return "\n".join(f"{_head(stack)}\n{_frames(stack)}" for stack in found)


_IDS = 8


def stack_groups(groups: Sequence[Sequence[Stack]]) -> str:
    """The number of fibers, which they are, and the frames that they have in common."""
    parts = []
    for group in groups:
        ids = ", ".join(str(stack.fiber.id) for stack in group[:_IDS])
        more = ", …" if len(group) > _IDS else ""
        noun = "fiber" if len(group) == 1 else "fibers"
        head = f"{len(group)} {noun} {group[0].fiber.state}{_created(group[0])}: {ids}{more}"
        parts.append(f"{head}\n{_frames(group[0])}")
    return "\n".join(parts)


def stack_record(stack: Stack) -> dict[str, object]:
    """A stack for JSON: the fields of `FiberInfo`, `created`, `frames` and `torn`."""
    return {
        **dataclasses.asdict(stack.fiber),
        "created": stack.created and stack.created._asdict(),
        "frames": [frame._asdict() for frame in stack.frames],
        "torn": stack.torn,
    }


def to_json(fibers: Sequence[FiberInfo]) -> str:
    """A list of objects with the fields of `FiberInfo`."""
    return json.dumps([dataclasses.asdict(fiber) for fiber in fibers], indent=2) + "\n"


def _label(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'"{escaped}"'


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


def prometheus(fibers: Sequence[FiberInfo]) -> str:
    """Prometheus' text format, version 0.0.4; times in seconds, as is the custom there."""
    metrics: tuple[tuple[str, str, Callable[[FiberInfo], float | None]], ...] = (
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
