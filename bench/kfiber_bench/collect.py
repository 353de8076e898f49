# SPDX-License-Identifier: MIT
"""
Takes the report's measurements on the machine where it runs, the virtual one or this one.

    python -m kfiber_bench.collect PLAN [FILE]

PLAN is a JSON object: the parts that are to be measured, each with its sizes (see report.py).
Writes a JSON object a line to FILE (standard output): {"about": machine}, {"steps": how many
there will be}, {"step": what begins}, {"missing": what, "why": reason} for what this machine does
not offer, {"failed": what, "why": reason}, or a part's name with one sample. Repeats are the outer
loop, so that what disturbs the machine meets all variants alike.

On this machine root's module is reloaded for each look-up. At the end, by a signal too, it gets
its parameters back, and its device the users.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from kfiber import module
from kfiber.errors import KfiberError
from kfiber_bench import guest
from kfiber_bench.variants import LOOKUPS, VARIANTS, Variant, with_lookup

Event = dict[str, Any]
Plan = dict[str, Any]

# Of one run, in seconds; --full takes long.
LIMIT = 4 * 3600.0
# How often the module is loaded for the requests of a look-up.
LOADS = {"hash": 3, "scan": 3, "direct": 1}
SIGNALS = signal.SIGHUP, signal.SIGINT, signal.SIGTERM
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class Unavailable(Exception):
    """This cannot be measured here; one line that says why."""


class Group(NamedTuple):
    """Variants that are measured while the module has one look-up; that look-up, None as it is."""

    lookup: str | None
    variants: list[Variant]


def end_with_parent(number: int) -> Callable[[], None]:
    """For preexec_fn: the kernel sends the child this signal when its parent ends."""
    parent = os.getpid()

    def prepare() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def run(words: list[object]) -> dict[str, Any]:
    """What a workload prints. Unavailable: it does not run."""
    try:
        done = subprocess.run(
            [str(word) for word in words], text=True, capture_output=True, timeout=LIMIT,
            stdin=subprocess.DEVNULL, preexec_fn=end_with_parent(signal.SIGKILL),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not done after {LIMIT:g} s") from None
    except OSError as e:
        raise Unavailable(f"{words[0]}: {e.strerror}; hint: make build") from None
    if done.returncode:
        reason = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise Unavailable(reason)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def in_guest() -> bool:
    """Whether this is the virtual machine, in which the module can be loaded at will."""
    return os.environ.get("KFIBER_GUEST") == "1"


def load(lookup: str) -> None:
    """Loads the module with that look-up. Unavailable: it cannot."""
    try:
        if in_guest():
            guest.reload(lookup)
        else:
            replace({"lookup": lookup})
    except (KfiberError, OSError, subprocess.SubprocessError) as e:
        raise Unavailable(str(e)) from None


def replace(parameters: Mapping[str, str]) -> None:
    """Loads the module into this machine with these parameters. KfiberError: it cannot."""
    path = module.build()
    if module.SYSFS.exists():
        module.unload()
    module.load(path, parameters)


def settings() -> dict[str, str]:
    """The parameters that the loaded module has and that loading it can set."""
    return {
        name: (module.SYSFS / "parameters" / name).read_text().strip()
        for name, parameter in module.parameters(module.build()).items()
        if not parameter.read_only
    }


def reloads() -> bool:
    """Whether this machine's module may be reloaded. KfiberError: it cannot be built."""
    if in_guest() or os.geteuid() or not module.SYSFS.exists():
        return False
    module.build()
    return True


@contextmanager
def restored() -> Iterator[None]:
    """In the end this machine's module has the parameters, and its device the users, of now."""
    try:
        changes = reloads()
    except KfiberError:
        changes = False
    if not changes:
        yield
        return
    before, access = settings(), module.access()
    try:
        yield
    finally:
        ignore_signals()
        try:
            if not module.SYSFS.exists() or settings() != before:
                replace(before)
                if access:
                    module.share(access.group, access.mode)
        except KfiberError as e:
            words = " ".join(f"{name}={value}" for name, value in before.items())
            sys.exit(
                f"cannot give the module its parameters back: {str(e).partition('; hint: ')[0]}; "
                f"hint: kfiber module unload; kfiber module load {words}"
            )


def ignore_signals() -> None:
    """From now on those that end this program do not."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end(number: int, _: FrameType | None) -> NoReturn:
    """Makes the first signal an exception: what is being cleaned up then is not disturbed."""
    ignore_signals()
    sys.exit(128 + number)


def groups() -> tuple[list[Group], list[Event]]:
    """What can be measured here, and what cannot and why."""
    every = [Group(lookup, with_lookup(lookup)) for lookup in LOOKUPS]
    if in_guest():
        return every, []
    now = None
    if module.SYSFS.exists():
        now = (module.SYSFS / "parameters" / "lookup").read_text().strip()
        why = f"the module is loaded with lookup={now}; "
        try:
            if reloads():
                return every, []
            why += "root could reload it"
        except KfiberError as e:
            why += str(e)
    else:
        why = "the module is not loaded here; hint: sudo kfiber module load"
    can = [each for each in VARIANTS if each.lookup in (None, now)]
    events = [
        {"missing": each.title, "why": why} for each in VARIANTS if each.lookup not in (None, now)
    ]
    return [Group(None, can)], events


def about() -> dict[str, Any]:
    """The machine."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "kernel": os.uname().release,
        "processor": model[1] if model else os.uname().machine,
        "processors": os.cpu_count(),
        "memory_mib": int(memory[1]) // 1024 if memory else None,
        "emulated": bool(model and "TCG" in model[1]),
    }


def repeated(
    repeats: int, of_group: Callable[[Variant], list[tuple[str, Event, list[object]]]],
    sample: Callable[[Event, dict[str, Any]], Event],
) -> Iterator[Event]:  # fmt: skip
    """
    Each run of each variant, once a repeat. What fails is said once and left out. A module that
    cannot be loaded is in use, which is a failure only in the virtual machine.
    """
    can, events = groups()
    yield from events
    runs = {variant: of_group(variant) for group in can for variant in group.variants}
    yield {"steps": repeats * sum(map(len, runs.values()))}
    for number in range(repeats):
        for group in can:
            need = [each for each in group.variants if each.lookup is not None and runs[each]]
            if group.lookup is not None and need:
                try:
                    load(group.lookup)
                except Unavailable as e:
                    for variant in need:
                        yield {"failed" if in_guest() else "missing": variant.title, "why": str(e)}
                        runs[variant] = []
            for variant in group.variants:
                for title, key, words in runs[variant]:
                    yield {"step": f"repeat {number + 1} of {repeats}: {title}"}
                    try:
                        result = run(words)
                    except Unavailable as e:
                        yield {"failed": title, "why": str(e)}
                        runs[variant] = [each for each in runs[variant] if each[0] != title]
                        continue
                    yield sample({**key, "repeat": number}, result)


def matrix(plan: Plan) -> Iterator[Event]:
    """The report's workload."""

    def runs(variant: Variant) -> list[tuple[str, Event, list[object]]]:
        return [
            (
                f"{variant.title}, {fibers:,} fibers, {processes} at once",
                {"variant": variant.key, "fibers": fibers, "processes": processes},
                [guest.BUILD / "cells", "--engine", variant.engine, "--fibers", fibers,
                 "--processes", processes, "--calls", plan["calls"], "--json"],
            )
            for fibers in plan["fibers"]
            for processes in plan["processes"]
        ]  # fmt: skip

    def sample(key: Event, result: dict[str, Any]) -> Event:
        everybody = result["fibers"] * result["processes"]
        return {
            "matrix": {
                **key,
                "calls": result["calls"],
                "threads": result["threads"],
                "init": result["init_seconds"],
                "work": result["work_per_fiber_seconds"],
                "active": result["active_per_fiber_seconds"],
                "reads": result["fls_reads"] / everybody,
                "switches": result["switches"] / everybody,
            }
        }

    yield from repeated(plan["repeats"], runs, sample)


def switching(plan: Plan) -> Iterator[Event]:
    """Fibers that only switch."""

    def runs(variant: Variant) -> list[tuple[str, Event, list[object]]]:
        return [
            (
                f"{variant.title}, switches among {fibers:,} fibers, {threads} thread(s)",
                {"variant": variant.key, "fibers": fibers, "threads": threads},
                [guest.BUILD / "switches", "--engine", variant.engine, "--fibers", fibers,
                 "--threads", threads, "--seconds", plan["seconds"]],
            )
            for fibers in plan["fibers"]
            for threads in plan["threads"]
        ]  # fmt: skip

    def sample(key: Event, result: dict[str, Any]) -> Event:
        attempts = result["switches"] + result["refused"]
        return {"switching": {**key, "ns": result["ns"], "refused": result["refused"] / attempts}}

    yield from repeated(plan["repeats"], runs, sample)


def operations(plan: Plan) -> Iterator[Event]:
    """
    Requests in guest instructions, for which the machine has to count them. Each time the module is
    loaded with tables it chooses their buckets by another secret key, so it is loaded some times.
    """
    yield {"steps": sum(LOADS.values()) * len(plan["fibers"])}
    for lookup, loads in LOADS.items():
        found: dict[tuple[int, str], list[guest.Cost]] = {}
        for number in range(loads):
            load(lookup)
            for fibers in plan["fibers"]:
                yield {
                    "step": f"instructions of requests, lookup={lookup}, {fibers:,} fibers, "
                    f"load {number + 1} of {loads}"
                }
                for operation, cost in guest.counts(fibers).items():
                    found.setdefault((fibers, operation), []).append(cost)
        for (fibers, operation), costs in found.items():
            yield {
                "operations": {
                    "lookup": lookup, "fibers": fibers, "operation": operation, "loads": loads,
                    "instructions": round(statistics.mean(cost.value for cost in costs)),
                    "least": round(min(cost.least for cost in costs)),
                    "most": round(max(cost.most for cost in costs)),
                }
            }  # fmt: skip


def others(_: Plan) -> Iterator[Event]:
    """A switch of the CPU between two threads, as the module comes closer to them."""
    yield {"steps": 5}

    def state(name: str, *words: str) -> Iterator[Event]:
        yield {"step": f"a switch of the CPU: {name}"}
        yield {"others": {"state": name, "instructions": round(guest.yields(*words))}}

    load("direct")
    yield from state("threads with a status table", "attached")
    yield from state("threads that are fibers", "converted")
    with guest.living_fibers():
        yield from state("another process has fibers")
    yield from state("the module is loaded")
    module.unload()
    yield from state("the module is absent")


PARTS: dict[str, Callable[[Plan], Iterator[Event]]] = {
    "matrix": matrix,
    "switching": switching,
    "operations": operations,
    "others": others,
}


def main(text: str, path: str = "/dev/stdout") -> None:
    """Measures all parts of the plan."""
    for number in SIGNALS:
        signal.signal(number, end)
    plan = json.loads(text)
    with restored(), Path(path).open("w", buffering=1) as output:

        def say(event: Event) -> None:
            output.write(json.dumps(event) + "\n")

        say({"about": about()})
        for part, its_plan in plan.items():
            try:
                for event in PARTS[part](its_plan):
                    say(event)
            except (Unavailable, KfiberError, subprocess.SubprocessError) as e:
                say({"failed": part, "why": str(e)})


if __name__ == "__main__":
    main(*sys.argv[1:])
