# SPDX-License-Identifier: MIT
"""
docs/report.md, and the README's sentence, from the data alone: no figure is typed by hand. The
discussion is discussion.md beside this file, a text with names in braces where figures go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from kfiber_bench import reference
from kfiber_bench.charts import Picture, laps, main_machine, pictures
from kfiber_bench.data import BUCKETS, Data, Record, Series, line, record, records
from kfiber_bench.row import curves
from kfiber_bench.variants import LOOKUPS, VARIANTS

DISCUSSION = Path(__file__).with_name("discussion.md")
NONE = "-"
# What README has between two comments; both are kept.
SUMMARY = re.compile(r"(<!-- report -->\n).*?(<!-- /report -->)", re.DOTALL)

OPERATIONS = (
    ("getppid", "getppid()"),
    ("null_ioctl", "an ioctl that /dev/null refuses"),
    ("convert", "convert"),
    ("revert", "revert"),
    ("create", "create"),
    ("delete", "delete"),
    ("switch", "switch"),
    ("refused_switch", "switch refused: the fiber is running"),
    ("fls_alloc", "FLS alloc"),
    ("fls_free", "FLS free"),
    ("fls_set", "FLS set"),
    ("fls_get", "FLS get"),
)
STATES = (
    "the module is absent",
    "the module is loaded",
    "another process has fibers",
    "threads with a status table",
    "threads that are fibers",
)


def table(heads: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table of Markdown, its figures on the right."""
    heads = list(heads)
    rule = ["---", *("---:" for _ in heads[1:])]
    rows = [heads, rule, *(list(each) for each in lines)]
    return "".join(f"| {' | '.join(each)} |\n" for each in rows)


def number(value: float) -> str:
    """With three significant digits or all of a whole number."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def interval(series: Series, scale: float = 1.0) -> str:
    """The median, and its interval."""
    low, high = number(series["low"] * scale), number(series["high"] * scale)
    return f"{number(series['median'] * scale)} ({low} to {high})"


def machine_text(about: Record) -> str:
    """One machine."""
    emulated = ", emulated by QEMU (TCG)" if about["emulated"] else ""
    return (
        f"Linux {about['kernel']}, {about['processor']}, {about['processors']} "
        f"processor{'s' * (about['processors'] > 1)}{emulated}"
    )


def span(values: Iterable[float]) -> str:
    """From the least to the greatest, as whole numbers."""
    values = list(values)
    low, high = f"{min(values):,.0f}", f"{max(values):,.0f}"
    return low if low == high else f"{low} to {high}"


# What each machine is for.
ROLES = {
    "guest": "the report's matrix, the rate of switches",
    "here": "the report's matrix, the rate of switches",
    "counted": "everything that is counted in instructions",
    "second": "the matrix on another kernel",
}


def machines(data: Data) -> str:
    """All of them, and what was measured on each."""
    lines = [[name, ROLES[name], machine_text(each)] for name, each in data["machines"].items()]
    for case in data["native"].values():
        environment = case["environment"]
        # What follows the processor's name is about the case.
        processor = environment["machine"].partition(",")[0]
        runs = "; it emulates the others" if "guest" in data["machines"] else ""
        lines.append(["host", f"user level{runs}", f"Linux {environment['kernel']}, {processor}"])
        break
    return table(["machine", "what is measured on it", "what it is"], lines).replace("---:", "---")


def caption(data: Data, machine: str, text: str, spread: bool = True) -> str:
    """What stands below a picture or a table that is measured in repeats."""
    about = data["about"]
    shown = f"medians, in brackets their {brackets(data)}" if spread else (
        f"medians, whose {brackets(data)} are in the tables below"
    )  # fmt: skip
    return (
        f"*{text} {machine_text(data['machines'][machine])}. {about['repeats']} repeats, in which "
        f"the variants take turns; {shown}. `{about['command']}`*\n"
    )


# With fewer repeats the bootstrap's 95 % interval of a median reaches from the least to the
# greatest, whatever the samples are.
REPEATS = 6


def brackets(data: Data) -> str:
    """The name of what stands in brackets: low and high of a Series."""
    if data["about"]["repeats"] < REPEATS:
        return "ranges, from the least to the greatest of the repeats"
    return "95 % confidence intervals"


def counted_caption(data: Data, text: str, exact: bool = True) -> str:
    """The same where instructions are counted: these have no spread unless buckets are chosen."""
    spread = (
        "the same in each run"
        if exact
        else "the same in each run where no table is used (direct, mapped, local). With hash and "
        "scan the module chooses its buckets by a secret key when it is loaded: two runs agree if "
        f"their means differ by at most {BUCKETS:.0%}"
    )
    return (
        f"*{text} {machine_text(data['machines']['counted'])}, with `-icount`: instructions, "
        f"{spread}. `{data['about']['command']}`*\n"
    )


def show(picture: Picture) -> str:
    """A picture in the page."""
    return f"![{picture.text}](report/{picture.name}.svg)\n"


# Series of the matrix in seconds, and from which factor on the page says that one is wide.
TIMED = ("init", "work", "active")
WIDE = 3.0


def matrix(data: Data, machine: str) -> Iterator[str]:
    """Both tables of a machine."""
    found = list(records(data, "matrix", machine=machine))
    cells = sorted({(each["fibers"], each["processes"]) for each in found})
    heads = ["", *(f"{fibers:,} fibers, {processes} at once" for fibers, processes in cells)]
    for name, what, scale in (
        ("init", "Time to initialise, milliseconds", 1e3),
        ("work", "Work per fiber, milliseconds", 1e3),
        ("active", "Work per fiber without the time for which it is suspended, milliseconds", 1e3),
        ("ratio", "The same, times version 1 in the same repeat", 1.0),
    ):
        lines = []
        for variant in VARIANTS:
            values = [
                record(
                    data, "matrix", machine=machine, variant=variant.key, fibers=fibers,
                    processes=processes,
                )
                for fibers, processes in cells
            ]  # fmt: skip
            if any(values):
                lines.append(
                    [variant.title,
                     *(interval(each[name], scale) if each and name in each else NONE
                       for each in values)]
                )  # fmt: skip
        yield f"**{what}**\n"
        yield table(heads, lines)
    one = found[0]
    yield caption(
        data, machine,
        f"Workload `cells`, {one['calls']:,} calls a fiber, {one['threads']} threads a process. A "
        f"fiber reads its storage {span(each['reads'] for each in found)} times, depending on the "
        f"numbers of fibers and processes, and switches {span(each['switches'] for each in found)} "
        "times.",
    )  # fmt: skip
    widest = max(each[name]["high"] / each[name]["low"] for each in found for name in TIMED)
    if widest > WIDE:
        yield (
            f"The widest range in these tables spans a factor of {times(widest)}, probably because "
            "the host was disturbed in some repeats. Where ranges overlap, the medians do not tell "
            "which variant is faster.\n"
        )


def with_suspension(data: Data, fibers: int, processes: int) -> str:
    """Version 2 by version 1 as the reference report defines its work."""
    key = {"machine": main_machine(data), "fibers": fibers, "processes": processes}
    works = [record(data, "matrix", variant=each, **key) for each in ("version1", "version2")]
    if not (works[0] and works[1]):
        return NONE
    return times(works[1]["work"]["median"] / works[0]["work"]["median"])


def references(data: Data) -> str:
    """Version 2 by version 1: the reference report's, and ours."""
    lines = []
    for fibers, processes in reference.CELLS:
        key = {"variant": "version2", "fibers": fibers, "processes": processes}
        own = record(data, "matrix", machine=main_machine(data), **key)
        counted = record(data, "matrix", machine="counted", **key)
        lines.append(
            [
                f"{fibers:,} fibers, {processes} at once",
                *(times(reference.ratio(each, (fibers, processes))) for each in reference.MACHINES),
                with_suspension(data, fibers, processes),
                interval(own["ratio"]) if own and "ratio" in own else NONE,
                times(counted["ratio"]["median"]) if counted else NONE,
            ]
        )
    heads = [
        "work of version 2, times version 1", "report, physical", "report, virtual",
        "here, in time", "here, in time, without suspension",
        "here, in instructions, without suspension",
    ]  # fmt: skip
    return table(heads, lines)


def counted_matrix(data: Data) -> str:
    """The workload in instructions."""
    lines = []
    for variant in VARIANTS:
        found = [
            record(data, "matrix", machine="counted", variant=variant.key, fibers=fibers)
            for fibers in (512, 1024)
        ]
        if any(found):
            lines.append(
                [
                    variant.title,
                    *(number(each["active"]["median"] * 1e9) if each else NONE for each in found),
                    *(times(each["ratio"]["median"]) if each else NONE for each in found),
                ]
            )
    heads = ["instructions a fiber", "512 fibers", "1,024 fibers"]
    return table([*heads, "512, times version 1", "1,024, times version 1"], lines)


def switching(data: Data, threads: int) -> str:
    """Time of a switch."""
    sizes = sorted({each["fibers"] for each in records(data, "switching", threads=threads)})
    lines = []
    for variant in VARIANTS:
        found = [
            record(data, "switching", variant=variant.key, threads=threads, fibers=size)
            for size in sizes
        ]
        if any(found):
            lines.append(
                [variant.title, *(interval(each["ns"]) if each else NONE for each in found)]
            )
    return table(
        [f"ns, {threads} thread{'s' * (threads > 1)}", *(f"{each:,}" for each in sizes)], lines
    )


def operations(data: Data) -> str:
    """Requests by look-up and number of fibers."""
    heads = ["request", *(f"{lookup}, {fibers:,}" for lookup in LOOKUPS for fibers in (128, 1024))]
    lines = []
    for key, title in OPERATIONS:
        found = [
            record(data, "operations", operation=key, lookup=lookup, fibers=fibers)
            for lookup in LOOKUPS
            for fibers in (128, 1024)
        ]
        lines.append([title, *(number(each["instructions"]) if each else NONE for each in found)])
    return table(heads, lines)


def fits(data: Data) -> str:
    """The lines through a switch's and a read's costs."""
    lines = []
    for operation, title in (("switch", "switch"), ("fls_get", "FLS get")):
        for lookup in LOOKUPS:
            points = laps(data, lookup, operation)
            if len(points) < 2:
                continue
            intercept, slope = line(points)
            lines.append(
                [
                    f"{title}, {lookup}",
                    *(number(value) for _, value in points),
                    f"{intercept:,.0f}",
                    f"{slope:.3f}",
                ]
            )
    sizes = [f"{size:,}" for size, _ in laps(data, LOOKUPS[0])]
    return table(["request, look-up", *sizes, "intercept", "slope"], lines)


def functions(data: Data) -> str:
    """What one switch executes."""
    total = sum(each["instructions"] for each in data["functions"])
    lines = [
        [f"`{each['function']}`", str(each["instructions"]), f"{each['instructions'] / total:.1%}"]
        for each in data["functions"]
    ]
    return table(["function", "instructions", "share"], [*lines, ["all", str(total), "100 %"]])


def others(data: Data) -> str:
    """A switch of the CPU."""
    by_state = {each["state"]: each["instructions"] for each in data["others"]}
    bare = by_state.get(STATES[0])
    lines = [
        [state, number(by_state[state]), f"{by_state[state] - bare:+d}" if bare else NONE]
        for state in STATES
        if state in by_state
    ]
    return table(["when", "instructions", "added"], lines)


def natively(data: Data) -> Iterator[str]:
    """User level in C and Python."""
    native = data["native"]
    if switch := native.get("switch"):
        lines = curves(switch["rows"])
        sizes = sorted({size for points in lines.values() for size in points})
        yield "**A switch in a ring, nanoseconds (quartile distance)**\n"
        yield table(
            ["fibers", *(f"{size:,}" for size in sizes)],
            [
                [whose, *(
                    f"{number(points[size]['value'])} ({number(points[size]['spread'])})"
                    if size in points else NONE for size in sizes
                )]
                for whose, points in lines.items()
            ],
        )  # fmt: skip
        yield native_caption(data, switch["environment"])
    if create := native.get("create"):
        yield "**A fiber's life, nanoseconds (quartile distance)**\n"
        yield table(
            ["case", "whose", "ns"],
            [
                [each["case"], each["peer"] or f"kfiber {each['engine']}",
                 f"{number(each['value'])} ({number(each['spread'] or 0)})"]
                for each in create["rows"] if each["ratio"] is None
            ],
        )  # fmt: skip
        yield native_caption(data, create["environment"])
    if python := native.get("python"):
        yield "**Python**\n"
        yield table(
            ["case", "kfiber", "unit", "times", "of"],
            [
                [each["case"],
                 number(each["value"]) + (f" ({number(each['spread'])})" if each["spread"] else ""),
                 each["unit"], f"{each['ratio']:.3f}", each["peer"]]
                for each in python["rows"] if each["ratio"] is not None
            ],
        )  # fmt: skip
        releases = re.sub(
            r"(\S+) swap (\w+) greenlet ([^\s,]+)",
            r"CPython \1 (thread states are swapped the \2 way) with greenlet \3",
            python["environment"].get("python", ""),
        )
        yield native_caption(data, python["environment"], f"{releases}. ")


def native_caption(data: Data, environment: Record, text: str = "") -> str:
    """Below a table of the host's own user level."""
    where = re.sub(r"\b1 passes$", "one pass", environment["machine"])
    spread = (
        "no spread, because there is one pass" if where.endswith("one pass")
        else "medians of the passes, in brackets the distance between their quartiles"
    )  # fmt: skip
    return (
        f"*{text}Linux {environment['kernel']}, {where}; {spread}; not emulated by us. "
        f"`{data['about']['command']}`*\n"
    )


# By the names that the texts use; what was not measured is not there.
Figures = dict[str, str]

MODULE = re.compile(r"^fiber_|^(native_|local_)?sched_clock")
SECURITY = re.compile(r"security|tomoyo|apparmor|selinux|lsm|^bpf_")
FILES = re.compile(r"ioctl|fdget|fget")


def figures(data: Data) -> Figures:
    """Everything that a text may name."""
    found = Figures(
        report_512=times(reference.ratio("physical", (512, 1))),
        report_1024=times(reference.ratio("physical", (1024, 1))),
        report_virtual_512=times(reference.ratio("virtual", (512, 1))),
        report_virtual_1024=times(reference.ratio("virtual", (1024, 1))),
        report_init_virtual=number(
            reference.seconds("init", "virtual", "version1", (512, 1))
            / reference.seconds("init", "virtual", "version2", (512, 1))
        ),
        command=data["about"]["command"],
        minutes=number(data["about"]["minutes"]),
        repeats=str(data["about"]["repeats"]),
    )
    found.update(counted_figures(data))
    found.update(timed_figures(data))
    return found


def counted_figures(data: Data) -> Iterator[tuple[str, str]]:
    """Those of instructions."""
    lines = {lookup: laps(data, lookup) for lookup in LOOKUPS}
    if all(len(points) > 1 for points in lines.values()):
        intercept, slope = line(lines["scan"])
        flat, rise = line(lines["hash"])
        at = {lookup: dict(points) for lookup, points in lines.items()}
        gets = {lookup: dict(laps(data, lookup, "fls_get")) for lookup in LOOKUPS}
        yield "scan_intercept", f"{intercept:,.0f}"
        yield "scan_slope", f"{slope:.1f}"
        yield "hash_slope", f"{rise:.3f}"
        yield "each_fiber", f"{2 * slope:.0f}"
        # A scan ends at the caller's bucket, on average in the middle of 1,024.
        yield "bucket", f"{(intercept - flat) / 512:.0f}"
        for size in (512, 1024):
            yield f"scan_{size}", number(at["scan"][size])
            yield f"ratio_{size}", times(at["scan"][size] / at["hash"][size])
            yield f"get_ratio_{size}", times(gets["scan"][size] / gets["hash"][size])
        yield "hash_512", number(at["hash"][512])
        yield "direct_512", number(at["direct"][512])
        yield "direct_saves", number(at["hash"][512] - at["direct"][512])
        yield "get_direct", number(gets["direct"][512])
        yield "get_hash_1024", number(gets["hash"][1024]) if 1024 in gets["hash"] else NONE
        yield "get_scan_1024", number(gets["scan"][1024]) if 1024 in gets["scan"] else NONE
        for size in (512, 1024):
            works = [
                record(data, "matrix", machine="counted", variant=variant, fibers=size)
                for variant in ("version1", "version2")
            ]
            if works[0] and works[1]:
                # All reads of a fiber, and all of its work: by how much version 2 takes longer.
                reads = works[1]["reads"] * (gets["scan"][size] - gets["hash"][size])
                work = (works[1]["active"]["median"] - works[0]["active"]["median"]) * 1e9
                yield f"gets_{size}", f"{reads / 1e6:.2f}"
                yield f"grows_{size}", f"{work / 1e6:.2f}"
    if null := record(data, "operations", operation="null_ioctl", lookup="direct", fibers=512):
        yield "null_ioctl", number(null["instructions"])
    if data["functions"]:
        parts = {"switch_module": 0, "switch_security": 0, "switch_vfs": 0, "switch_entry": 0}
        for each in data["functions"]:
            name = each["function"]
            part = (
                "switch_module" if MODULE.search(name)
                else "switch_security" if SECURITY.search(name)
                else "switch_vfs" if FILES.search(name)
                else "switch_entry"
            )  # fmt: skip
            parts[part] += each["instructions"]
        yield from ((name, str(count)) for name, count in parts.items())
        yield "switch_all", str(sum(parts.values()))
    by_state = {each["state"]: each["instructions"] for each in data["others"]}
    if set(STATES) <= set(by_state):
        bare = by_state[STATES[0]]
        yield "absent", number(bare)
        for name, state in zip(
            ("loaded_adds", "other_adds", "attached_adds", "fibers_add"), STATES[1:], strict=True
        ):
            yield name, str(by_state[state] - bare)


def timed_figures(data: Data) -> Iterator[tuple[str, str]]:
    """Those of times."""
    machine = main_machine(data)
    for size in (512, 1024):
        key = {"variant": "version2", "fibers": size, "processes": 1}
        own = record(data, "matrix", machine=machine, **key)
        counted = record(data, "matrix", machine="counted", **key)
        if own and "ratio" in own:
            yield f"time_{size}", times(own["ratio"]["median"])
            low, high = own["ratio"]["low"], own["ratio"]["high"]
            yield f"time_{size}_range", f"{times(low)} to {times(high)}"
        if counted:
            yield f"work_{size}", times(counted["ratio"]["median"])
        base = record(data, "matrix", machine=machine, variant="version1", fibers=512, processes=1)
        if own and base:
            yield f"chart_{size}", times(own["active"]["median"] / base["active"]["median"])
    if found := list(records(data, "matrix", machine=machine)):
        yield "reads", span(each["reads"] for each in found)
        yield "switches", span(each["switches"] for each in found)
        yield "calls", number(found[0]["calls"])
    counts = dict(laps(data, "scan"))
    for size in (512, 4096):
        one = record(data, "switching", variant="version2", threads=1, fibers=size)
        if one and size in counts:
            yield f"timed_{size}", f"{one['ns']['median'] / counts[size]:.2f}"
    for name, variant in (
        ("rate_mapped", "mapped"), ("rate_local", "local"), ("rate_direct", "direct"),
        ("rate_swapcontext", "swapcontext"),
    ):  # fmt: skip
        if one := record(data, "switching", variant=variant, threads=1, fibers=1024):
            yield name, number(one["ns"]["median"])
    for name, variant in (("rate_scan_growth", "version2"), ("rate_hash_growth", "version1")):
        ends = [
            record(data, "switching", variant=variant, threads=1, fibers=size)
            for size in (128, 4096)
        ]
        if ends[0] and ends[1]:
            yield name, times(ends[1]["ns"]["median"] / ends[0]["ns"]["median"])
    for name, where in (("init_spread", machine), ("second_spread", "second")):
        spreads = [
            each["init"]["high"] / each["init"]["low"]
            for each in records(data, "matrix", machine=where)
            if each["init"]["low"]
        ]
        if spreads:
            yield name, times(max(spreads))
    for name, where in (("init_swapcontext", machine), ("second_swapcontext", "second")):
        key = {"machine": where, "fibers": 512, "processes": 1}
        inits = [
            record(data, "matrix", variant=each, **key) for each in ("version1", "swapcontext")
        ]
        if inits[0] and inits[1]:
            yield name, times(inits[1]["init"]["median"] / inits[0]["init"]["median"])
    python = data["native"].get("python", {}).get("rows", [])
    for name, case in (("python_switch", "switch to and from main"), ("python_collect", "gc.coll")):
        ratios = [each["ratio"] for each in python if case in each["case"] and each["ratio"]]
        if ratios:
            yield name, f"{times(min(ratios))} to {times(max(ratios))}"
    lines = curves(data["native"].get("switch", {}).get("rows", []))
    for name, whose in (("native_local", "kfiber local"), ("native_swapcontext", "swapcontext")):
        if point := lines.get(whose, {}).get(512):
            yield name, number(point["value"])


def summary(data: Data) -> str:
    """The README's chart and the sentence that it supports."""
    found = figures(data)
    picture = {each.name: each for each in pictures(data)}["work-physical"]
    return (
        f"![{picture.text}](docs/report/{picture.name}.svg)\n\n"
        "Version 2 of the reference report looks for the running fiber among all fibers, so its "
        f"work grows with their number. The reference report measured {found['report_512']} times "
        f"the work of version 1 with 512 fibers and {found['report_1024']} times with 1,024, the "
        "time included for which a fiber is suspended. Without that time we count "
        f"{found['work_512']} and {found['work_1024']} times the instructions. The chart has the "
        "emulated machine's times, as multiples of version 1 with 512 fibers: version 2 stands at "
        f"{found['chart_512']} and {found['chart_1024']}. Our engines find the running fiber "
        "without a search. `make report` repeats the measurement and writes "
        "[the whole comparison](docs/report.md).\n"
    )


def with_summary(readme: str, data: Data) -> str:
    """README with that part as the data has it."""
    text = summary(data)
    return SUMMARY.sub(lambda found: f"{found[1]}{text}{found[2]}", readme, count=1)


def sections(data: Data) -> Iterator[str]:
    """The page, piece by piece."""
    about = data["about"]
    here = main_machine(data)
    drawn = {each.name: each for each in pictures(data)}
    found = figures(data)
    yield "<!-- Written by `make report` from report/data.json: change neither by hand. -->\n"
    yield "# The reference report's comparison, repeated\n"
    yield (
        "The reference report (M. Mariani, R. Chiaretti, *Fiber project*, chapter 3) compares two "
        "versions of its module. This page repeats that comparison with this project's module, "
        "which has both versions as look-ups, and sets our engines and the C library's "
        "`swapcontext()` beside them. [The map](report-map.md) leads from the report's terms to "
        "the code. One command measured everything on this page:\n"
    )
    yield f"    {about['command']}\n"
    yield (
        f"It was run on {about['date']} with the sources of commit `{about['source']}` and took "
        f"{number(about['minutes'])} minutes.\n"
    )
    yield machines(data)
    yield "## The report's matrix\n"
    if data["matrix"]:
        yield (
            "Each cell of the workload is a fiber. *Time to initialise* is what the main thread "
            "needs to create all other fibers. *Work per fiber* is the time from a fiber's first "
            "instruction until its last call has ended, the mean of all fibers. In this "
            "definition, the reference report's, the time counts for which the handler of a signal "
            "has suspended the fiber: there is one signal a second, and the fiber then waits until "
            "another one happens to choose it. In short runs that is luck, so the charts and most "
            "ratios leave it out. With three processes at once each figure is the mean of the "
            "three.\n"
        )
        yield (
            "A cell is a cell of a simulated telephone network, and a call one of its telephone "
            "calls. *hash*, *scan* and *direct* are the three ways, called look-ups, in which the "
            "module finds the calling fiber: the report's version 1, its version 2 and our own. "
            "With all three the kernel switches; engines `mapped` and `local` and "
            "`swapcontext()` switch in user mode. A *fiber thread* is a thread that runs fibers.\n"
        )
        yield references(data)
        for name in ("work-physical", "work-virtual", "init-physical", "init-virtual"):
            machine = name.partition("-")[2]
            yield show(drawn[name])
            yield caption(
                data, here,
                f"The report's bars are of its {machine} machine ({reference.MACHINES[machine]}, "
                f"{reference.CALLS:,} calls a fiber, no repeats stated). All bars are multiples of "
                "version 1 with 512 fibers in one process on the same machine, on a logarithmic "
                f"scale.{' Our work is without suspension.' * name.startswith('work')} Here:",
                spread=False,
            )  # fmt: skip
        yield from matrix(data, here)
    if any(records(data, "matrix", machine="counted")):
        yield "**Work per fiber, in instructions**\n"
        yield counted_matrix(data)
        one = next(records(data, "matrix", machine="counted"))
        yield counted_caption(
            data,
            f"Workload `cells`, one process, {one['calls']:,} calls a fiber, without suspension; "
            "one run. The emulator's clock counts one nanosecond an instruction.",
            exact=False,
        )
    if any(records(data, "matrix", machine="second")):
        yield "## The matrix on another kernel\n"
        yield from matrix(data, "second")
    if data["switching"]:
        yield "## The rate of switches\n"
        above = (
            f"In the workload above a fiber reads storage {found['reads']} times and switches "
            f"{found['switches']} times. "
        ) if data["matrix"] else ""  # fmt: skip
        yield (
            f"{above}Here fibers do "
            "nothing but switch to random others. A switch to a fiber that another thread runs is "
            "refused and not counted; its time is.\n"
        )
        for threads in sorted({each["threads"] for each in data["switching"]}):
            below = caption(
                data, here,
                f"Program `switches`, {about['seconds']:g} s a repeat. The chart has the medians, "
                "and as bars what is in brackets.",
            )  # fmt: skip
            yield show(drawn[f"rate-{threads}"])
            yield below
            yield switching(data, threads)
            yield below
    if data["operations"]:
        yield "## Requests, in instructions\n"
        yield operations(data)
        yield counted_caption(
            data,
            "Raw requests, seen from user mode, by the look-up (hash is version 1, scan is version "
            "2) and the number of fibers. FLS is fiber-local storage. A request of a fiber is "
            "measured in each fiber of a ring, and the figure is the mean; with hash and scan it "
            "is also the mean of several loads of the module.",
            exact=False,
        )
        lap = "The mean over all fibers of a ring, and the line through it."
        yield show(drawn["requests"])
        yield counted_caption(data, lap, exact=False)
        yield fits(data)
        yield counted_caption(data, lap, exact=False)
    if data["functions"]:
        yield "## One switch, function by function\n"
        yield functions(data)
        yield counted_caption(
            data,
            "One switch of engine `kernel` with the direct look-up, stepped through by the "
            "emulator's debugger interface from the kernel's first instruction to its last. The "
            "table above has more for a switch because it is seen from user mode, whose own "
            "instructions it contains.",
        )
    if data["others"]:
        yield "## What others pay\n"
        yield others(data)
        yield counted_caption(
            data,
            "A switch of the CPU between two threads that yield, the median of 2,001. A "
            "status table is the memory that engine `mapped` shares with the module.",
        )
    yield "## User level, on the machine itself\n"
    if data["native"]:
        yield (
            "In a ring each fiber switches to the next one. *asm* is a switch written by hand. "
            "*switch only* saves and restores the registers; *same work* also takes the fiber "
            "against other threads, reads the clock and counts, as libfiber's switch does. *With "
            "the hint* a fiber names the one after the next beforehand, so that the processor can "
            "fetch its memory (`fiber_prefetch()`). [measurements.md](measurements.md) has more on "
            "what each program does.\n"
        )
    if "native" in drawn:
        yield show(drawn["native"])
        yield native_caption(data, data["native"]["switch"]["environment"])
    yield from natively(data)
    text = DISCUSSION.read_text().split("-->\n", 1)[1]
    if set(re.findall(r"\{(\w+)\}", text)) <= found.keys():
        yield text.strip().format_map(found) + "\n"
    else:
        yield "## Discussion\n"
        yield "It needs all parts of a whole run, by `make report`; in this run some are missing.\n"
    if data["missing"]:
        yield "## What is missing\n"
        yield table(["what", "why"], [[e["what"], e["why"]] for e in data["missing"]]).replace(
            "---:", "---"
        )


def render(data: Data) -> str:
    """The page."""
    return "\n".join(sections(data))
