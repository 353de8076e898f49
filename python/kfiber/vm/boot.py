# SPDX-License-Identifier: MIT
"""A command inside a virtual machine, from start to end.

The guest is QEMU's child and lives no longer than run(): whatever happens, this process' death by
SIGKILL included, it ends. Nothing of it is left on the disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from kfiber.module import cache, locked
from kfiber.vm import klog
from kfiber.vm.clock import tsc_khz
from kfiber.vm.errors import KERNEL_PROBLEM, MISSING, NO_GUEST, TIMEOUT, VmError
from kfiber.vm.image import PROBE_TOKEN, initramfs, probe_image
from kfiber.vm.kernel import Kernel
from kfiber.vm.progress import shown
from kfiber.vm.relay import FromGuest, ToGuest

CHANNEL = "/dev/vport0p4"
"""In the guest: what a command writes here, Machine's user gets apart from the standard streams."""

# Kernel parameters. An emulated processor may stand still for seconds while the host is busy, which
# is no news about the guest. With caches of its own (slab_nomerge) the module cannot be unloaded
# without a complaint as long as anything of it is in memory. The kernel panics on the first oops or
# warning, and a panic ends the machine at once (panic=-1, and QEMU's -no-reboot).
_PARAMETERS = (
    "console=ttyS0 loglevel=5 panic=-1 nokaslr no5lvl watchdog_thresh=60 "
    "rcupdate.rcu_cpu_stall_timeout=120 slab_nomerge oops=panic panic_on_warn=1"
)
# What a command sees of its caller's environment, besides what starts with one of _PREFIXES.
_VARIABLES = ("HOME", "LANG", "LANGUAGE", "PATH", "TERM", "TZ", "VIRTUAL_ENV")
_PREFIXES = ("LC_", "KFIBER_")
_PORTS = range(1, 6)
_CONTROL = 5
_CONTROL_IN_GUEST = "/dev/vport0p5"
_MODULE_IN_GUEST = "/run/kfiber/fiber.ko"
_PR_SET_PDEATHSIG = 1
_PROBE_SECONDS = 5.0
# The rest of a report that did not make the kernel panic (lockdep's) has this long to come out.
_REPORT_SECONDS = 15.0
_POLL_SECONDS = 1.0
# The debug kernel looks for leaks then.
_TEARDOWN_SECONDS = 1200.0


@dataclass(frozen=True)
class Machine:
    """What is booted. `memory` is in MiB, `boot_timeout` in seconds; `append` is for the kernel.

    `accel` is "kvm", "tcg" (emulation), or "auto", which takes KVM where kvm_works() says so.
    With `icount` time in the guest is instructions executed, one a nanosecond, on one processor.
    """

    kernel: Kernel
    cpus: int = 2
    memory: int = 2048
    icount: bool = False
    append: str = ""
    accel: str = "auto"
    # An emulated debug kernel takes 10 s, and on a busy machine minutes.
    boot_timeout: float = 900.0


@dataclass(frozen=True)
class Outcome:
    """How a command went: its exit status, 128+N if signal N ended it, and the kernel's log."""

    status: int
    log: str = field(repr=False)

    @property
    def problems(self) -> str:
        """The part of the log that reports problems of the kernel, or empty."""
        return klog.problems(self.log)


def run(
    argv: Sequence[str],
    machine: Machine,
    *,
    module: Path | None = None,
    parameters: Sequence[str] = (),
    timeout: float | None = None,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: int | None = 0,
    stdout: int | None = 1,
    stderr: int | None = 2,
    channel: int | None = None,
    show: Sequence[Path] = (),
    terminal: bool = False,
) -> Outcome:
    """Run `argv` in `machine`, as root in the directory `cwd`, and wait for its end.

    The guest sees the host's files; what it writes is lost with it. Its /tmp is empty but for
    entries that the command, its PATH or `show` name. `module` is loaded before, with `parameters`,
    each NAME=VALUE. `timeout` is for
    the command alone, in seconds. The descriptors are copied to and from; None is an empty input,
    or an output that is dropped. `channel` gets what the guest writes to CHANNEL.

    With `terminal`, for which `stdin` is one, the command gets one as well; its standard error goes
    to its standard output then, and Ctrl-] ends the machine.

    Raises VmError if the machine does not start, dies, or is too slow, and BrokenPipeError if
    nobody reads an output any more.
    """
    directory = (cwd or Path.cwd()).absolute()
    variables = _environment(os.environ if environment is None else environment)
    program = shutil.which(argv[0], path=variables["PATH"])
    if program is None:
        raise VmError(
            f"no command {argv[0]}; hint: install it here, the guest sees this machine's files",
            status=127,
        )
    command = [str(directory / program), *argv[1:]]
    words = [directory, *command, variables["PATH"], *show]
    words += [machine.kernel.build, machine.kernel.modules]
    if terminal:
        command = _in_terminal(command, stdin)
    if module is not None:
        variables["KFIBER_MODULE"] = _MODULE_IN_GUEST
    files = {
        "command": _command(command, directory, variables),
        "kernel": _assignments(
            release=machine.kernel.release,
            modules=str(machine.kernel.modules),
            build=str(machine.kernel.build),
        ),
        "visible": "".join(f"{name}\n" for name in _below_tmp(map(str, words))).encode(),
    }
    if module is not None:
        files["fiber.ko"] = module.read_bytes()
        files["parameters"] = os.fsencode(" ".join(parameters))
    with _Guest(machine, initramfs(machine.kernel, files)) as guest:
        with shown(f"starting Linux {machine.kernel.release}"):
            guest.control.sendall(b"go\n")
            guest.expect("ready", machine.boot_timeout)
        outputs = [
            FromGuest(guest.ports[2], stdout, guest.wake),
            FromGuest(guest.ports[3], stderr, guest.wake),
            FromGuest(guest.ports[4], channel, guest.wake),
        ]
        for output in outputs:
            output.start()
        source = ToGuest(stdin, guest.ports[1], terminal)
        source.start()
        try:
            status = int(guest.expect("status", timeout))
            complaint = ""
            try:
                sent = [int(word) for word in guest.expect("done", _TEARDOWN_SECONDS).split()]
            except VmError as error:
                complaint = f"\nkfiber: problem: after the command: {error}\n"
                sent = [0] * len(outputs)
            for output, count in zip(outputs, sent, strict=True):
                while not output.wait_for(count, 0.5):
                    guest.check_readers()
            return Outcome(status, guest.log() + complaint)
        finally:
            source.stop()
            guest.kill()
            # What the guest said before it died is in the sockets still.
            for output in outputs:
                output.join(1.0)


def _environment(caller: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in caller.items()
        if name in _VARIABLES or name.startswith(_PREFIXES)
    }
    return {"PATH": os.defpath, **kept, "KFIBER_GUEST": "1"}


def _in_terminal(command: Sequence[str], terminal: int | None) -> list[str]:
    """`command` under script(1), which gives it a terminal of the size of the caller's."""
    script = shutil.which("script", path="/usr/bin:/bin")
    if script is None or terminal is None:
        return [*command]
    size = os.get_terminal_size(terminal)
    line = f"stty rows {size.lines} cols {size.columns}; exec {shlex.join(command)}"
    return [script, "-qec", line, "/dev/null"]


def _command(argv: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> bytes:
    """The shell script that becomes the command. Its commands are busybox's."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    return os.fsencode(
        f"cd {shlex.quote(str(cwd))} || exit 126\n"
        f"exec setsid env -i {shlex.join(variables)} {shlex.join(argv)}\n"
    )


def _assignments(**values: str) -> bytes:
    return os.fsencode("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))


def _below_tmp(words: Iterable[str]) -> list[str]:
    """The entries of /tmp that `words` name, alone or inside a longer word, and that exist."""
    names = {
        name for word in words for name in re.findall(r"(?<![\w.-])/tmp/([^/\s:=,;'\"]+)", word)
    }
    return sorted(name for name in names if name not in (".", "..") and Path("/tmp", name).exists())


class _Guest:
    """A running machine: its ports, its control connection, its kernel log. A context manager."""

    def __init__(self, machine: Machine, image: bytes) -> None:
        self._machine = machine
        self._image = image
        self._received = b""
        self._log_position = 0
        self._trouble_since: float | None = None
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> _Guest:
        with contextlib.ExitStack() as cleanup:
            initrd = cleanup.enter_context(_memory_file("initrd"))
            initrd.write(self._image)
            initrd.flush()
            self._log = cleanup.enter_context(_memory_file("log"))
            self._errors = cleanup.enter_context(_memory_file("qemu"))
            woken, waker = (cleanup.enter_context(end) for end in socket.socketpair())
            self._woken, self._waker = woken, waker
            self.ports: dict[int, socket.socket] = {}
            theirs: dict[int, socket.socket] = {}
            for number in _PORTS:
                ours, its = socket.socketpair()
                self.ports[number] = cleanup.enter_context(ours)
                theirs[number] = cleanup.enter_context(its)
            self.control = self.ports[_CONTROL]
            self._process = _spawn(
                [
                    # First of the virtio devices, for its number is in the names of the ports.
                    *_port_arguments(theirs),
                    *_machine_arguments(self._machine),
                    *("-initrd", _path_in_child(initrd)),
                    *("-chardev", f"file,id=log,path={_path_in_child(self._log)}"),
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


def _memory_file(name: str) -> BinaryIO:
    """A file that is nowhere on the disk and gone with its last user."""
    return os.fdopen(os.memfd_create(f"kfiber-{name}"), "w+b")


def _path_in_child(file: BinaryIO) -> str:
    return f"/proc/self/fd/{file.fileno()}"


def _machine_arguments(machine: Machine) -> list[str]:
    accel = machine.accel
    if machine.icount:
        accel = "tcg"
    elif accel == "auto":
        accel = "kvm" if kvm_works(machine.kernel) else "tcg"
    arguments = _accelerator_arguments(accel, machine.icount)
    arguments += ["-smp", "1" if machine.icount else str(machine.cpus), "-m", str(machine.memory)]
    arguments += ["-kernel", str(machine.kernel.image)]
    emulated = "" if accel == "kvm" else _emulated_parameters(machine.icount)
    arguments += ["-append", f"{_PARAMETERS} {emulated} {machine.append}".rstrip()]
    arguments += ["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"]
    return [*arguments, "-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]


def _emulated_parameters(icount: bool) -> str:
    """What an emulated guest has to know: its time stamp counter, and what to leave alone."""
    # Counted instructions are its nanoseconds.
    khz = 1_000_000 if icount else tsc_khz()
    clock = f"tsc=reliable tsc_early_khz={khz}" if khz else ""
    # The firmware's tables about interrupts are programs, which an emulated debug kernel runs for
    # a minute; there are older tables that are not.
    return f"acpi=noirq {clock}".rstrip()


def _accelerator_arguments(accel: str, icount: bool = False) -> list[str]:
    if accel == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    if icount:
        return ["-accel", "tcg", "-icount", "shift=0,sleep=off", "-cpu", "max"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max"]


def _port_arguments(sockets: Mapping[int, socket.socket]) -> list[str]:
    arguments = ["-device", "virtio-serial-pci"]
    for number, its in sockets.items():
        arguments += ["-chardev", f"socket,id=port{number},fd={its.fileno()}"]
        arguments += ["-device", f"virtserialport,chardev=port{number},nr={number}"]
    return arguments


def qemu() -> str:
    """The program that guests run in. Raises VmError if it is missing."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        raise VmError(
            "no qemu-system-x86_64, which the guest runs in; "
            "hint: apt-get install --no-install-recommends qemu-system-x86",
            status=MISSING,
        )
    return program


def _spawn(
    arguments: Sequence[str], descriptors: Sequence[int], errors: BinaryIO
) -> subprocess.Popen[bytes]:
    """Start QEMU, to die with this process. Raises VmError if it is missing."""
    program = qemu()
    parent = os.getpid()
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    # A session of its own: Ctrl-C is ours to handle. No -sandbox, the 9p server needs too much.
    return subprocess.Popen(
        [program, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=descriptors,
        preexec_fn=die_with_parent,
        start_new_session=True,
    )


def kvm_works(kernel: Kernel) -> bool:
    """Whether `kernel` boots under KVM here. /dev/kvm may be there and abort QEMU, or hang.

    It is tried once after each boot of this machine, for five seconds at most.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    this_boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record = cache() / "kvm"
    with locked(cache() / "kvm.lock"):
        with contextlib.suppress(OSError, ValueError):
            boot, answer = record.read_text().split()
            if boot == this_boot:
                return answer == "works"
        works = _probe_kvm(kernel)
        record.write_text(f"{this_boot} {'works' if works else 'fails'}\n")
    return works


def _probe_kvm(kernel: Kernel) -> bool:
    with _memory_file("initrd") as initrd, _memory_file("log") as log, _memory_file("qemu") as qemu:
        initrd.write(probe_image())
        initrd.flush()
        process = _spawn(
            [
                *_accelerator_arguments("kvm"),
                *("-smp", "2", "-m", "512", "-kernel", str(kernel.image)),
                *("-append", _PARAMETERS, "-initrd", _path_in_child(initrd)),
                *("-chardev", f"file,id=log,path={_path_in_child(log)}", "-serial", "chardev:log"),
            ],
            [initrd.fileno(), log.fileno()],
            qemu,
        )
        try:
            process.wait(_PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            process.kill()
            process.wait()
        return process.returncode == 0 and PROBE_TOKEN in log.read()
