# SPDX-License-Identifier: MIT
"""
The report's data: a JSON object of lists of records, and what is computed from their samples.

    about       how and when it was measured: command, mode, date, source, repeats, minutes,
                seconds (of a sample of `switching`), second_kernel, counted_calls (calls a fiber
                on machine `counted`)
    machines    by name (guest, second, counted, here): kernel, processors, emulation
    matrix      machine, variant, fibers, processes, calls; init, work (as the reference report
                defines it) and active (without suspension) are Series in seconds
    switching   machine, variant, fibers, threads; ns is a Series, refused a share
    operations  lookup, fibers, operation; instructions, least and most
    functions   function, instructions: what one switch of engine `kernel` executes, in order
    others      state; instructions of a switch of the CPU
    native      rows of row.py by case, with their environment
    missing     what was not measured, and why

A Series is {"samples", "median", "low", "high"}; low and high are the ends of the 95 % confidence
interval of the median, which with fewer than six samples are the least and the greatest. On machine
`counted` a second is 10^9 instructions. `ratio` beside `active` and `ns` is one as well: to version
1 in the same repeat, so that a host that is busy for a while changes both.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "report"
FILE = FOLDER / "data.json"
PAGE = ROOT / "docs" / "report.md"

Record = dict[str, Any]
Series = dict[str, Any]
Data = dict[str, Any]

LISTS = ("matrix", "switching", "operations", "functions", "others", "missing")

# Each record has at least these; `ratio` is there if version 1 was measured in the same repeat.
FIELDS: dict[str, dict[str, type]] = {
    "matrix": {
        "machine": str, "variant": str, "fibers": int, "processes": int, "calls": int,
        "threads": int, "init": dict, "work": dict, "active": dict, "reads": float,
        "switches": float,
    },
    "switching": {"machine": str, "variant": str, "fibers": int, "threads": int, "ns": dict},
    "operations": {"lookup": str, "fibers": int, "operation": str, "instructions": int},
    "functions": {"function": str, "instructions": int},
    "others": {"state": str, "instructions": int},
    "missing": {"what": str, "why": str},
}  # fmt: skip
ABOUT = {"command": str, "date": str, "source": str, "repeats": int, "seconds": float,
         "minutes": float}  # fmt: skip
MACHINE = {"kernel": str, "processor": str, "processors": int, "emulated": bool}
CASE = {"environment": dict, "rows": list}
SERIES = {"samples": list, "median": float, "low": float, "high": float}


class DataError(Exception):
    """A file that has no report's data; one line with a hint."""


def new() -> Data:
    """With nothing measured yet."""
    return {"about": {}, "machines": {}, **{name: [] for name in LISTS}, "native": {}}


def load(path: Path = FILE) -> Data:
    """Reads a file that save() wrote. DataError: the file has something else, or less."""
    hint = "hint: make report measures again"
    try:
        data: Data = json.loads(path.read_text())
        check(data)
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}; {hint}") from e
    except ValueError as e:
        raise DataError(f"{path} has no data of a report: {e}; {hint}") from e
    return data


def check(data: object) -> None:
    """ValueError: the data lacks something that page and charts need."""
    whole = fields(data, "it", {"about": dict, "machines": dict, "native": dict})
    fields(whole["about"], "about", ABOUT)
    for name, machine in whole["machines"].items():
        fields(machine, f"machine {name}", MACHINE)
    for name, case in whole["native"].items():
        fields(case, f"native case {name}", CASE)
    fields(whole, "it", dict.fromkeys(LISTS, list))
    for table, wanted in FIELDS.items():
        for number, each in enumerate(whole[table]):
            where = f"record {number} of {table}"
            fields(each, where, wanted)
            for name, kind in wanted.items():
                if kind is dict:
                    fields(each[name], f"{name} of {where}", SERIES)
            if each.get("machine", "") not in ("", *whole["machines"]):
                raise ValueError(f"{where} names a machine that is not described")


def fields(value: object, where: str, wanted: Mapping[str, type]) -> dict[str, Any]:
    """The value, an object that has these keys. ValueError: it is none."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object")
    for name, kind in wanted.items():
        if name not in value:
            raise ValueError(f"{where} has no {name!r}")
        if not isinstance(value[name], (int, float) if kind is float else kind):
            raise ValueError(f"{name!r} of {where} is a {type(value[name]).__name__}")
    return value


def save(data: Data, path: Path = FILE) -> None:
    """One record a line, so that versions can be compared."""
    parts = []
    for key, value in data.items():
        if isinstance(value, list) and value:
            records = ",\n  ".join(json.dumps(each, ensure_ascii=False) for each in value)
            parts.append(f"{json.dumps(key)}: [\n  {records}\n]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, indent=2, ensure_ascii=False)}")
    write(path, "{\n" + ",\n".join(parts) + "\n}\n")


def write(path: Path, text: str) -> None:
    """Writes the file in one step: a reader, or whoever looks after a failure, finds it whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def digest(data: Data) -> str:
    """Changes with the data; a picture that is made from it carries it."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def significant(value: float) -> float:
    """With as many digits as a time measured on a shared machine can have."""
    return float(f"{value:.4g}")


def series(samples: Sequence[float]) -> Series:
    """Median and its confidence interval, by percentiles of bootstrap samples with a fixed seed."""
    import numpy
    from scipy.stats import bootstrap

    low = high = statistics.median(samples)
    if len(set(samples)) > 1:
        found = bootstrap(
            (samples,), numpy.median, method="percentile", n_resamples=2000,
            random_state=numpy.random.default_rng(1), vectorized=True,
        ).confidence_interval  # fmt: skip
        low, high = float(found.low), float(found.high)
    return {
        "samples": [significant(each) for each in samples],
        "median": significant(statistics.median(samples)),
        "low": significant(low),
        "high": significant(high),
    }


def records(data: Data, table: str, **wanted: object) -> Iterator[Record]:
    """Those of a list whose fields have these values."""
    for each in data[table]:
        if all(each.get(name) == value for name, value in wanted.items()):
            yield each


def record(data: Data, table: str, **wanted: object) -> Record | None:
    """The only one, or None."""
    return next(records(data, table, **wanted), None)


def line(points: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope of the line through the points, by least squares."""
    slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
    return intercept, slope


# Which Series of which list, and what a record is told from others by.
COMPARED = (
    ("matrix", "ratio", ("machine", "variant", "fibers", "processes")),
    ("switching", "ratio", ("machine", "variant", "fibers", "threads")),
)
EXACT = (
    ("operations", ("lookup", "fibers", "operation")),
    ("others", ("state",)),
)


# How much a mean over the fibers of a lap may differ where the buckets are chosen by a secret key.
BUCKETS = 0.1


def disagreements(one: Data, other: Data) -> tuple[list[str], int]:
    """What two runs state differently: intervals that do not meet; and how many were compared."""
    found, compared = [], 0
    for table, name, keys in COMPARED:
        for mine in one[table]:
            its = record(other, table, **{key: mine[key] for key in keys})
            if its is None or name not in mine or mine["variant"] == "version1":
                continue
            compared += 1
            a, b = mine[name], its[name]
            # One run each, of instructions: see inexact().
            margin = BUCKETS * a["median"] if mine["machine"] == "counted" else 0
            if a["low"] > b["high"] + margin or b["low"] > a["high"] + margin:
                which = " ".join(str(mine[key]) for key in keys)
                found.append(
                    f"{table} {which}: {a['low']} to {a['high']}, {b['low']} to {b['high']}"
                )
    return found, compared


def allowed(found: Record) -> float:
    """By how many instructions a count may differ between two runs."""
    if found.get("lookup") in ("hash", "scan"):
        return BUCKETS * float(found["instructions"])
    # What the allocator does differs by a fraction of an instruction a fiber.
    return 1.0 if found.get("operation") == "create" else 0.0


def inexact(one: Data, other: Data) -> list[str]:
    """Counts of instructions that differ between two runs by more than they may."""
    found = []
    for table, keys in EXACT:
        for mine in one[table]:
            its = record(other, table, **{key: mine[key] for key in keys})
            which = " ".join(str(mine[key]) for key in keys)
            if its is None:
                found.append(f"{table} {which}: in one run only")
            elif abs(its["instructions"] - mine["instructions"]) > allowed(mine):
                found.append(f"{table} {which}: {mine['instructions']}, {its['instructions']}")
    return found
