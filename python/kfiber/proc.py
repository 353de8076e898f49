# SPDX-License-Identifier: MIT
"""Snapshots of fibers: from /proc/PID/fiber/ID, or from /proc/fiber if the module uses that.

Engine `local` publishes its fibers in a status table in the memory of the process: table.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from kfiber import hint, table
from kfiber.errors import KfiberError
from kfiber.info import FiberInfo

PROC = Path("/proc")
# What looking at something says that ended a moment ago.
_VANISHED = (FileNotFoundError, ProcessLookupError)


class NoProcessError(KfiberError):
    """There is no such process, or it may not be looked at."""


def unescape(name: str) -> str:
    r"""The name behind the kernel's `\ooo` escapes."""
    raw = re.sub(
        rb"\\([0-3][0-7]{2})",
        lambda match: bytes([int(match[1], 8)]),
        name.encode("utf-8", "surrogateescape"),
    )
    return raw.decode("utf-8", "replace")


def parse(pid: int, fiber_id: int, text: str) -> FiberInfo:
    """A fiber's file as a FiberInfo; unknown keys are passed over. KfiberError: one is missing."""
    lines = (line.partition(": ") for line in text.splitlines())
    values: Mapping[str, str] = {key.rstrip(":"): value for key, _, value in lines}
    try:
        return FiberInfo(
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
            run_time_ns=None,
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
            "the module and this package differ; hint: kfiber doctor"
        ) from None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _fallback(proc: Path) -> Iterator[tuple[int, int, str]]:
    """Pid, id and text of each fiber in the module's one file, which is empty if there is none."""
    with suppress(*_VANISHED, IsADirectoryError):
        for block in _read(proc / "fiber").split("\n\n"):
            head = re.match(r"Process: (\d+)\nFiber: (\d+)\n", block)
            if head:
                yield int(head[1]), int(head[2]), block[head.end() :]


def fibers(pid: int, *, proc: Path = PROC) -> list[FiberInfo]:
    """The fibers of a process, by id; none if it has none.

    Fibers that vanish meanwhile are left out. NoProcessError: there is no such process, or it may
    not be looked at: /proc is mounted with hidepid, or the table is in somebody else's memory.
    """
    try:
        found = of_module(pid, proc)
        # Everybody may see the kernel's, but not everybody's memory.
        with suppress(*_VANISHED, *((PermissionError,) if found else ())):
            found += table.fibers(proc / str(pid))
    except PermissionError:
        raise NoProcessError(
            f"cannot look at process {pid}: it is hidden from you (hidepid), or its memory is; "
            f"hint: {hint.to_see('ps', str(pid))}"
        ) from None
    if not found and not (proc / str(pid)).exists():
        raise NoProcessError(
            f"cannot look at process {pid}: there is none; hint: kfiber ps lists those with fibers"
        )
    return sorted(found, key=lambda fiber: fiber.id)


def of_module(pid: int, proc: Path = PROC) -> list[FiberInfo]:
    """The fibers of a process that the module knows: engines `kernel` and `mapped`."""
    found = []
    try:
        for entry in (proc / str(pid) / "fiber").iterdir():
            with suppress(*_VANISHED):
                found.append(parse(pid, int(entry.name), _read(entry)))
    except _VANISHED:
        found = [parse(pid, fiber, text) for owner, fiber, text in _fallback(proc) if owner == pid]
    return found


def all_fibers(report: Callable[[KfiberError], None], *, proc: Path = PROC) -> list[FiberInfo]:
    """The fibers of all processes that may be seen, by pid and id.

    Processes that end meanwhile are left out. `report` is told of those that cannot be read.
    """
    found = []
    for pid in processes(proc=proc):
        with suppress(NoProcessError):
            try:
                found += fibers(pid, proc=proc)
            except table.VersionError as error:
                report(error)
    return found


def fibers_of(
    pids: Iterable[int], report: Callable[[KfiberError], None], *, proc: Path = PROC
) -> list[FiberInfo]:
    """The fibers of these processes. `report` is told of those that cannot be read."""
    found = []
    for pid in pids:
        try:
            found += fibers(pid, proc=proc)
        except KfiberError as error:
            report(error)
    return found


def command(pid: int, *, proc: Path = PROC) -> str:
    """The name of the program that the process runs, 15 bytes at most; "" if it has ended."""
    try:
        return (proc / str(pid) / "comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def has_ended(pid: int, *, proc: Path = PROC) -> bool:
    """Whether there is nothing left of it, or nothing but what its parent has not fetched yet."""
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="surrogateescape")
    except _VANISHED:
        return True
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")


def _has_fibers(process: Path) -> bool:
    try:
        return (process / "fiber").is_dir() or table.exists(process)
    except (PermissionError, *_VANISHED):
        # The first is hidepid's, or a table's of somebody else: not for this user.
        return False


def processes(*, proc: Path = PROC) -> list[int]:
    """The pids of all processes that have fibers and may be seen, ascending."""
    found = {int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal()}
    pids = {pid for pid in found if _has_fibers(proc / str(pid))}
    return sorted(pids | {pid for pid, _, _ in _fallback(proc)})
