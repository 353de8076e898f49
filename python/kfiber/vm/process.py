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

from kfiber.vm.progress import clear, fleeting, say, show

_INTERVAL = 0.5
# Between two lines where they stay: in a file, in the output of a build service.
_LINE_SECONDS = 60.0


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

    The text of `progress` is shown twice a second on a terminal and once a minute elsewhere, unless
    it is empty. The program and all that it
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
        start = time.monotonic()
        deadline = start + seconds
        next_line = start + _LINE_SECONDS
        try:
            while True:
                try:
                    return process.wait(_INTERVAL)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        raise
                if fleeting():
                    if said := progress():
                        show(said)
                elif time.monotonic() >= next_line:
                    next_line += _LINE_SECONDS
                    if said := progress():
                        say(f"{said} after {round((time.monotonic() - start) / 60)} min")
        finally:
            clear()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
