# SPDX-License-Identifier: MIT
"""What was measured, a row a figure, and how people see it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# The keys are those of row(), as docs/design.md fixes them.
Row = dict[str, Any]


def row(
    case: str,
    value: float,
    unit: str,
    *,
    engine: str | None = "kernel",
    fibers: int | None = None,
    peer: str = "",
    ratio: float | None = None,
    goal: float | None = None,
    spread: float | None = None,
    met: bool | None = None,
    digits: int = 1,
) -> Row:
    """
    A figure of an engine, or with `engine` None the peer's own.

    `ratio` is that to the peer. The goal is for the ratio where there is one, else for the value.
    `fibers` is how many there were where the case is measured over their number. `value` is rounded
    to so many `digits`.
    """
    if met is None and goal is not None:
        met = (value if ratio is None else ratio) <= goal
    return {
        "case": case, "engine": engine, "fibers": fibers,
        "value": round(value, digits), "unit": unit, "peer": peer,
        "ratio": None if ratio is None else round(ratio, 3), "goal": goal,
        "met": met, "spread": None if spread is None else round(spread, 1),
    }  # fmt: skip


def title(each: Row) -> str:
    """The case, with the number of fibers."""
    fibers = "" if each["fibers"] is None else f", {each['fibers']:,} fibers"
    return f"{each['case']}{fibers}"


def table(rows: list[Row]) -> str:
    """A line a row; the goal stands beside the figure."""
    met = {True: "yes", False: "MISSED", None: ""}
    lines = [
        [
            title(each), each["engine"] or "", f"{each['value']:g}", each["unit"],
            "" if each["spread"] is None else f"{each['spread']:g}",
            "" if each["ratio"] is None else f"{each['ratio']:.3f}",
            "" if each["goal"] is None else f"{each['goal']:g}",
            met[each["met"]], each["peer"],
        ]
        for each in rows
    ]  # fmt: skip
    heads = ["case", "engine", "value", "unit", "spread", "ratio", "goal", "met", "to"]
    return aligned(heads, lines, right={2, 4, 5, 6})


def aligned(heads: list[str], lines: list[list[str]], right: Iterable[int]) -> str:
    """Columns of text; those numbered in `right` stand at their right side."""
    from tabulate import tabulate

    sides = ["right" if column in right else "left" for column in range(len(heads))]
    text = tabulate(
        lines, heads, tablefmt="plain", colalign=sides, disable_numparse=True,
        preserve_whitespace=True,
    )  # fmt: skip
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def curves(rows: list[Row]) -> dict[str, dict[int, Row]]:
    """What was measured over the number of fibers: whose switches, then by that number."""
    found: dict[str, dict[int, Row]] = {}
    for each in rows:
        if each["fibers"] is not None and each["ratio"] is None:
            own = f"kfiber {each['engine']}{each['case'].removeprefix('switch')}"
            whose = each["peer"] if each["engine"] is None else own
            found.setdefault(whose, {})[each["fibers"]] = each
    return found


def matrix(rows: list[Row]) -> str:
    """Those figures, a line each and a column a number of fibers: median and spread."""
    lines = curves(rows)
    numbers = sorted({number for line in lines.values() for number in line})
    text = [
        [
            whose,
            *(
                f"{line[number]['value']:.1f} ({line[number]['spread']:.1f})"
                if number in line
                else "-"
                for number in numbers
            ),
        ]
        for whose, line in lines.items()
    ]
    heads = ["ns (spread), fibers:", *(f"{number:,}" for number in numbers)]
    return aligned(heads, text, right=range(1, len(heads)))
