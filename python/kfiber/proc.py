# SPDX-License-Identifier: MIT
"""What the kernel says about fibers: /proc/PID/fiber/ID, or /proc/fiber/PID where that is used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kfiber.errors import KfiberError

PROC = Path("/proc")
# What looking at something says that ended a moment ago.
_VANISHED = (FileNotFoundError, ProcessLookupError)


class NoProcessError(KfiberError):
    """There is no such process, or it may not be looked at."""


@dataclass(frozen=True)
class Fiber:
    """One fiber as one read of its file found it.

    Addresses are 0 where the reader could not debug the process. Times are in nanoseconds.
    """

    pid: int
    id: int
    name: str
    state: str  # "new", "running", "suspended" or "finished"
    running: bool
    thread_id: int  # of the thread that runs it, else 0
    parent_thread_id: int
    activations: int
    failed_activations: int
    cpu_time_ns: int
    longest_run_ns: int
    last_switch_ns_ago: int
    entry: int
    instruction_pointer: int
    stack_pointer: int
    stack_start: int
    stack_size: int
    engine: str


def unescape(name: str) -> str:
    r"""The name behind the kernel's `\ooo` escapes."""
    raw = re.sub(
        rb"\\([0-3][0-7]{2})",
        lambda match: bytes([int(match[1], 8)]),
        name.encode("utf-8", "surrogateescape"),
    )
    return raw.decode("utf-8", "replace")


def parse(pid: int, fiber_id: int, text: str) -> Fiber:
    """A fiber's file as a `Fiber`. Unknown keys are passed over. KfiberError: one is missing."""
    lines = (line.partition(": ") for line in text.splitlines())
    values: Mapping[str, str] = {key.rstrip(":"): value for key, _, value in lines}
    try:
        return Fiber(
            pid=pid,
            id=fiber_id,
            name=unescape(values["Name"]),
            state=values["State"],
            running=values["Running"] == "yes",
            thread_id=int(values["Thread id"]),
            parent_thread_id=int(values["Parent thread id"]),
            activations=int(values["Number of activations"]),
            failed_activations=int(values["Number of failed activations"]),
            cpu_time_ns=int(values["CPU time ns"]),
            longest_run_ns=int(values["Longest run ns"]),
            last_switch_ns_ago=int(values["Last switch ns ago"]),
            entry=int(values["Initial entry point"], 16),
            instruction_pointer=int(values["Saved instruction pointer"], 16),
            stack_pointer=int(values["Saved stack pointer"], 16),
            stack_start=int(values["Stack start"], 16),
            stack_size=int(values["Stack size"]),
            engine=values["Engine"],
        )
    except KeyError as error:
        raise KfiberError(
            f"no line {error.args[0]!r} in the file of fiber {fiber_id} of process {pid}, so "
            "the module and this package differ; mend: kfiber doctor"
        ) from None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _fallback(pid: int, text: str) -> Iterator[Fiber]:
    for block in text.split("\n\n"):
        head, _, rest = block.partition("\n")
        if head.startswith("Fiber: "):
            yield parse(pid, int(head.removeprefix("Fiber: ")), rest)


def fibers(pid: int, *, proc: Path = PROC) -> list[Fiber]:
    """The fibers of a process, by id; none if it has none.

    Fibers that vanish meanwhile are left out. NoProcessError: there is no such process, or it may
    not be looked at, as /proc is mounted with hidepid.
    """
    directory = proc / str(pid) / "fiber"
    found = []
    try:
        for entry in directory.iterdir():
            with suppress(*_VANISHED):
                found.append(parse(pid, int(entry.name), _read(entry)))
    except _VANISHED:
        try:
            found = list(_fallback(pid, _read(proc / "fiber" / str(pid))))
        except _VANISHED:
            if not (proc / str(pid)).exists():
                raise NoProcessError(f"no process {pid}; mend: kfiber ps lists those") from None
    except PermissionError:
        raise NoProcessError(
            f"process {pid} is hidden from you (hidepid); mend: sudo kfiber ps {pid}"
        ) from None
    return sorted(found, key=lambda fiber: fiber.id)


def all_fibers(*, proc: Path = PROC) -> list[Fiber]:
    """The fibers of all processes that may be seen, by pid and id. Whoever ends is left out."""
    found = []
    for pid in processes(proc=proc):
        with suppress(NoProcessError):
            found += fibers(pid, proc=proc)
    return found


def _has_fibers(process: Path) -> bool:
    try:
        return (process / "fiber").is_dir()
    except (PermissionError, *_VANISHED):
        # The first is hidepid's: there is something, but not for this user.
        return False


def processes(*, proc: Path = PROC) -> list[int]:
    """The pids of all processes that have fibers and may be seen, ascending."""
    fallback = proc / "fiber"
    if fallback.is_dir():
        return sorted(int(entry.name) for entry in fallback.iterdir())
    entries = (entry for entry in proc.iterdir() if entry.name.isdecimal())
    return sorted(int(entry.name) for entry in entries if _has_fibers(entry))
