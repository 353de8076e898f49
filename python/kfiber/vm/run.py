# SPDX-License-Identifier: MIT
"""A command inside a virtual machine, from start to end.

The guest is QEMU's child and lives no longer than run(): whatever happens, this process' death by
SIGKILL included, it ends. Nothing of it is left on the disk.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kfiber.vm import klog
from kfiber.vm.errors import VmError
from kfiber.vm.guest import started
from kfiber.vm.image import initramfs
from kfiber.vm.qemu import Machine
from kfiber.vm.relay import FromGuest, ToGuest

# What a command sees of its caller's environment, besides what starts with one of _PREFIXES.
_VARIABLES = ("HOME", "LANG", "LANGUAGE", "PATH", "TERM", "TZ", "VIRTUAL_ENV")
_PREFIXES = ("LC_", "KFIBER_")
_MODULE_IN_GUEST = "/run/kfiber/fiber.ko"
# The debug kernel looks for leaks then.
_TEARDOWN_SECONDS = 1200.0


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
    with started(machine, initramfs(machine.kernel, files)) as guest:
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
