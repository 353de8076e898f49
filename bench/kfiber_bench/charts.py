# SPDX-License-Identifier: MIT
"""
The report's pictures. Lettering is drawn as paths, so no font is needed. They are readable in black
and white, since bars differ by hatch and lines by marker and dash, and on light and dark pages:
the picture's own style sheet turns its two colours round.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from io import StringIO
from typing import Any, NamedTuple

from kfiber_bench import reference
from kfiber_bench.data import Data, digest, line, record, records
from kfiber_bench.row import curves
from kfiber_bench.variants import LOOKUPS, VARIANTS

INK, PAPER, GREY = "#1b1f24", "#fefefe", "#8c959f"
DARK = {INK: "#e6edf3", PAPER: "#0d1117", GREY: "#7d8590"}
NAMES = {INK: "--ink", PAPER: "--paper", GREY: "--grey"}

# Of bars: the report's two first.
FILLS = ((PAPER, ""), (INK, ""), (PAPER, "//"), (GREY, ""), (PAPER, "\\\\\\"), (PAPER, "xxx"),
         (PAPER, "..."), (PAPER, "---"))  # fmt: skip
MARKS = "o", "s", "^", "v", "D", "x", "P", "*", "<", ">"
DASHES = "-", "--", "-.", ":"
# The files that pictures() can name; no other file in their folder is ours.
OWN = re.compile(r"((init|work)-(physical|virtual)|rate-\d+|requests|native)\.svg")


class Picture(NamedTuple):
    """A file's name without .svg, a title, a description in words, and how it is drawn."""

    name: str
    title: str
    text: str
    draw: Callable[[Any, Data], None]


def main_machine(data: Data) -> str:
    """The name of the machine with the report's matrix."""
    return "here" if "here" in data["machines"] else "guest"


def relative(data: Data, chart: str, variant: str, cell: tuple[int, int]) -> float | None:
    """
    One of our bars, in units of version 1 with 512 fibers and one process. Work is without the time
    for which a fiber is suspended, which in short runs depends on few signals.
    """
    machine, chart = main_machine(data), {"work": "active"}.get(chart, chart)
    fibers, processes = cell
    own = record(
        data, "matrix", machine=machine, variant=variant, fibers=fibers, processes=processes
    )
    base = record(data, "matrix", machine=machine, variant="version1", fibers=512, processes=1)
    return own[chart]["median"] / base[chart]["median"] if own and base else None


def bars(axes: Any, data: Data, chart: str, machine: str) -> None:
    """Four groups: the reference report's two versions, then ours."""
    cells = reference.CELLS
    lines: list[tuple[str, list[float | None]]] = []
    base = reference.seconds(chart, machine, "version1", cells[0])
    for version in ("version1", "version2"):
        values: list[float | None] = [
            reference.seconds(chart, machine, version, cell) / base for cell in cells
        ]
        lines.append((f"reference report, {version[:-1]} {version[-1]}", values))
    for variant in VARIANTS:
        lines.append(
            (
                f"here, {variant.title}",
                [relative(data, chart, variant.key, cell) for cell in cells],
            )
        )
    width = 0.8 / len(lines)
    for number, ((label, values), (fill, hatch)) in enumerate(zip(lines, FILLS, strict=True)):
        axes.bar(
            [
                group + (number - (len(lines) - 1) / 2) * width
                for group, value in enumerate(values)
                if value
            ],
            [value for value in values if value],
            width, label=label, color=fill, edgecolor=INK, hatch=hatch, linewidth=0.8,
        )  # fmt: skip
    names = [f"{fibers:,} fibers\n{processes} at once" for fibers, processes in cells]
    axes.set(yscale="log", ylabel="times version 1 with 512 fibers (log scale)")
    axes.set_xticks(range(len(cells)), names)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=8, ncols=4, loc="upper left")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 3)


def curve(axes: Any, number: int, label: str, points: Sequence[tuple[float, ...]]) -> None:
    """One line; a point is x, y, and where the interval ends below and above."""
    spread = [[point[1] - point[2] for point in points], [point[3] - point[1] for point in points]]
    axes.errorbar(
        [point[0] for point in points], [point[1] for point in points], yerr=spread, label=label,
        marker=MARKS[number % len(MARKS)], linestyle=DASHES[number % len(DASHES)], markersize=5,
        color=INK, markerfacecolor=PAPER if number % 2 else INK, linewidth=1.2, capsize=2,
    )  # fmt: skip


def rate(axes: Any, data: Data, threads: int) -> None:
    """Time of a switch over the number of fibers."""
    for number, variant in enumerate(VARIANTS):
        points = sorted(
            (each["fibers"], each["ns"]["median"], each["ns"]["low"], each["ns"]["high"])
            for each in records(data, "switching", variant=variant.key, threads=threads)
        )
        if points:
            curve(axes, number, variant.title, points)
    sizes = sorted({each["fibers"] for each in data["switching"]})
    axes.set(xscale="log", yscale="log", xlabel="fibers (log scale)",
             ylabel="ns a switch, of a thread's time (log scale)")  # fmt: skip
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def laps(data: Data, lookup: str, operation: str = "switch") -> list[tuple[int, float]]:
    """Instructions over the number of fibers; two are too few for a line."""
    return sorted(
        (each["fibers"], each["instructions"])
        for each in records(data, "operations", lookup=lookup, operation=operation)
        if each["fibers"] > 2
    )


def requests(axes: Any, data: Data) -> None:
    """Instructions of a switch over the number of fibers, with the lines through them."""
    titles = {each.lookup: each.title for each in VARIANTS if each.engine == "kernel"}
    for number, lookup in enumerate(LOOKUPS):
        points = laps(data, lookup)
        if not points:
            continue
        intercept, slope = line(points)
        axes.plot(
            [x for x, _ in points], [y for _, y in points], linestyle="none", color=INK,
            marker=MARKS[number], markerfacecolor=PAPER if number % 2 else INK,
            label=f"{titles[lookup]}: {intercept:,.0f} + {slope:.2f} N",
        )  # fmt: skip
        ends = [points[0][0], points[-1][0]]
        axes.plot(ends, [intercept + slope * x for x in ends], DASHES[number], color=INK, lw=1)
    axes.set(xlabel="fibers N", ylabel="instructions a switch, mean of all fibers", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.legend(fontsize=8, loc="upper left")


def natively(axes: Any, data: Data) -> None:
    """User level on this machine."""
    rows = data["native"].get("switch", {}).get("rows", [])
    for number, (whose, points) in enumerate(curves(rows).items()):
        curve(
            axes, number, whose,
            [
                (fibers, each["value"], each["value"] - each["spread"] / 2,
                 each["value"] + each["spread"] / 2)
                for fibers, each in sorted(points.items())
            ],
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="fibers in the ring (log scale)",
             ylabel="ns a switch (log scale)")  # fmt: skip
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def pictures(data: Data) -> Iterator[Picture]:
    """Those that the data has figures for."""
    titles = ", ".join(each.title for each in VARIANTS)
    for chart, what in (("init", "Time to initialise"), ("work", "Work per fiber")):
        for machine in ("physical", "virtual"):
            if data["matrix"]:
                yield Picture(
                    f"{chart}-{machine}",
                    f"{what}: the reference report's {machine} machine, and here",
                    f"Bars of both versions of the reference report on its {machine} machine, and "
                    f"of {titles} here, for 512 and 1,024 fibers in one and three processes, as "
                    "multiples of version 1 with 512 fibers.",
                    partial(bars, chart=chart, machine=machine),
                )
    for threads in sorted({each["threads"] for each in data["switching"]}):
        yield Picture(
            f"rate-{threads}",
            f"A switch to a random fiber, {threads} thread{'s' * (threads > 1)}",
            f"Lines over the number of fibers, of {titles}: version 2 rises with the number of "
            "fibers, and the others rise little.",
            partial(rate, threads=threads),
        )
    if data["operations"]:
        yield Picture(
            "requests", "A switch by the kernel, in instructions",
            "Points and straight lines over the number of fibers: version 2 rises, version 1 and "
            "the direct look-up are flat.",
            requests,
        )  # fmt: skip
    if data["native"].get("switch", {}).get("rows"):
        yield Picture(
            "native", "Rings of fibers at user level",
            "Lines over the number of fibers, of libfiber's engine local and of other libraries.",
            natively,
        )  # fmt: skip


def themed(svg: str, picture: Picture, stamp: str) -> str:
    """The picture's colours become those of the page that it is on."""
    # matplotlib gives the ground of a hatch as an attribute, and all other colours in styles.
    svg = re.sub(r'(fill|stroke)="(#\w+)"', r'style="\1: \2"', svg)
    for colour, name in NAMES.items():
        svg = re.sub(
            rf"(fill|stroke): {colour}\b", rf"\1: {colour}; \1: var({name}, {colour})", svg
        )
    light = "".join(f"{name}: {colour}; " for colour, name in NAMES.items())
    dark = "".join(f"{name}: {DARK[colour]}; " for colour, name in NAMES.items())
    style = f"svg{{{light}}} @media (prefers-color-scheme: dark){{svg{{{dark}}}}} "
    svg = svg.replace('<style type="text/css">', f'<style type="text/css">{style}', 1)
    head = f"<!-- data: {stamp} -->\n<title>{escape(picture.title)}</title>\n"
    head += f"<desc>{escape(picture.text)}</desc>"
    svg = re.sub(r"(<svg [^>]*>)", rf"\1\n{head}", svg, count=1)
    return "".join(f"{each.rstrip()}\n" for each in svg.splitlines())


def draw(data: Data) -> dict[str, str]:
    """All pictures, by their files' names. ImportError: no matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "svg.hashsalt": "kfiber", "hatch.linewidth": 0.6, "text.color": INK, "axes.labelcolor": INK,
        "axes.edgecolor": INK, "axes.titlecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.facecolor": PAPER, "figure.facecolor": PAPER, "savefig.facecolor": PAPER,
        "legend.facecolor": PAPER, "legend.edgecolor": GREY, "grid.color": GREY,
        "axes.axisbelow": True,
    }  # fmt: skip
    stamp = digest(data)
    drawn = {}
    with matplotlib.rc_context(style):
        for picture in pictures(data):
            figure = Figure(figsize=(9, 4.8), layout="constrained")
            axes = figure.subplots()
            picture.draw(axes, data)
            axes.set_title(picture.title, fontsize=11)
            axes.grid(axis="y", alpha=0.4)
            text = StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
            drawn[f"{picture.name}.svg"] = themed(text.getvalue(), picture, stamp)
    return drawn
