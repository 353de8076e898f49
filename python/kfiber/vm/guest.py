# SPDX-License-Identifier: MIT
"""A running machine: its ports, its control connection, its kernel log."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from kfiber.vm import klog
from kfiber.vm.errors import KERNEL_PROBLEM, NO_GUEST, TIMEOUT, VmError
from kfiber.vm.progress import shown
from kfiber.vm.qemu import (
    Machine,
    machine_arguments,
    memory_file,
    path_in_child,
    port_arguments,
    spawn,
)

CHANNEL = "/dev/vport0p4"
"""In the guest: what a command writes here, Machine's user gets apart from the standard streams."""

_PORTS = range(1, 6)
_CONTROL = 5
_CONTROL_IN_GUEST = "/dev/vport0p5"
# The rest of a report that did not make the kernel panic (lockdep's) has this long to come out.
_REPORT_SECONDS = 15.0
_POLL_SECONDS = 1.0
# init.sh says so before anything else: from then on something of ours has run in the machine.
_INIT_WORD = "kfiber: init runs"
# Under emulation a kernel crashed at random, rarely, long before its first process.
_STARTS = 3


@contextlib.contextmanager
def started(machine: Machine, image: bytes) -> Iterator[Guest]:
    """A machine that is ready for its command.

    One whose kernel crashed before it ran a process of ours is started again, and that is said.
    """
    for again in reversed(range(_STARTS)):
        with Guest(machine, image) as guest:
            try:
                with shown(f"starting Linux {machine.kernel.release}"):
                    guest.control.sendall(b"go\n")
                    guest.expect("ready", machine.boot_timeout)
            except VmError as error:
                report = klog.problems(error.log)
                if not (again and report) or _INIT_WORD in error.log:
                    raise
                first = report.splitlines()[0]
                print(
                    f"kfiber: Linux {machine.kernel.release} crashed before its first process "
                    f"({first}); starting it again",
                    file=sys.stderr,
                )
                continue
            yield guest
            return


class Guest:
    """A running machine: its ports, its control connection, its kernel log. A context manager."""

    def __init__(self, machine: Machine, image: bytes) -> None:
        self._machine = machine
        self._image = image
        self._received = b""
        self._log_position = 0
        self._trouble_since: float | None = None
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Guest:
        with contextlib.ExitStack() as cleanup:
            initrd = cleanup.enter_context(memory_file("initrd"))
            initrd.write(self._image)
            initrd.flush()
            self._log = cleanup.enter_context(memory_file("log"))
            self._errors = cleanup.enter_context(memory_file("qemu"))
            woken, waker = (cleanup.enter_context(end) for end in socket.socketpair())
            self._woken, self._waker = woken, waker
            self.ports: dict[int, socket.socket] = {}
            theirs: dict[int, socket.socket] = {}
            for number in _PORTS:
                ours, its = socket.socketpair()
                self.ports[number] = cleanup.enter_context(ours)
                theirs[number] = cleanup.enter_context(its)
            self.control = self.ports[_CONTROL]
            self._process = spawn(
                [
                    # First of the virtio devices, for its number is in the names of the ports.
                    *port_arguments(theirs),
                    *machine_arguments(self._machine),
                    *("-initrd", path_in_child(initrd)),
                    *("-chardev", f"file,id=log,path={path_in_child(self._log)}"),
                    *("-serial", "chardev:log"),
                ],
                [initrd.fileno(), self._log.fileno(), *(its.fileno() for its in theirs.values())],
                self._errors,
            )
            cleanup.callback(self.kill)
            # Only QEMU may hold these, or its end would not show.
            for its in theirs.values():
                its.close()
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._cleanup.close()

    def kill(self) -> None:
        """End the machine now."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def log(self) -> str:
        """The kernel log so far."""
        self._log.seek(0)
        text = self._log.read().decode(errors="replace").replace("\r\n", "\n")
        # The firmware writes before the kernel does, and leaves its line open.
        return re.sub(r"\A.*?(?=\[ +\d+\.\d+\])", "", text, flags=re.DOTALL)

    def wake(self) -> None:
        """Make expect() raise BrokenPipeError; for the threads that copy."""
        self._waker.send(b".")

    def check_readers(self) -> None:
        """Raise BrokenPipeError if wake() was called."""
        if select.select([self._woken], [], [], 0)[0]:
            raise BrokenPipeError

    def expect(self, word: str, seconds: float | None) -> str:
        """What follows `word` in the guest's next line, which must come within `seconds`.

        Raises VmError if it does not, if the guest dies, or soon after its kernel reported a
        problem. After the command has ended the report has time enough.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._received:
            left = _POLL_SECONDS
            if deadline is not None:
                left = min(left, max(0.0, deadline - time.monotonic()))
            ready, _, _ = select.select([self.control, self._woken], [], [], left)
            if not ready:
                if deadline is not None and time.monotonic() >= deadline:
                    raise self._late(word, seconds or 0.0)
                if word != "done" and self._is_in_trouble():
                    raise VmError(
                        "the machine was ended: its kernel had reported a problem; "
                        "hint: see above, or its kernel log (--log FILE)",
                        status=KERNEL_PROBLEM,
                        log=self.log(),
                    )
                continue
            self.check_readers()
            with contextlib.suppress(ConnectionResetError):
                if data := self.control.recv(4096):
                    self._received += data
                    continue
            raise self._dead(word)
        line, _, self._received = self._received.partition(b"\n")
        said, _, rest = line.decode(errors="replace").partition(" ")
        if said != word:
            raise VmError(
                f"the guest said {said!r} and not {word!r}; "
                f"hint: leave {_CONTROL_IN_GUEST} alone, it belongs to kfiber",
                status=NO_GUEST,
                log=self.log(),
            )
        return rest

    def _is_in_trouble(self) -> bool:
        """Whether the kernel reported a problem more than _REPORT_SECONDS ago."""
        if self._trouble_since is None:
            size = os.fstat(self._log.fileno()).st_size
            new = os.pread(self._log.fileno(), size - self._log_position, self._log_position)
            whole = new[: new.rfind(b"\n") + 1]
            self._log_position += len(whole)
            lines = whole.decode(errors="replace").splitlines()
            if any(klog.is_problem(line) for line in lines):
                self._trouble_since = time.monotonic()
            return False
        return time.monotonic() > self._trouble_since + _REPORT_SECONDS

    def _late(self, word: str, seconds: float) -> VmError:
        if word == "status":
            message = f"the command did not end within {seconds:g} s; hint: a longer --timeout"
            return VmError(message, status=TIMEOUT, log=self.log())
        what = "start" if word == "ready" else "end"
        return VmError(
            f"the guest did not {what} within {seconds:g} s; "
            "hint: see its kernel log (--log FILE), or try when the machine is less busy",
            status=NO_GUEST,
            log=self.log(),
        )

    def _dead(self, word: str) -> VmError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        log = self.log()
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace").splitlines()
        said = re.findall(r"^kfiber: guest: (.*)", log, re.MULTILINE)
        when = "while it started" if word == "ready" else "under the command"
        why = said or errors[-1:] or ["it stopped without a word"]
        if refused := klog.refused_parameter(log):
            why = [f"the module refused {refused}"]
        return VmError(
            f"the guest died {when}: {why[-1]}; hint: see its kernel log (--log FILE)",
            status=NO_GUEST,
            log=log,
        )
