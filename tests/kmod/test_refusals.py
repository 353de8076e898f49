# SPDX-License-Identifier: MIT
"""Where the module does not go: kernels that lack what it stands on, kernels that are locked."""

import subprocess
import sys
from pathlib import Path

import pytest

from kfiber import module
from kfiber.vm import kernels

KBUILD = Path(__file__).resolve().parents[2] / "kmod" / "Kbuild"
GOOD = {"CONFIG_MODULES": "y", "CONFIG_PREEMPT_NOTIFIERS": "y", "CONFIG_X86_64": "y"}


def configured(options):
    """What Kbuild says to a kernel with that configuration, on standard error."""
    words = [f"{name}={value}" for name, value in options.items() if value]
    command = ["make", "-n", "-f", KBUILD, *words]
    return subprocess.run(command, capture_output=True, text=True).stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"CONFIG_PREEMPT_RT": "y", "VERSION": "6"}, "PREEMPT_RT is tested from Linux 7 on"),
        ({"CONFIG_PREEMPT_NOTIFIERS": ""}, "lacks CONFIG_PREEMPT_NOTIFIERS"),
        ({"CONFIG_X86_64": ""}, "only x86-64"),
    ],
)
def test_kbuild_refuses(change, words):
    assert words not in configured(GOOD)
    assert words in configured({**GOOD, **change})


def test_locked_down_kernel_takes_signed_modules_only():
    # The guest finds it in the cache: building it there would take minutes.
    kernel = kernels.get()
    module.build(kernel.build, kernel.release)
    script = (
        "cat /sys/kernel/security/lockdown;"
        f"{sys.executable} -m kfiber module load; echo status $?;"
        "test ! -e /sys/module/fiber && test ! -e /dev/fiber && echo nothing is left"
    )
    # Not by --append alone: what is loaded while the guest starts would fail before the command.
    mount = "mount -t securityfs securityfs /sys/kernel/security;"
    lock = "echo integrity > /sys/kernel/security/lockdown;"
    command = [sys.executable, "-m", "kfiber", "vm", "run", "--no-module", "--"]
    done = subprocess.run(
        [*command, "sh", "-c", mount + lock + script], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert "[integrity]" in done.stdout
    assert "status 1" in done.stdout
    assert "nothing is left" in done.stdout
    # One line, with what to do.
    (line,) = [line for line in done.stderr.splitlines() if "loading the module" in line]
    assert "hint: " in line
