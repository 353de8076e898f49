# SPDX-License-Identifier: MIT
"""A program that takes its time, and whose words are for a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kfiber.vm.progress import clear, show

_INTERVAL = 0.5


def run(
    argv: Sequence[str],
    seconds: float,
    *,
    out: Path,
    error: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    progress: Callable[[], str],
) -> int:
    """Runs `argv` and returns its status; its outputs go to the files `out` and `error`, or all to
    `out`.

    What `progress` says is shown now and then, unless it is empty. The program and all that it
    started end with this function. subprocess.TimeoutExpired: not done within `seconds`.
    """
    with contextlib.ExitStack() as files:
        output = files.enter_context(out.open("wb"))
        errors = files.enter_context(error.open("wb")) if error else output
        # A session of its own, to end its children with it.
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        deadline = time.monotonic() + seconds
        try:
            while True:
                try:
                    return process.wait(_INTERVAL)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        raise
                if said := progress():
                    show(said)
        finally:
            clear()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
