# SPDX-License-Identifier: MIT
"""What was measured, a row a figure, and how people see it."""

from __future__ import annotations

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
) -> Row:
    """
    A figure of an engine, or with `engine` None the peer's own.

    `ratio` is that to the peer. The goal is for the ratio where there is one, else for the value.
    `fibers` is how many there were where the case is measured over their number.
    """
    if met is None and goal is not None:
        met = (value if ratio is None else ratio) <= goal
    return {
        "case": case, "engine": engine, "fibers": fibers, "value": round(value, 1), "unit": unit,
        "peer": peer, "ratio": None if ratio is None else round(ratio, 3), "goal": goal,
        "met": met, "spread": None if spread is None else round(spread, 1),
    }  # fmt: skip


def title(each: Row) -> str:
    """The case, with the number of fibers."""
    fibers = "" if each["fibers"] is None else f", {each['fibers']:,} fibers"
    return f"{each['case']}{fibers}"


def table(rows: list[Row]) -> str:
    """A line a row; the goal stands beside the figure."""
    width = max(len("case"), *(len(title(each)) for each in rows)) + 2
    lines = [
        f"{'case':<{width}}{'engine':<7}{'value':>9}  {'unit':<13}{'spread':>7} {'ratio':>7}"
        f" {'goal':>6}  {'met':<7}to"
    ]
    for each in rows:
        spread = "" if each["spread"] is None else f"{each['spread']:g}"
        ratio = "" if each["ratio"] is None else f"{each['ratio']:.3f}"
        goal = "" if each["goal"] is None else f"{each['goal']:g}"
        met = {True: "yes", False: "MISSED", None: ""}[each["met"]]
        lines.append(
            f"{title(each):<{width}}{each['engine'] or '':<7}{each['value']:>9}  {each['unit']:<13}"
            f"{spread:>7} {ratio:>7} {goal:>6}  {met:<7}{each['peer']}"
        )
    return "".join(f"{line.rstrip()}\n" for line in lines)


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
    text = [f"{'ns (spread), fibers:':<28}" + "".join(f"{number:>16,}" for number in numbers)]
    for whose, line in lines.items():
        cells = (
            f"{line[number]['value']:.1f} ({line[number]['spread']:.1f})" if number in line else "-"
            for number in numbers
        )
        text.append(f"{whose:<28}" + "".join(f"{cell:>16}" for cell in cells))
    return "".join(f"{line}\n" for line in text)
