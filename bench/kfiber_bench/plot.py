# SPDX-License-Identifier: MIT
"""A picture of what was measured over the number of fibers."""

from __future__ import annotations

from pathlib import Path

from kfiber_bench.row import Row, curves


def draw(rows: list[Row], title: str, path: Path) -> bool:
    """Both axes logarithmic; bars are the spread. False, and no picture: no matplotlib here."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for whose, line in curves(rows).items():
        numbers = sorted(line)
        own = line[numbers[0]]["engine"] is not None
        axes.errorbar(
            numbers,
            [line[number]["value"] for number in numbers],
            yerr=[line[number]["spread"] / 2 for number in numbers],
            label=whose, marker="o", markersize=4, capsize=2, linewidth=2.5 if own else 1.2,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="fibers", ylabel="ns a switch", title=title)
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path)
    return True
