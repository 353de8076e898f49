# SPDX-License-Identifier: MIT
"""Programs that were written for greenlet, over it and over kfiber.greenlet: for python/judges."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from interpreters import install

SHORT = os.environ.get("KFIBER_JUDGES") == "short"


class Done(NamedTuple):
    """How a program ended; "late" after its time."""

    status: int | str
    output: str


class Program(NamedTuple):
    """One that runs."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, wanted: str) -> re.Match[str]:
        """Waits until it has said that: a regular expression."""

        def said() -> re.Match[str] | None:
            if found := re.search(wanted, self.output(), re.MULTILINE):
                return found
            assert self.process.poll() is None, self.output()[-5000:]
            return None

        return until(said, lambda: f"{wanted!r} is not in\n{self.output()[-5000:]}")


def until(happens: Callable[[], object], failure: Callable[[], str], seconds: float = 1500):
    """What `happens()` returns as soon as that is true."""
    end = time.monotonic() + seconds
    while not (result := happens()):
        assert time.monotonic() < end, failure()
        time.sleep(0.1)
    return result


class Judged:
    """A Python with this checkout's kfiber and with greenlet."""

    def __init__(self, version: str, python: Path, site: Path):
        self.version, self.python, self.site = version, python, site

    def needs(self, *packages: str) -> None:
        """They come from the package registry; without them the test is skipped."""
        if failed := install(self.python, *packages):
            pytest.skip(f"Python {self.version}: pip could not fetch them: {failed[-300:]}")

    def settings(self, ours: bool, settings: dict[str, str]) -> dict[str, str]:
        """The environment over greenlet or over `ours`."""
        chosen = {"KFIBER_GREENLET": str(int(ours)), "PYTHONPATH": str(self.site)}
        return {
            **os.environ,
            "KFIBER_ENGINE": "local",
            "PYTHONUNBUFFERED": "1",
            **chosen,
            **settings,
        }

    def run(
        self, folder: Path, ours: bool, *words: object, timeout: int = 300, **settings: str
    ) -> Done:
        """A program, until it ends."""
        try:
            done = subprocess.run(
                [str(self.python), "-X", "faulthandler", *map(str, words)],
                cwd=folder,
                env=self.settings(ours, settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            said = late.stdout or ""
            return Done("late", said if isinstance(said, str) else said.decode(errors="replace"))
        return Done(done.returncode, done.stdout)

    @contextmanager
    def start(self, folder: Path, ours: bool, *words: object, **settings: str) -> Iterator[Program]:
        """A program, which is told to end when the block does."""
        log = folder / f"{len(list(folder.glob('*.log')))}.log"
        with log.open("wb") as output, subprocess.Popen(
            [str(self.python), "-X", "faulthandler", *map(str, words)],
            cwd=folder,
            env=self.settings(ours, settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                yield Program(process, log)
            finally:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()

    def names(self, pid: int) -> list[str]:
        """Of the fibers of that process, as `kfiber ps` shows them."""
        command = [self.python, "-m", "kfiber", "ps", "--json", str(pid)]
        return [each["name"] for each in json.loads(subprocess.check_output(command))]

    def shown(self, pid: int, wanted: str, least: int) -> None:
        """Waits until that many names of that process match a regular expression."""

        def enough() -> bool:
            return sum(bool(re.search(wanted, name)) for name in self.names(pid)) >= least

        until(enough, lambda: f"{wanted!r} is not there {least} times: {self.names(pid)}")


def free() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", port))


@contextmanager
def serving(port: int, command: list[object], **options: object) -> Iterator[None]:
    """A server of this machine's distribution, on loopback."""
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    ) as server:
        try:
            until(
                lambda: listens(port) or server.poll() is not None,
                lambda: f"{command[0]} does not listen",
            )
            assert server.poll() is None, command
            yield
        finally:
            server.terminate()
