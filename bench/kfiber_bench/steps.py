# SPDX-License-Identifier: MIT
"""
Of which functions the kernel's part of a switch consists: one system call, instruction by
instruction. QEMU's debugger interface steps the virtual machine from the kernel's entry until it
returns to user mode; each address is counted for the function in which it lies.
"""

from __future__ import annotations

import bisect
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from kfiber_bench import guest
from kfiber_bench.peers import BUILD

ENTRY = "entry_SYSCALL_64"
HANDLER = "fiber_ioctl"
# Far more than a switch takes.
MOST = 20_000
SECONDS = 120.0


class StepError(Exception):
    """It could not be stepped through; one line."""


class Debugger:
    """The part of GDB's remote protocol that this needs."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS)
        self._socket.connect(str(path))
        self._received = b""

    def __enter__(self) -> Debugger:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _send(self, text: str) -> None:
        self._socket.sendall(f"${text}#{sum(text.encode()) % 256:02x}".encode())

    def _answer(self) -> str:
        while not (found := re.search(rb"\$([^#]*)#..", self._received)):
            data = self._socket.recv(1 << 16)
            if not data:
                raise StepError("the virtual machine ended while it was stepped through")
            self._received += data
        self._received = self._received[found.end() :]
        self._socket.sendall(b"+")
        return found[1].decode()

    def ask(self, text: str) -> str:
        """What it says to one packet."""
        self._send(text)
        return self._answer()

    def stop(self) -> None:
        """Halts the machine."""
        self._socket.sendall(b"\x03")
        self._answer()

    def run_to(self, address: int) -> None:
        """Lets the machine run until it comes there."""
        self.ask(f"Z0,{address:x},1")
        self.ask("c")
        self.ask(f"z0,{address:x},1")

    def step(self) -> int:
        """Executes one instruction; where the next one is."""
        self.ask("s")
        return self.where()

    def where(self) -> int:
        """The address of the next instruction."""
        # The seventeenth register of 64 bits, in the order of its bytes in memory.
        return int.from_bytes(bytes.fromhex(self.ask("g")[16 * 16 : 17 * 16]), "little")


class Symbols:
    """Names of the kernel's functions by address."""

    def __init__(self, lines: Sequence[str]) -> None:
        found = sorted((int(line.split()[0], 16), line.split()[1]) for line in lines)
        self._addresses = [address for address, _ in found]
        self._names = [name for _, name in found]

    def name(self, address: int) -> str:
        """The function in which the address lies."""
        return self._names[bisect.bisect_right(self._addresses, address) - 1]

    def address(self, name: str) -> int:
        """Where a function begins. StepError: there is none of that name."""
        if name not in self._names:
            raise StepError(f"the kernel has no function {name}")
        return self._addresses[self._names.index(name)]


def in_kernel(address: int) -> bool:
    """Whether it is the kernel's half."""
    return address >> 63 == 1


def trace(debugger: Debugger, symbols: Symbols) -> list[int]:
    """The addresses of one switch, from the kernel's entry until user mode."""
    entry = symbols.address(ENTRY)
    debugger.stop()
    debugger.run_to(symbols.address(HANDLER))
    address = debugger.where()
    for _ in range(MOST):
        if not in_kernel(address):
            break
        address = debugger.step()
    for _ in range(MOST):
        if address == entry:
            break
        address = debugger.step()
    addresses = []
    while in_kernel(address):
        addresses.append(address)
        if len(addresses) > MOST:
            raise StepError("the switch did not come to an end")
        address = debugger.step()
    return addresses


def by_function(addresses: Sequence[int], symbols: Symbols) -> list[dict[str, object]]:
    """How many instructions of each function, in the order in which they are entered."""
    counted: dict[str, int] = {}
    for address in addresses:
        name = symbols.name(address)
        counted[name] = counted.get(name, 0) + 1
    return [{"function": name, "instructions": count} for name, count in counted.items()]


def wrapper(folder: Path, path: Path) -> None:
    """A QEMU that listens for a debugger besides, for the PATH."""
    real = shutil.which("qemu-system-x86_64")
    if real is None:
        raise StepError("no qemu-system-x86_64")
    script = folder / "qemu-system-x86_64"
    script.write_text(f'#!/bin/sh\nexec {real} "$@" -gdb unix:{path},server=on,wait=off\n')
    script.chmod(0o755)


def measure() -> list[dict[str, object]]:
    """Boots a machine and steps through a switch of engine `kernel` in it."""
    kfiber = str(Path(sys.executable).with_name("kfiber"))
    with tempfile.TemporaryDirectory(prefix="kfiber-steps-") as name:
        folder = Path(name)
        wrapper(folder, folder / "gdb")
        reading, writing = os.pipe()
        with os.fdopen(reading) as channel:
            machine = subprocess.Popen(
                [kfiber, "vm", "run", "--icount", "--channel", str(writing), "--",
                 "env", f"PYTHONPATH={guest.ROOT / 'bench'}", sys.executable, "-m",
                 "kfiber_bench.steps"],
                env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[writing],
            )  # fmt: skip
            os.close(writing)
            try:
                lines = list(until_ready(channel))
                symbols = Symbols(lines)
                with Debugger(folder / "gdb") as debugger:
                    return by_function(trace(debugger, symbols), symbols)
            except (OSError, ValueError) as e:
                raise StepError(f"{type(e).__name__}: {e}") from e
            finally:
                machine.terminate()
                machine.wait()


def until_ready(channel: Iterator[str]) -> Iterator[str]:
    """The lines before the one that says that the machine is switching."""
    for line in channel:
        if line.strip() == "ready":
            return
        yield line
    raise StepError("the virtual machine ended before it was ready")


def main() -> None:
    """In the machine: says where functions are, then switches until the machine ends."""
    with Path("/dev/vport0p4").open("w") as channel:
        with Path("/proc/kallsyms").open() as file:
            for line in file:
                address, kind, name = line.split()[:3]
                if kind in "tT":
                    channel.write(f"{address} {name}\n")
        channel.write("ready\n")
    os.environ["KFIBER_ENGINE"] = "kernel"
    program = str(BUILD / "peer_kfiber")
    os.execv(program, [program, "ring", "2", "1000000000", "0"])


if __name__ == "__main__":
    main()
