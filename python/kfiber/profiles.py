# SPDX-License-Identifier: MIT
"""Recordings in the formats of other tools. Pure functions."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable

from kfiber.frames import Position
from kfiber.record import Recording, Sample


def _title(recording: Recording, fiber: int) -> str:
    name = recording.names.get(fiber, "")
    return f"fiber {fiber} {name}" if name else f"fiber {fiber}"


def chrome(recording: Recording) -> str:
    """Trace Event Format, for Perfetto and chrome://tracing: a track a fiber, and one a thread.

    They are two groups of tracks: by fiber, where each piece names its thread, and by thread,
    where each piece names its fiber.
    """
    by_fiber, by_thread = 1, 2
    events: list[dict[str, object]] = [
        {"ph": "M", "name": "process_name", "pid": group, "tid": 0, "args": {"name": name}}
        for group, name in (
            (by_fiber, f"process {recording.pid}, by fiber"),
            (by_thread, f"process {recording.pid}, by thread"),
        )
    ]
    tracks = {(by_fiber, run.fiber): _title(recording, run.fiber) for run in recording.runs}
    tracks |= {(by_thread, run.thread_id): f"thread {run.thread_id}" for run in recording.runs}
    events += [
        {"ph": "M", "name": "thread_name", "pid": group, "tid": number, "args": {"name": name}}
        for (group, number), name in tracks.items()
    ]
    for run in recording.runs:
        # In microseconds.
        when = {"ph": "X", "ts": run.start_ns / 1000, "dur": (run.end_ns - run.start_ns) / 1000}
        fiber, thread = tracks[by_fiber, run.fiber], tracks[by_thread, run.thread_id]
        events.append({**when, "name": thread, "pid": by_fiber, "tid": run.fiber})
        events.append({**when, "name": fiber, "pid": by_thread, "tid": run.thread_id})
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def collapsed(recording: Recording) -> str:
    """A line a stack, outermost first, with the number of its samples: for flamegraph.pl."""
    count = Counter(_path(recording, sample) for sample in recording.samples)
    return "".join(f"{path} {number}\n" for path, number in sorted(count.items()))


def _path(recording: Recording, sample: Sample) -> str:
    frames = [str(frame) for frame in reversed(sample.frames)]
    parts = [_title(recording, sample.fiber), *frames]
    # Those two have a meaning there.
    return ";".join(part.replace(";", ",").replace("\n", " ") for part in parts)


def speedscope(recording: Recording) -> str:
    """For https://www.speedscope.app: a profile a fiber, weights in seconds."""
    frames: dict[Position, int] = {}
    profiles = []
    for fiber in sorted({sample.fiber for sample in recording.samples}):
        own = [sample for sample in recording.samples if sample.fiber == fiber]
        weight = recording.interval_ns / 1e9
        profiles.append({
            "type": "sampled", "name": _title(recording, fiber), "unit": "seconds",
            "startValue": 0, "endValue": weight * len(own),
            "samples": [
                [frames.setdefault(frame, len(frames)) for frame in reversed(sample.frames)]
                for sample in own
            ],
            "weights": [weight] * len(own),
        })  # fmt: skip
    shared = [{"name": f.function, "file": f.file, "line": f.line} for f in frames]
    return json.dumps({
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": "kfiber", "name": f"process {recording.pid}", "activeProfileIndex": 0,
        "shared": {"frames": shared}, "profiles": profiles,
    })  # fmt: skip


# --- pprof's profile.proto ---


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value) if value else b""


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _packed(field: int, values: Iterable[int]) -> bytes:
    return _bytes(field, b"".join(map(_varint, values)))


class _Numbers(dict[object, int]):
    """Numbers things from `first` on, in the order of their first use."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self._first = first

    def __missing__(self, key: object) -> int:
        self[key] = found = self._first + len(self)
        return found


def pprof(recording: Recording) -> bytes:
    """For pprof, compressed: samples and seconds by stack, with the labels `fiber` and `name`."""
    texts, functions, locations = _Numbers(0), _Numbers(1), _Numbers(1)
    texts[""]

    def pair(kind: str, unit: str) -> bytes:
        return _number(1, texts[kind]) + _number(2, texts[unit])

    def label(key: str, text: str = "", number: int = 0) -> bytes:
        return _bytes(3, _number(1, texts[key]) + _number(2, texts[text]) + _number(3, number))

    out = [_bytes(1, pair("samples", "count")), _bytes(1, pair("time", "nanoseconds"))]
    stacks = Counter((sample.fiber, sample.frames) for sample in recording.samples)
    for (fiber, frames), count in stacks.items():
        out.append(_bytes(2, b"".join([
            _packed(1, [locations[frame] for frame in frames]),
            _packed(2, [count, count * recording.interval_ns]),
            label("fiber", number=fiber), label("name", recording.names.get(fiber, "")),
        ])))  # fmt: skip
    for frame, number in locations.items():
        assert isinstance(frame, Position)
        function = functions[frame.function, frame.file]
        line = _number(1, function) + _number(2, frame.line)
        out.append(_bytes(4, _number(1, number) + _bytes(4, line)))
    for key, number in functions.items():
        assert isinstance(key, tuple)
        name, file = (texts[each] for each in key)
        out.append(
            _bytes(5, _number(1, number) + _number(2, name) + _number(3, name) + _number(4, file))
        )
    out.append(_bytes(11, pair("time", "nanoseconds")))
    out += [_bytes(6, str(text).encode("utf-8", "replace")) for text in texts]
    out.append(_number(10, recording.end_ns - recording.begin_ns))
    out.append(_number(12, recording.interval_ns))
    return gzip.compress(b"".join(out), mtime=0)


FORMATS: dict[str, Callable[[Recording], str | bytes]] = {
    "chrome": chrome,
    "speedscope": speedscope,
    "pprof": pprof,
    "collapsed": collapsed,
}
