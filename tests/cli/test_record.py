# SPDX-License-Identifier: MIT
"""`kfiber record`: timelines and profiles of a program, and the formats of other tools."""

import gzip
import itertools
import json
import os
import re
import subprocess
import sys
import time

import pytest

from kfiber import exact, profiles
from kfiber.frames import Position
from kfiber.record import Recording, Run, Sample

MS = 1_000_000


def test_a_timeline(command, program, tmp_path):
    path = tmp_path / "trace.json"
    done = command("record", program, "-o", path, "--duration", "3s")
    assert (done.returncode, done.stderr) == (0, "")
    events = json.loads(path.read_text())["traceEvents"]
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["name"] == "thread_name"
    }
    slices = [event for event in events if event["ph"] == "X"]
    assert {(event["pid"], event["tid"]) for event in slices} <= names.keys()
    spinner = [e for e in slices if names[e["pid"], e["tid"]].endswith(" spinner")]
    # It holds its thread for half a second each time.
    longest = max(spinner, key=lambda event: event["dur"])
    assert 250_000 < longest["dur"]
    assert longest["name"] == f"thread {program}"
    assert sum(e["dur"] for e in spinner) > 0.5 * sum(e["dur"] for e in slices if e["pid"] == 1)
    # A thread runs one fiber at a time.
    mine = sorted((e["ts"], e["ts"] + e["dur"]) for e in slices if e["pid"] == 2)
    assert all(end <= start + 1 for (_, end), (start, _) in itertools.pairwise(mine))


@pytest.mark.parametrize("stop", [(), ("--no-stop",)])
def test_a_profile_is_of_what_runs(command, program, stop):
    done = command(
        "record", program, "--format", "collapsed", "--duration", "3s", "--interval", "20ms", *stop
    )
    assert (done.returncode, done.stderr) == (0, "")
    stacks = dict(line.rpartition(" ")[::2] for line in done.stdout.splitlines())
    total = sum(map(int, stacks.values()))
    assert total > 20
    spinning = [n for path, n in stacks.items() if "spinner;spinner (" in path]
    assert sum(map(int, spinning)) > 0.5 * total


def runs_of(text):
    """The runs of each thread: fiber, start and end in microseconds."""
    found = {}
    for event in json.loads(text)["traceEvents"]:
        if event["ph"] == "X" and event["pid"] == 2:
            run = event["name"], event["ts"], event["ts"] + event["dur"]
            found.setdefault(event["tid"], []).append(run)
    return found


EXACT = """
import kfiber

def work(times):
    for _ in range(times):
        kfiber.root().switch()

print("ready", flush=True)
while True:
    fibers = [kfiber.Fiber(work, 10, name=f"worker {i}") for i in range(3)]
    for _ in range(11):
        for fiber in fibers:
            fiber.switch()
"""


def exactly(engine):
    with subprocess.Popen(
        [sys.executable, "-c", EXACT],
        stdout=subprocess.PIPE, env={**os.environ, "KFIBER_ENGINE": engine},
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == b"ready\n"
            for _ in range(2):
                command = [sys.executable, "-m", "kfiber", "record", str(process.pid)]
                done = subprocess.run(
                    [*command, "--exact", "--duration", "200ms"],
                    capture_output=True, text=True, timeout=300,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
                if "not in the recording" in done.stderr:
                    continue
                (runs,) = runs_of(done.stdout).values()
                # Each run begins when the one before ends: none is missing.
                ends = [end for _, _, end in runs[:-1]]
                assert ends == pytest.approx([start for _, start, _ in runs[1:]])
                # And the order is the program's: the root fiber between any two.
                root = runs[0 if len({name for name, _, _ in runs[::2]}) == 1 else 1][0]
                assert len(runs) > 100
                assert all(
                    (name == root) == (runs[at % 2][0] == root)
                    for at, (name, *_) in enumerate(runs)
                )
            # Nobody asks any more: the process has noticed.
            memory = exact.Switches(process.pid)
            until = memory._at + exact._UNTIL
            while any(memory._memory.read(until, 8)):
                time.sleep(0.01)
            assert all(any(memory._memory.read(route, 4)) for route in memory._routes[:1])
        finally:
            process.kill()


def test_every_switch():
    exactly("local")


@pytest.mark.guest
@pytest.mark.parametrize("engine", ["mapped", "kernel"])
def test_every_switch_of_the_modules_engines(engine):
    exactly(engine)


def test_exactly_what_cannot_be(command, program):
    done = command("record", program, "--exact", "--format", "pprof", "-o", "/dev/null")
    assert done.returncode == 2 and "--exact makes timelines only; hint: " in done.stderr
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        done = command("record", other.pid, "--exact", "--duration", "1s")
        assert done.returncode == 1
        assert re.search(
            r"cannot record process \d+ exactly: it has no libfiber .*hint: ", done.stderr
        )
        other.communicate(b"")


@pytest.mark.guest
@pytest.mark.parametrize("program", ["mapped", "kernel"], indirect=True)
def test_engines_of_the_module(command, program):
    done = command("record", program, "--duration", "5s", "--interval", "50ms")
    assert (done.returncode, done.stderr) == (0, "")
    events = json.loads(done.stdout)["traceEvents"]
    (track,) = (
        event["tid"]
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"].endswith(" spinner")
    )
    runs = [event for event in events if event["ph"] == "X" and event["pid"] == 1]
    assert max(runs, key=lambda event: event["dur"])["tid"] == track
    done = command(
        "record", program, "--format", "collapsed", "--duration", "5s", "--interval", "50ms"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "spinner;spinner (" in done.stdout


MAIN, WORK = Position("main", "a.py", 1), Position("work;er", "b.py", 20)
RECORDING = Recording(
    pid=7, begin_ns=0, end_ns=100 * MS, interval_ns=10 * MS, names={1: "", 2: "two"},
    runs=[Run(2, 7, 0, 5 * MS)],
    samples=[
        Sample(2, 7, 0, (WORK, MAIN)), Sample(2, 7, 10 * MS, (WORK, MAIN)),
        Sample(1, 7, 20 * MS, (MAIN,)),
    ],
)  # fmt: skip


def test_collapsed():
    assert profiles.collapsed(RECORDING) == (
        "fiber 1;main (a.py:1) 1\nfiber 2 two;main (a.py:1);work,er (b.py:20) 2\n"
    )


def test_speedscope():
    found = json.loads(profiles.speedscope(RECORDING))
    assert [frame["name"] for frame in found["shared"]["frames"]] == ["main", "work;er"]
    first, second = found["profiles"]
    assert (first["name"], second["name"]) == ("fiber 1", "fiber 2 two")
    assert (second["samples"], second["weights"]) == ([[0, 1], [0, 1]], [0.01, 0.01])
    assert second["endValue"] == pytest.approx(0.02)


def fields(raw):
    """The fields of a protocol buffer: number and value."""
    found, at = [], 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(raw):
        key = varint()
        value = varint()
        if key & 7 == 2:
            value, at = raw[at : at + value], at + value
        found.append((key >> 3, value))
    return found


def test_pprof():
    profile = fields(gzip.decompress(profiles.pprof(RECORDING)))
    texts = [value.decode() for number, value in profile if number == 6]
    assert texts[0] == ""
    functions = {dict(fields(v))[1]: texts[dict(fields(v))[2]] for n, v in profile if n == 5}
    locations = {}
    for raw in (value for number, value in profile if number == 4):
        location = dict(fields(raw))
        line = dict(fields(location[4]))
        locations[location[1]] = functions[line[1]], line[2]
    found = []
    for raw in (value for number, value in profile if number == 2):
        sample = fields(raw)
        stack = [locations[number] for number in dict(sample)[1]]
        labels = [dict(fields(value)) for number, value in sample if number == 3]
        fiber = next(label[3] for label in labels if texts[label[1]] == "fiber")
        # Packed: the first of them is less than 128.
        found.append((fiber, stack, dict(sample)[2][0]))
    assert found == [(2, [("work;er", 20), ("main", 1)], 2), (1, [("main", 1)], 1)]
    assert dict(profile)[12] == 10 * MS


@pytest.mark.parametrize(
    "words", [["4194304", "--duration", "1s"], ["1", "-o", "/no/such/file"], ["--duration", "1s"]]
)
def test_what_cannot_be(command, words):
    done = command("record", *words)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("kfiber: ") and "; hint: " in done.stderr
