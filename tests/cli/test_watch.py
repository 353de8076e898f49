# SPDX-License-Identifier: MIT
"""Who holds a thread: `kfiber watch` from outside, kfiber.watch() from inside."""

import json
import re
import subprocess
import sys
import threading
import time

import pytest

import kfiber

KFIBER = [sys.executable, "-m", "kfiber"]
LIMIT = 120


def test_only_the_one_that_holds_its_thread_is_told_of(command, program):
    done = command("watch", program, "--json", "--blocked", "200ms", "--count", 2, "--no-stack")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["kind"] for event in events] == ["held", "released", "held"]
    assert {event["fiber"]["name"] for event in events} == {"spinner"}
    assert all(event["held_ns"] >= 200_000_000 for event in events)


def test_with_the_stack_that_the_fiber_has(command, program):
    done = command("watch", program, "--json", "--blocked", "200ms", "--count", 2)
    assert (done.returncode, done.stderr) == (0, "")
    held = [event for event in map(json.loads, done.stdout.splitlines()) if event["stack"]]
    assert [event["kind"] for event in held] == ["held", "held"]
    assert all(event["stack"][-1].startswith("spinner (") for event in held)
    done = command("watch", program, "--blocked", "200ms", "--count", 1)
    assert re.search(r"^    spinner \(.*workload\.py:\d+\)$", done.stdout, re.MULTILINE)


def test_a_command_is_told_who(command, program):
    done = command(
        "watch", program, "--blocked", "200ms", "--count", 1, "--no-stack",
        "--command", "echo $KFIBER_NAME $KFIBER_PID",
    )  # fmt: skip
    assert f"spinner {program}\n" in done.stdout
    assert " spinner has held thread " in done.stdout


def test_it_ends_with_the_process():
    with subprocess.Popen(
        [sys.executable, "-c", "import kfiber; kfiber.current(); print(flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as program:  # fmt: skip
        program.stdout.readline()
        with subprocess.Popen(
            [*KFIBER, "watch", str(program.pid), "--blocked", "50ms", "--no-stack"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as watching:  # fmt: skip
            # The thread's own fiber waits for input.
            assert "has held thread" in watching.stdout.readline()
            program.stdin.close()
            program.wait()
            assert watching.communicate(timeout=LIMIT)[1] == ""
            assert watching.returncode == 0


@pytest.mark.parametrize("blocked", ["0", "-1", "soon", "1e3", "nan", "100000000s"])
def test_a_limit_that_is_none(command, blocked):
    done = command("watch", 1, "--blocked", blocked)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_from_inside():
    events = []
    told = threading.Event()

    def callback(event):
        events.append(event)
        told.set()

    def holds_on():
        assert told.wait(LIMIT)
        main.switch()

    main = kfiber.current()
    with kfiber.watch(0.05, callback) as watching:
        fiber = kfiber.Fiber(holds_on, name="holder")
        fiber.switch()
    watching.stop()
    held = [event for event in events if event.fiber.name == "holder"]
    assert held[0].kind == "held"
    assert any("holds_on" in frame for frame in held[0].stack)
    assert held[0].held_ns >= 50_000_000
    fiber.switch()


def test_no_callback_after_the_end():
    events = []
    watching = kfiber.watch(0.001, events.append)
    time.sleep(0.05)
    watching.stop()
    count = len(events)
    time.sleep(0.05)
    assert len(events) == count


def test_a_limit_from_inside():
    for limit in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            kfiber.watch(limit, print)
