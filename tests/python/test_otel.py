# SPDX-License-Identifier: MIT
"""Thread contexts as OpenTelemetry's profilers read them: from outside, of stopped threads.

the reader (this process)                          the program
maps: memfd OTEL_CTX -> header -> payload          names of the keys: fiber.id, fiber.name
.dynsym, TLS descriptor of otel_thread_ctx_v1      where the pointer is in each thread
stopped thread: fs base -> pointer -> record       the fiber that its stack pointer is of
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kfiber import proc, stop
from kfiber.memory import Process, mappings

GUEST = "KFIBER_GUEST" in os.environ
# In the sessions that test_versions.py starts, there are many of them.
INSTANTS = 500 if GUEST else 1_000 if "KFIBER_INNER" in os.environ else 10_000
SYMBOL = "otel_thread_ctx_v1"
HEADER = struct.Struct("<8sIIQQ")
RECORD = struct.Struct("<16s8sBBH")
# In struct user_regs_struct.
IP, SP, FS = 16, 19, 21

# Fibers that go from thread to thread, each with a span whose ids are the fiber's.
PROGRAM = """
import collections, sys, threading
import kfiber
from kfiber import otel

late = "late" in sys.argv
enabled = threading.Event()
turns = 0

def work():
    for number in range(50):
        number * number

def roam():
    global turns
    here = kfiber.current()
    while True:
        turns += 1
        if enabled.is_set():
            otel.set_span(here.id, here.id)
        work()
        kfiber.root().switch()
        work()
        if enabled.is_set():
            otel.set_span(None)

pool = collections.deque(kfiber.Fiber(roam, name=f"roamer {i}") for i in range(16))

def thread():
    while True:
        fiber = pool.popleft()
        fiber.switch()
        pool.append(fiber)
        work()

def enable():
    otel.enable()
    enabled.set()

if not late:
    enable()
workers = [threading.Thread(target=thread, daemon=True) for _ in range(3)]
for worker in workers:
    worker.start()
if late:
    while turns < 1000:
        pass
    enable()
    kfiber.current()
print("ready", flush=True)
sys.stdin.read()
"""


class ElfFile:
    """As much of an ELF file as a reader needs."""

    def __init__(self, path: str) -> None:
        self.data = Path(path).read_bytes()
        header = struct.unpack_from("<16sHHIQQQIHHHHHH", self.data)
        self.sections = [
            struct.unpack_from("<IIQQQQIIQQ", self.data, header[6] + i * 64)
            for i in range(header[12])
        ]

    def symbols(self, kind: int):
        """Number, name, value and size of each symbol of .dynsym (11) or .symtab (2)."""
        for section in self.sections:
            if section[1] != kind:
                continue
            strings = self.sections[section[6]][4]
            for number in range(section[5] // 24):
                name, _, _, _, value, size = struct.unpack_from(
                    "<IBBHQQ", self.data, section[4] + number * 24
                )
                end = self.data.index(b"\0", strings + name)
                yield number, self.data[strings + name : end].decode(), value, size

    def descriptor(self, symbol: int) -> int:
        """Where the symbol's TLS descriptor is."""
        for section in self.sections:
            if section[1] == 4:  # RELA
                for number in range(section[5] // 24):
                    offset, info, _ = struct.unpack_from(
                        "<QQq", self.data, section[4] + number * 24
                    )
                    if info == symbol << 32 | 36:  # R_X86_64_TLSDESC
                        return offset
        raise AssertionError("no TLS descriptor")


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(data: bytes):
    """Number and bytes of each field of a message of protocol buffers that has no other kinds."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        assert key & 7 == 2
        size, at = varint(data, at)
        yield key >> 3, data[at : at + size]
        at += size


def text(any_value: bytes) -> str:
    ((number, value),) = fields(any_value)
    assert number == 1
    return value.decode()


class Reader:
    """The reading protocols of OTEP 4719 and 4947."""

    def __init__(self, pid: int) -> None:
        self.memory = Process(pid)
        maps = mappings(Path("/proc", str(pid)))
        (context,) = (each for each in maps if each.path.startswith("/memfd:OTEL_CTX"))
        signature, version, size, published, payload = HEADER.unpack(
            self.memory.read(context.start, HEADER.size)
        )
        assert (signature, version) == (b"OTEL_CTX", 2)
        assert published
        attributes = [
            dict(fields(value))
            for number, value in fields(self.memory.read(payload, size))
            if number == 2
        ]
        found = {each[1].decode(): each[2] for each in attributes}
        assert text(found["threadlocal.schema_version"]) == "tlsdesc_v1_dev"
        ((_, array),) = fields(found["threadlocal.attribute_key_map"])
        self.keys = [text(value) for _, value in fields(array)]
        self.variable, self.module = None, None
        for each in maps:
            if each.offset or not each.path.startswith("/"):
                continue
            with contextlib.suppress(OSError, struct.error, AssertionError):
                self.look_at(each)
        assert self.module

    def look_at(self, mapping) -> None:
        if not mapping.path.endswith(".so") and "python" not in mapping.path:
            return
        file = ElfFile(mapping.path)
        for number, name, _, _ in file.symbols(11):
            if name == SYMBOL:
                assert self.module is None, "there is one only"
                at = mapping.start + file.descriptor(number)
                self.module = mapping.path
                self.variable = struct.unpack("<q", self.memory.read(at + 8, 8))[0]

    def context(self, fs: int) -> tuple[bytes, bytes, dict[str, str]] | None:
        """What the thread with that thread pointer runs."""
        word = lambda at: int.from_bytes(self.memory.read(at, 8), "little")  # noqa: E731
        if -(1 << 20) < self.variable < 0:
            at = fs + self.variable
        else:  # tlsdesc_dynamic_arg
            module, offset = word(self.variable), word(self.variable + 8)
            block = word(word(fs + 8) + 16 * module)
            if block == (1 << 64) - 1:
                return None
            at = block + offset
        record = word(at)
        if not record:
            return None
        trace, span, valid, _, size = RECORD.unpack(self.memory.read(record, RECORD.size))
        if valid != 1:
            return None
        data, attributes = self.memory.read(record + RECORD.size, size), {}
        while data:
            key, length = data[:2]
            attributes[self.keys[key]] = data[2 : 2 + length].decode()
            data = data[2 + length :]
        return trace, span, attributes


def changing_code(pid: int) -> list[range]:
    """Functions in which a thread's context is not that of its stack, or is being written."""
    wanted = ("fiber_switch", "fiber_otel_set_span")
    for each in mappings(Path("/proc", str(pid))):
        if "/_native." in each.path and not each.offset:
            found = [
                range(each.start + value, each.start + value + size)
                for _, name, value, size in ElfFile(each.path).symbols(2)
                if name in wanted
            ]
            if len(found) == len(wanted):
                return found
    pytest.skip("the extension's symbols are stripped")


@contextlib.contextmanager
def program(*words):
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        yield child.pid
    finally:
        child.kill()
        child.communicate()


@pytest.mark.once
@pytest.mark.parametrize("when", ["early", "late"])
def test_each_instant_shows_the_fiber_that_runs(when):
    if os.environ.get("KFIBER_ENGINE") == "kernel":
        pytest.skip(
            "a switch there is C code around a request: no function of its own to leave out"
        )
    with program(when) as pid:
        reader, code = Reader(pid), changing_code(pid)
        assert reader.keys == ["fiber.id", "fiber.name"]
        assert "/_otel." in reader.module
        fibers = proc.fibers(pid)
        assert len({each.name for each in fibers} - {""}) == 16
        stacks = [
            (range(each.stack_start, each.stack_start + each.stack_size), each)
            for each in fibers
            if each.name
        ]
        roots = {each.parent_thread_id: each for each in fibers if not each.name}
        seen, inside, instants = set(), 0, 0
        named = {each.id for each in fibers if each.name}
        # On a slow machine some of the fibers get their turn late.
        while instants < INSTANTS // 2 or not named <= seen:
            with stop.stopped(pid):
                threads = {
                    thread: struct.unpack("<27Q", stop.registers(thread))
                    for thread in map(int, os.listdir(f"/proc/{pid}/task"))
                }
                contexts = {thread: reader.context(words[FS]) for thread, words in threads.items()}
            for thread, words in threads.items():
                fiber = next((f for stack, f in stacks if words[SP] in stack), roots.get(thread))
                # A thread that waits for the interpreter since before the call has not switched.
                if not fiber or (when == "late" and thread not in seen and not contexts[thread]):
                    continue
                instants += 1
                if any(words[IP] in each for each in code):
                    inside += 1
                    continue
                trace, span, attributes = contexts[thread]
                assert int(attributes["fiber.id"]) == fiber.id
                assert attributes.get("fiber.name", "") == fiber.name
                assert int.from_bytes(span, "big") in (0, fiber.id)
                assert trace[8:] == span
                seen |= {thread, fiber.id}
        print(f"{instants} instants, {inside} of them inside a change")
        assert inside < instants // 2


def test_a_name_changes_and_a_span_ends(python):
    python("""
        import kfiber
        from kfiber import otel
        try:
            otel.set_span(1, 2)
        except kfiber.FiberError:
            pass
        else:
            raise AssertionError
        otel.enable()
        otel.enable()
        for wrong in ((0, 1), (1, 0), (1 << 128, 1), (1, 1 << 64)):
            try:
                otel.set_span(*wrong)
            except ValueError:
                pass
            else:
                raise AssertionError(wrong)
        otel.set_span((1 << 128) - 1, (1 << 64) - 1, 1)
        otel.set_span(None)
        kfiber.current().name = "x" * 63
    """)


def test_by_the_environment(python):
    program = """
        import kfiber, sys
        kfiber.current()
        print("kfiber._otel" in sys.modules, open("/proc/self/maps").read().count("OTEL_CTX"))
    """
    assert python(program, KFIBER_OTEL="1").stdout == "True 1\n"
    assert python(program, KFIBER_OTEL="").stdout == "False 0\n"


def test_a_compiler_could_not_make_the_pointer(python):
    python("""
        import pytest, sys
        from kfiber import FiberError, otel
        sys.modules["kfiber._otel"] = None
        with pytest.raises(FiberError, match="no kfiber._otel.*hint: install kfiber with gcc"):
            otel.enable()
        """)


def test_the_environment_asks_for_what_a_compiler_could_not_make(python):
    program = """
        import sys, warnings
        sys.modules["kfiber._otel"] = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import kfiber
            kfiber.current()
        print(*(each.message for each in caught))
    """
    said = python(program, KFIBER_OTEL="1").stdout
    assert said.startswith("KFIBER_OTEL=1 has no effect: ")
    assert said.endswith("; hint: install kfiber with gcc\n")


def test_an_sdk_was_first(python):
    assert (
        "published"
        in python("""
        import ctypes, os, mmap
        import kfiber
        from kfiber import otel
        file = os.memfd_create("OTEL_CTX")
        os.truncate(file, 32)
        held = mmap.mmap(file, 32)
        try:
            otel.enable()
        except kfiber.FiberError as error:
            print(error)
    """).stdout
    )
