# SPDX-License-Identifier: MIT
"""The stacks of a program's fibers, read from outside: frames, lines, where each was created."""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import CodeType

import pytest

from kfiber import frames, stacks
from kfiber.errors import KfiberError
from kfiber.memory import Process

pytestmark = pytest.mark.once

PROGRAM = """\
import sys, time
import kfiber

def switch_away():
    root.switch()                   # line 5

def deep(left):
    if left:
        return deep(left - 1)       # line 9
    switch_away()                   # line 10

def through_c():
    sorted([1], key=lambda _: deep(0))          # line 13

def generator():
    yield switch_away()             # line 16

def by_generators():
    yield from generator()          # line 19

def chained():
    list(by_generators())           # line 22

def make(target, *args):
    return kfiber.Fiber(target, *args, name=target.__name__)    # line 25

root = kfiber.current()
fibers = [make(deep, 3), make(through_c), make(chained)]
for fiber in fibers:
    fiber.switch()
new = make(print)
many = [kfiber.Fiber(deep, number % 5) for number in range(int(sys.argv[1]))]
for fiber in many:
    fiber.switch()

def wait():
    print("ready", flush=True), sys.stdin.read()    # line 37

make(wait).switch()
"""


@pytest.fixture
def start(tmp_path):
    """Starts the program with so many fibers besides; its pid."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    running = []

    def run(number=0, **options):
        process = subprocess.Popen(
            [sys.executable, path, str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, **options,
        )  # fmt: skip
        running.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def short(stack):
    return [f"{frame.function.rpartition('.')[2]}:{frame.line}" for frame in stack.frames]


EXPECTED = {
    "deep": ["switch_away:5", "deep:10", "deep:9", "deep:9", "deep:9"],
    "through_c": ["switch_away:5", "deep:10", "<lambda>:13", "through_c:13"],
    "chained": ["switch_away:5", "generator:16", "by_generators:19", "chained:22"],
    "print": [],
    "wait": ["wait:37"],
}


# With malloc frames of generators lie beside the thread state.
@pytest.mark.parametrize("allocator", ["pymalloc", "malloc"])
@pytest.mark.parametrize("still", [True, False])
def test_frames_and_where_each_was_created(start, still, allocator):
    process = start(env={**os.environ, "PYTHONMALLOC": allocator})
    look = stacks.look(process.pid, still=still)
    found = {stack.fiber.name: stack for stack in look.stacks if stack.fiber.name}
    assert {name: short(stack) for name, stack in found.items()} == EXPECTED
    assert {stack.created.line for stack in found.values()} == {25}
    assert {stack.created.file for stack in found.values()} == {str(Path(process.args[1]))}
    assert found["print"].fiber.state == "new"
    assert found["wait"].fiber.state == "running"
    (root,) = (stack for stack in look.stacks if not stack.fiber.name)
    assert short(root) == ["<module>:39"]
    assert not any(stack.torn for stack in look.stacks)
    assert (look.stopped_ns > 0) == still


def test_native_and_python_frames_together(start):
    look = stacks.look(start().pid, native=True)
    for stack in look.stacks:
        if stack.fiber.name in EXPECTED:
            names = short(stack)
            python = [name for name in names if not name.endswith(":0")]
            assert python == EXPECTED[stack.fiber.name]
            assert (names[-1:] == ["switch_bottom:0"]) == (stack.fiber.state != "new")
    (through_c,) = (short(s) for s in look.stacks if s.fiber.name == "through_c")
    # The sort is between the two Python functions; a stripped interpreter has no name for it.
    between = through_c[through_c.index("<lambda>:13") + 1 : through_c.index("through_c:13")]
    assert any("sort" in name or name.startswith("0x") for name in between)


@pytest.mark.guest
@pytest.mark.parametrize("engine", ["mapped", "kernel"])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("still", [True, False])
def test_engines_of_the_module(start, engine, native, still):
    process = start(env={**os.environ, "KFIBER_ENGINE": engine})
    look = stacks.look(process.pid, native=native, still=still)
    found = {stack.fiber.name: stack for stack in look.stacks if stack.fiber.name}
    assert {stack.fiber.engine for stack in look.stacks} == {engine}
    for name, expected in EXPECTED.items():
        assert [each for each in short(found[name]) if not each.endswith(":0")] == expected
    if native:
        assert any("sort" in each for each in short(found["through_c"]))
        # With `kernel` the module has the registers of a suspended fiber, and shows two of them.
        assert "switch_bottom:0" in short(found["deep"])
    assert found["wait"].fiber.state == "running"
    assert {stack.created.line for stack in found.values()} == {25}


def test_ten_thousand(start):
    process = start(10_000)
    look = stacks.look(process.pid)
    assert len(look.stacks) > 10_000
    depths = sorted(len(stack.frames) for stack in look.stacks if stack.fiber.name == "deep")
    assert depths[0] == 2 and depths[-1] == 6
    assert not any(stack.torn for stack in look.stacks)
    assert len(stacks.grouped(look.stacks)) == 5 + 5 + 1
    assert len(stacks.grouped(look.stacks)[0]) == 2000


@pytest.mark.skipif(sys.version_info < (3, 11), reason="each frame is an object")
def test_a_look_reads_in_bulk(start, monkeypatch):
    process = start(1000)
    reads = []
    one_by_one = Process.read

    def read(self, address, size):
        reads.append(address)
        return one_by_one(self, address, size)

    monkeypatch.setattr(Process, "read", read)
    assert len(stacks.look(process.pid).stacks) > 1000
    # The code objects, and not each fiber's last frame, which 3.15 has in the thread state.
    assert len(reads) < 200


def test_the_process_and_its_parent_take_no_notice(start):
    process = start()
    for _ in range(20):
        stacks.look(process.pid)
    assert os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG) == (0, 0)
    process.stdin.close()
    assert process.wait(60) == 0


def test_a_core_file(start, tmp_path):
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() != "core":
        pytest.skip("the kernel puts core files elsewhere")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("core files are limited")

    def allow():
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)

    process = start(preexec_fn=allow)
    process.send_signal(signal.SIGABRT)
    # The kernel writes the file meanwhile.
    process.wait(600)
    (core,) = tmp_path.glob("core*")
    for native in (False, True):
        look = stacks.look_in_core(core, native=native)
        found = {stack.fiber.name: stack for stack in look.stacks if stack.fiber.name}
        for name, expected in EXPECTED.items():
            assert [each for each in short(found[name]) if not each.endswith(":0")] == expected
    assert "switch_bottom:0" in short(found["wait"])


def codes(code):
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from codes(each)


@pytest.mark.parametrize("module", [argparse, random])
def test_lines_of_instructions_are_the_interpreters_own(module):
    source = Path(module.__file__).read_text()
    for code in codes(compile(source, module.__file__, "exec")):
        found = frames._Code("", "", code.co_firstlineno, code.co_linetable, 0, sys.hexversion)
        for start, end, line in code.co_lines():
            for index in {start // 2, end // 2 - 1}:
                assert found.line(index) == (line or 0)


class Garbage:
    """Memory of which nothing can be believed but that it says what the extension says."""

    pid, mappings, core = 1, (), None

    def __init__(self, seed):
        self._random = random.Random(seed)

    def read(self, address, size):
        if size > 4096 or self._random.random() < 0.2:
            raise OSError("nothing there")
        # Small numbers and pointers into itself, as well as noise.
        return bytes(self._random.choice((0, 0, 0, 1, 8, 255)) for _ in range(size))

    def read_many(self, addresses, sizes):
        return memoryview(self._random.randbytes(sum(sizes)))


def test_nothing_that_is_read_makes_it_fail():
    layout = frames._Layout(
        frames._HEAD.pack(b"kfiberPy", 1, 0, 8, 16, sys.hexversion)
        + b"".join((8 * n).to_bytes(4, "little") for n in range(len(frames._FIELDS)))
    )
    for seed in range(100):
        reader = frames.Reader(Garbage(seed), layout)
        try:
            found = reader.take({})
        except OSError:
            continue
        reader.walk(found.values())
        for taken in found.values():
            reader.position(taken.creator, taken.created_at, counted=True)


def test_a_program_of_another_version():
    with pytest.raises(KfiberError, match=r"in version 2, .* reads 1; hint: "):
        frames._Layout(frames._HEAD.pack(b"kfiberPy", 2, 0, 0, 0, 0) + bytes(200))
