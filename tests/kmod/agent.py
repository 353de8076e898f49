# SPDX-License-Identifier: MIT
"""Drives the program `agent`: a process whose threads make the requests that they are told to.

`Agent` has the methods of model.Model, with the same arguments.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from kmod.model import NAME_SIZE, Size, Where, Words
from kmod.target import MODULE, PROGRAMS, wait_for

LANES = 4
SILENCE = 30.0
POISON = 0xDEADBEEFCAFEF00D
STACK_SPACE = 65536

# Where no program has anything, and where the kernel is.
NOWHERE = 8
KERNEL = 0xFFFF_8880_0000_0000

_SYS_TGKILL = 234
_libc = ctypes.CDLL(None, use_errno=True)

CONVERT = struct.Struct("<IIQ")
CREATE = struct.Struct("<IIQQQQ64sQQ")
SET_NAME = struct.Struct("<IIQ64s")
FLS = struct.Struct("<IIQQ")
SNAPSHOT = struct.Struct("<II11QIIII64s")
WORD = struct.Struct("<Q")


def request(number):
    """A number as <linux/ioctl.h> makes it: _IO()."""
    return 0xFB << 8 | number


# The fields of a snapshot that the model knows, by their place.
SHOWN = {
    "state": 1,
    "id": 2,
    "activations": 3,
    "failed": 4,
    "stack_start": 11,
    "stack_size": 12,
    "thread": 13,
    "parent": 14,
    "engine": 15,
    "name": 17,
}

IOC_VERSION = request(0x00)
IOC_CONVERT = request(0x01)
IOC_CREATE = request(0x02)
IOC_DELETE = request(0x04)
IOC_REVERT = request(0x05)
IOC_RETIRE = request(0x06)
IOC_SET_NAME = request(0x07)
IOC_SELF = request(0x08)
IOC_STAT = request(0x09)
IOC_FLS_ALLOC = request(0x10)
IOC_FLS_FREE = request(0x11)
IOC_FLS_SET = request(0x12)
IOC_FLS_GET = request(0x13)


@dataclass(frozen=True)
class Answer:
    kind: str  # "done", or "started" by a fiber's or thread's first instructions
    result: int
    data: bytes
    tid: int
    self_id: int
    words: Words


@contextlib.contextmanager
def limit_of_fibers(limit):
    """For processes that open the device meanwhile."""
    parameter = MODULE / "parameters" / "max_fibers"
    before = parameter.read_text()
    parameter.write_text(f"{limit}\n")
    try:
        yield
    finally:
        parameter.write_text(before)


class Agent:
    def __init__(self, limit):
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(LANES)]
        self._lanes = [ours for ours, _ in pairs]
        theirs = [their.fileno() for _, their in pairs]
        with limit_of_fibers(limit):
            self._process = subprocess.Popen(
                [PROGRAMS / "kmod_agent", "serve_lanes"],
                stdin=subprocess.DEVNULL,
                pass_fds=theirs,
                env={"AGENT_LANES": ",".join(map(str, theirs))},
            )
            for _, their in pairs:
                their.close()
            for lane in self._lanes:
                lane.settimeout(SILENCE)
            _, *numbers = self._lanes[0].recv(1024).decode().split()
        self.pid = self._process.pid
        self._folder = Path(f"/proc/{self.pid}/fiber")
        self.body, self.resume, self.stacks, self._stacks_size = map(int, numbers)
        self._stacks_used = 0
        # clock_getcpuclockid() of the process.
        self._cpu_clock = ~self.pid << 3 | 2
        self._places = {}
        self.words = self._answer(0).words

    def close(self):
        for lane in self._lanes:
            lane.close()
        self._process.kill()
        self._process.wait()

    def _answer(self, slot):
        try:
            text = self._lanes[slot].recv(1024)
        except TimeoutError:
            raise AssertionError(f"thread {slot} does not answer") from None
        assert text, f"the agent has ended: {self._process.wait()}"
        kind, result, data, tid, self_id, mxcsr, fcw, mask = text.decode().split()
        answer = Answer(
            kind,
            int(result),
            b"" if data == "-" else bytes.fromhex(data),
            int(tid),
            int(self_id),
            Words(int(mxcsr), int(fcw), int(mask)),
        )
        self._places[slot] = answer.tid, answer.self_id, answer.words
        return answer

    def _send(self, slot, *words):
        self._lanes[slot].send(" ".join(map(str, words)).encode())

    def _ask(self, slot, *words):
        self._send(slot, *words)
        return self._answer(slot)

    def _register(self, slot, number, argument=0):
        """A request that takes a number."""
        answer = self._ask(slot, "value", 1, number, argument)
        return -min(answer.result, 0), max(answer.result, 0)

    def _pointer(self, slot, number, data, where, times=1):
        """A request that takes an address: its errno, and what lies there afterwards."""
        if where is Where.NOWHERE:
            answer = self._ask(slot, "value", times, number, NOWHERE)
        elif where is Where.KERNEL:
            answer = self._ask(slot, "value", times, number, KERNEL)
        else:
            kind = "struct" if where is Where.GOOD else "readonly"
            answer = self._ask(slot, kind, times, number, data.hex())
            # What failed leaves its output alone; so many times may have been good before.
            if answer.result and times == 1:
                assert answer.data == data
        assert answer.kind == "done" and answer.result <= 0
        return -answer.result, answer.data

    def _result(self, slot, number, argument, fields, where, *, times=1, tail=b"", filled=-1):
        """The same for one that fills a field, the last one by default."""
        err, data = self._pointer(slot, number, argument.pack(*fields) + tail, where, times)
        if err:
            return err, None
        values, wanted = list(argument.unpack_from(data)), list(fields)
        value = values.pop(filled)
        wanted.pop(filled)
        assert values == wanted
        assert data[argument.size :] == tail
        return 0, value

    def _plain(self, slot, number, argument=0):
        err, value = self._register(slot, number, argument)
        assert value == 0
        return err, None

    # As in Model

    def start(self, by, slot):
        """Returns the new thread's tid."""
        self._ask(by, "thread", slot)
        return self._answer(slot).tid

    def end(self, slot):
        tid = self._places.pop(slot)[0]
        self._send(slot, "exit")
        wait_for(lambda: self._is_gone(tid), f"the end of thread {slot}")

    def _is_gone(self, tid):
        try:
            stat = Path(f"/proc/{self.pid}/task/{tid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        # The first thread stays until the last one has ended.
        return stat.rpartition(")")[2].split()[0] == "Z"

    def stack(self):
        """The end of a new one."""
        self._stacks_used += STACK_SPACE
        assert self._stacks_used <= self._stacks_size
        return self.stacks + self._stacks_used

    def convert(self, slot, flags, size, where):
        number, tail = sized(CONVERT, size)
        return self._result(slot, IOC_CONVERT, CONVERT, (number, flags, POISON), where, tail=tail)

    def create(self, slot, create, where):
        number, tail = sized(CREATE, create.size)
        fields = (
            *(number, create.flags, create.entry, create.arg),
            *(create.stack_start, create.stack_size, create.name, POISON, 0),
        )
        return self._result(slot, IOC_CREATE, CREATE, fields, where, tail=tail, filled=-2)

    def switch(self, slot, id, alternate=False):
        answer = self._ask(slot, "alternate" if alternate else "switch", id)
        if answer.kind == "started":
            return 0, answer.result
        return -answer.result, None

    def delete(self, slot, id):
        return self._plain(slot, IOC_DELETE, id)

    def revert(self, slot):
        return self._plain(slot, IOC_REVERT)

    def retire(self, slot):
        return self._plain(slot, IOC_RETIRE)

    def retire_begin(self, slot):
        """The same where it waits; interrupt() or retire_end() gives the answer."""
        self._send(slot, "value", 1, IOC_RETIRE, 0)

    def has_answered(self, slot):
        return bool(select.select([self._lanes[slot]], [], [], 0)[0])

    def retire_end(self, slot):
        return -self._answer(slot).result, None

    def interrupt(self, slot):
        tid = self._places[slot][0]
        lane = self._lanes[slot]
        # The first signals may come before it waits: those do nothing.
        lane.settimeout(0.003)
        deadline = time.monotonic() + SILENCE
        try:
            while True:
                _libc.syscall(_SYS_TGKILL, self.pid, tid, int(signal.SIGUSR1))
                try:
                    lane.recv(1, socket.MSG_PEEK)
                    break
                except TimeoutError:
                    assert time.monotonic() < deadline, f"thread {slot} is not interrupted"
        finally:
            lane.settimeout(SILENCE)
        return self.retire_end(slot)

    def set_name(self, slot, id, name, where):
        err, _ = self._pointer(slot, IOC_SET_NAME, SET_NAME.pack(SET_NAME.size, 0, id, name), where)
        return err, None

    def self_(self, slot, where):
        return self._result(slot, IOC_SELF, WORD, (POISON,), where)

    def stat(self, slot, id, size, where):
        number, tail = sized(SNAPSHOT, size)
        sent = SNAPSHOT.pack(number, 77, id, *[POISON] * 10, *[77] * 4, b"poison") + tail
        err, data = self._pointer(slot, IOC_STAT, sent, where)
        if err:
            return err, None
        values = SNAPSHOT.unpack_from(data)
        assert values[0] == number
        assert values[-2] == 0
        assert data[SNAPSHOT.size :] == tail
        shown = {name: values[place] for name, place in SHOWN.items()}
        shown["name"] = shown["name"].rstrip(b"\0")
        return 0, shown

    def fls_alloc(self, slot, times, where):
        return self._result(slot, IOC_FLS_ALLOC, WORD, (POISON,), where, times=times)

    def fls_free(self, slot, index):
        return self._plain(slot, IOC_FLS_FREE, index)

    def fls_set(self, slot, index, value, where):
        err, _ = self._pointer(slot, IOC_FLS_SET, FLS.pack(FLS.size, 0, index, value), where)
        return err, None

    def fls_get(self, slot, index, where):
        return self._result(slot, IOC_FLS_GET, FLS, (FLS.size, 0, index, POISON), where)

    def version(self, slot):
        return self._register(slot, IOC_VERSION)

    def unknown(self, slot, number):
        return self._plain(slot, request(number))

    def set_words(self, slot, words):
        self._ask(slot, "words", words.mxcsr, words.fcw, words.mask)
        return 0, None

    # What can be seen

    def place(self, slot):
        """As of the thread's last answer."""
        return self._places[slot]

    def ids(self):
        try:
            return sorted(map(int, os.listdir(self._folder)))
        except FileNotFoundError:
            return []

    def file(self, id):
        text = Path(f"{self._folder}/{id}").read_bytes().decode("latin-1")
        return dict(line.split(": ", 1) for line in text[:-1].split("\n"))

    def cpu_ns(self):
        return time.clock_gettime_ns(self._cpu_clock)


def sized(argument, size):
    """What a structure has for its size, and what lies behind it."""
    return {
        Size.EXACT: (argument.size, b""),
        Size.LONGER: (argument.size + 8, bytes(8)),
        Size.NEWER: (argument.size + 8, bytes(7) + b"\1"),
        Size.TOO_LARGE: (4097, b""),
        Size.SHORT: (argument.size - 1, b""),
        Size.NONE: (0, b""),
    }[size]


def padded(name):
    """As the field of a structure, zero-terminated if that fits."""
    return name.ljust(NAME_SIZE, b"\0")
