# SPDX-License-Identifier: MIT
"""QEMU: what it is told for a Machine, how it is started, and whether KVM works here."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kfiber import hint
from kfiber.cache import cache, locked
from kfiber.vm.clock import tsc_khz
from kfiber.vm.errors import MISSING, NO_GUEST, VmError
from kfiber.vm.image import PROBE_TOKEN, probe_image
from kfiber.vm.kernel import Kernel

# Kernel parameters. An emulated processor may stand still for seconds while the host is busy, which
# is no news about the guest. With caches of its own (slab_nomerge) the module cannot be unloaded
# without a complaint as long as anything of it is in memory. The kernel panics on the first oops or
# warning, and a panic ends the machine at once (panic=-1, and QEMU's -no-reboot).
_PARAMETERS = (
    "console=ttyS0 loglevel=5 panic=-1 nokaslr no5lvl watchdog_thresh=60 "
    "rcupdate.rcu_cpu_stall_timeout=120 slab_nomerge oops=panic panic_on_warn=1"
)
_PR_SET_PDEATHSIG = 1
_PROBE_SECONDS = 5.0


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


def memory_file(name: str) -> BinaryIO:
    """A file that is nowhere on the disk and gone with its last user."""
    return os.fdopen(os.memfd_create(f"kfiber-{name}"), "w+b")


def path_in_child(file: BinaryIO) -> str:
    return f"/proc/self/fd/{file.fileno()}"


def machine_arguments(machine: Machine) -> list[str]:
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


def port_arguments(sockets: Mapping[int, socket.socket]) -> list[str]:
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
            f"hint: {hint.install('qemu-system-x86')}",
            status=MISSING,
        )
    return program


def spawn(
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


def require_kvm(kernel: Kernel) -> None:
    """Tries KVM anew, for five seconds at most. VmError: `kernel` does not boot under it."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        there = Path("/dev/kvm").exists()
        why = f"/dev/kvm is not {'yours to open' if there else 'there'}"
    elif _probe_kvm(kernel):
        return
    else:
        why = f"a guest that only says hello did not within {_PROBE_SECONDS:.0f} s"
    raise VmError(f"cannot use KVM: {why}; hint: --accel auto", status=NO_GUEST)


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
    with memory_file("initrd") as initrd, memory_file("log") as log, memory_file("qemu") as qemu:
        initrd.write(probe_image())
        initrd.flush()
        process = spawn(
            [
                *_accelerator_arguments("kvm"),
                *("-smp", "2", "-m", "512", "-kernel", str(kernel.image)),
                *("-append", _PARAMETERS, "-initrd", path_in_child(initrd)),
                *("-chardev", f"file,id=log,path={path_in_child(log)}", "-serial", "chardev:log"),
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
