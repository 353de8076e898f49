# SPDX-License-Identifier: MIT
"""Stepping through a switch: the debugger's protocol, and whose instructions they are."""

import socket
import threading

import pytest

from kfiber_bench import steps

LINES = [
    "ffffffff81000000 entry_SYSCALL_64",
    "ffffffff81000010 do_syscall_64",
    "ffffffffc0000000 fiber_ioctl",
    "ffffffffc0000020 fiber_switch",
]
CALL = [
    0xFFFFFFFF81000000, 0xFFFFFFFF81000004, 0xFFFFFFFF81000010, 0xFFFFFFFFC0000000,
    0xFFFFFFFFC0000020, 0xFFFFFFFFC0000024, 0xFFFFFFFF81000014,
]  # fmt: skip
OTHER_CALL = [0xFFFFFFFF81000000, 0xFFFFFFFF81000010, 0xFFFFFFFFC0000000]
# From the breakpoint in a switch to the next call's end: three times, the first time no switch.
STOPPED = [0xFFFFFFFFC0000020, 0xFFFFFFFF81000014, 0x401000, 0x401002]
PATH = [*STOPPED, *OTHER_CALL, 0x401004, *STOPPED, *CALL, 0x401004, *STOPPED, *CALL, 0x401004]


class Machine(threading.Thread):
    """What QEMU says, as far as it is asked."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._at = 0
        self.asked = []

    def answer(self, text):
        self.asked.append(text)
        if text == "s":
            self._at += 1
        if text == "c" and self.asked.count("c") > 1:
            # To the breakpoint again.
            self._at += 1
        if text == "g":
            registers = bytearray(8 * 24)
            registers[128:136] = PATH[self._at].to_bytes(8, "little")
            return registers.hex()
        return "OK" if text[0] in "Zz" else "T05"

    def run(self):
        with self._server, self._server.accept()[0] as connection:
            received = b""
            while data := connection.recv(4096):
                # Acknowledgements need no answer.
                received = (received + data).replace(b"+", b"")
                if received == b"\x03":
                    reply = "T02"
                elif b"#" in received[:-2]:
                    reply = self.answer(received[1:].partition(b"#")[0].decode())
                else:
                    continue
                received = b""
                connection.sendall(f"+${reply}#{sum(reply.encode()) % 256:02x}".encode())


def test_one_system_call_is_stepped_through(tmp_path):
    machine = Machine(tmp_path / "gdb")
    machine.start()
    symbols = steps.Symbols(LINES)
    with steps.Debugger(tmp_path / "gdb") as debugger:
        addresses = steps.trace(debugger, symbols)
    machine.join(60)
    assert addresses == CALL
    assert machine.asked.count("c") == 3
    assert machine.asked[:3] == ["Z0,ffffffffc0000020,1", "c", "z0,ffffffffc0000020,1"]
    assert steps.by_function(addresses, symbols) == [
        {"function": "entry_SYSCALL_64", "instructions": 2},
        {"function": "do_syscall_64", "instructions": 2},
        {"function": "fiber_ioctl", "instructions": 1},
        {"function": "fiber_switch", "instructions": 2},
    ]


def test_a_kernel_without_that_function_is_said():
    with pytest.raises(steps.StepError, match="no function fiber_switch"):
        steps.Symbols(LINES[:2]).address("fiber_switch")


def test_a_machine_that_ends_early_is_said():
    with pytest.raises(steps.StepError, match="before it was ready"):
        list(steps.until_ready(iter(["ffffffff81000000 entry\n"])))
