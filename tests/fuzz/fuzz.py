#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Fuzzes the module's requests in a virtual machine.

    here: kfiber vm run -- this file
      the guest, as root: for each load of the module, with parameters that follow from its seed,
        build/tests/fuzz/fuzz    until it has made its share of the calls
        all counters must come back to 0, and the module must unload

A load's seed is the base seed plus its number, so that a failure is replayed by its own seed alone.
The failures that fuzz.c names are one kind; crashes and warnings of the guest's kernel another, and
objects that stay a third.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = Path(os.environ.get("KFIBER_BUILD", ROOT / "build")) / "tests" / "fuzz" / "fuzz"
KCOV = Path("/sys/kernel/debug/kcov")
# A guest that is emulated on a busy machine makes a thousand a second, a busy one less.
SLOWEST = 100
LOAD_CALLS = 25_000

EXAMPLES = f"""\
examples:
  python tests/fuzz/fuzz.py                             {4 * LOAD_CALLS} calls, a new seed
  python tests/fuzz/fuzz.py --kernel 6.12 --calls 2000000
  python tests/fuzz/fuzz.py --kernel debug --seed 7     with coverage, if it has KCOV
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Fuzzes the kernel module in a virtual machine. Status 0: nothing was found.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--seed", type=int, metavar="S", help="default: another one each time, printed first")
    add("--calls", type=int, default=4 * LOAD_CALLS, metavar="M", help="default: %(default)s")
    add(
        "--load-calls",
        type=int,
        default=LOAD_CALLS,
        metavar="N",
        help=f"load the module anew after so many of them (default: {LOAD_CALLS})",
    )
    add("--kernel", metavar="K", help="as for `kfiber vm run`, which knows them")
    add("--cpus", type=int, default=2, metavar="N", help="processors (default: 2)")
    add("--memory", type=int, default=2048, metavar="MB", help="memory (default: 2048)")
    add("--append", default="", metavar="ARGS", help="more parameters for the guest's kernel")
    add("--log", type=Path, metavar="FILE", help="keep the guest's kernel log")
    add("--json", action="store_true", help="only the summary, in JSON")
    args = parser.parse_args()
    if args.calls < 1 or args.load_calls < 1:
        parser.error("--calls and --load-calls must be at least 1")
    if args.seed is None:
        args.seed = time.time_ns() // 1000 % 10**9
    return args


def replay(args: argparse.Namespace, seed: int, calls: int) -> str:
    words = ["python", "tests/fuzz/fuzz.py", "--seed", str(seed), "--calls", str(calls)]
    words += ["--load-calls", str(args.load_calls)] if args.load_calls != LOAD_CALLS else []
    words += ["--kernel", args.kernel] if args.kernel else []
    words += ["--cpus", str(args.cpus)] if args.cpus != 2 else []
    words += [f"--append={args.append}"] if args.append else []
    return shlex.join(words)


# Here.


def in_guest(args: argparse.Namespace) -> int:
    """Runs this file in the guest, and says how a failure is replayed."""
    if not PROGRAM.exists():
        print(f"fuzz: no {PROGRAM}; hint: make build", file=sys.stderr)
        return 2
    limit = 120 + args.calls / SLOWEST + 30 * args.calls / args.load_calls
    words = ["--seed", str(args.seed), "--calls", str(args.calls)]
    words += ["--load-calls", str(args.load_calls), "--cpus", str(args.cpus)]
    words += ["--kernel", args.kernel] if args.kernel else []
    words += [f"--append={args.append}"] if args.append else []
    command = [
        *(sys.executable, "-m", "kfiber", "vm", "run", "--timeout", str(int(limit))),
        *("--cpus", str(args.cpus), "--memory", str(args.memory), "--show", str(ROOT)),
        *(["--kernel", args.kernel] if args.kernel else []),
        *([f"--append={args.append}"] if args.append else []),
        *(["--log", str(args.log)] if args.log else []),
        *("--", sys.executable, str(HERE / "fuzz.py"), *words, *(["--json"] * args.json)),
    ]
    say(args, f"seed {args.seed}")
    status = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
    if status:
        # The guest may have died without a word; then the last load it began is the one.
        print(f"fuzz: failed with status {status}; all of it again:", file=sys.stderr)
        print(f"  {replay(args, args.seed, args.calls)}", file=sys.stderr)
    return status


def say(args: argparse.Namespace, text: str) -> None:
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


# In the guest.


class Coverage:
    """The module's points that KCOV traces, and which of them were passed.

    KCOV is a task's: it sees what a thread's own system calls run, and neither the work queue, nor
    loading and unloading, nor exit and execve() nor the scheduler's hooks. Where the compiler made
    a point a tail call (an empty function's is), its address is in the caller and not counted.
    """

    def __init__(self, module: Path) -> None:
        self.functions = self._functions(module)
        self.reached: set[str] = set()

    @staticmethod
    def _functions(module: Path) -> dict[str, int]:
        """The points of each function, counted by the calls the compiler put there."""
        output = subprocess.run(
            ["readelf", "-SsrW", module], check=True, capture_output=True, text=True
        ).stdout
        numbers = {
            match[2]: int(match[1])
            for match in re.finditer(r"^\s*\[\s*(\d+)\] (\S+)", output, re.MULTILINE)
        }
        symbols = collections.defaultdict(list)
        for match in re.finditer(
            r"^\s*\d+: ([0-9a-f]+)\s+\S+ FUNC\s+\S+\s+\S+\s+(\d+) (\S+)", output, re.MULTILINE
        ):
            symbols[int(match[2])].append((int(match[1], 16), match[3]))
        points: collections.Counter[str] = collections.Counter()
        for part in output.split("Relocation section '.rela")[1:]:
            section = part.partition("'")[0]
            if section not in numbers or section.startswith((".init", ".exit")):
                continue
            inside = sorted(symbols[numbers[section]])
            for match in re.finditer(
                r"^([0-9a-f]+) .* __sanitizer_cov_trace_pc ", part, re.MULTILINE
            ):
                place = bisect.bisect_right(inside, (int(match[1], 16), "\x7f")) - 1
                if place >= 0:
                    points[inside[place][1]] += 1
        return dict(points)

    def add(self, pcs: Path) -> None:
        """The addresses in a file; while the same load of the module is there."""
        table = []
        for line in Path("/proc/kallsyms").read_text().splitlines():
            words = line.split()
            if words[-1] == "[fiber]" and words[1] in "tT":
                table.append((int(words[0], 16), words[2]))
        table.sort()
        for line in pcs.read_text().split():
            pc = int(line, 16)
            place = bisect.bisect_right(table, (pc, "\x7f")) - 1
            if place >= 0 and table[place][1] in self.functions:
                self.reached.add(f"{table[place][1]}+{pc - table[place][0]:x}")

    def summary(self) -> dict:
        # What the compiler put aside as rare is the same function. KASAN's constructors: _sub_*.
        names = {re.split(r"[+.]", name)[0] for name in self.reached}
        all_names = {name.partition(".")[0] for name in self.functions if name[0] != "_"}
        total = sum(self.functions.values())
        return {
            "points": total,
            "reached": len(self.reached),
            "share": round(len(self.reached) / total, 3) if total else 0,
            "functions_not_reached": sorted(all_names - names),
        }


def setting(seed: int) -> tuple[str, list[str]]:
    """The module's parameters and the fuzzer's sizes, as they follow from a seed."""
    words = ["lookup=" + ("direct", "hash", "direct", "scan")[seed % 4]]
    words += ["proc_pid=" + ("N" if seed % 3 == 2 else "Y")]
    words += ["max_fibers=16"] if seed % 5 == 3 else []
    # The report's tables alone are 16 KiB of each process.
    words += [f"max_user_kib={512 if seed % 2 else 96}"] if seed % 7 == 4 else []
    sizes = [f"--processes={1 + seed // 2 % 4}", f"--threads={1 + seed // 3 % 6}"]
    sizes += ["--limited"] if seed % 7 == 4 else []
    return " ".join(words), sizes


def fuzz_once(seed: int, calls: int, coverage: Coverage | None, target) -> dict:
    """One load's fuzzing: the program's summary. `failure` is in it."""
    _, sizes = setting(seed)
    with tempfile.NamedTemporaryFile("r") as pcs:
        command = [PROGRAM, f"--seed={seed}", f"--calls={calls}", *sizes]
        command += [f"--seconds={60 + calls // SLOWEST}"]
        command += [f"--pcs={pcs.name}"] if coverage else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        try:
            result = json.loads(done.stdout)
        except json.JSONDecodeError:
            result = {"failure": f"fuzz ended with status {done.returncode}: {done.stdout!r}"}
        if coverage and not result["failure"]:
            coverage.add(Path(pcs.name))
    if result["failure"] is None:
        for name in ("processes", "threads", "fibers"):
            try:
                target.wait_for(lambda name=name: target.parameter(name) == "0", f"{name} are 0")
            except AssertionError as error:
                result["failure"] = f"{error}; there are {target.parameter(name)}"
                break
    return result


def guest(args: argparse.Namespace) -> int:
    sys.path.insert(0, str(HERE.parent))
    from kmod import target

    if not KCOV.exists():
        command = ["mount", "-t", "debugfs", "debugfs", KCOV.parent]
        subprocess.run(command, stderr=subprocess.DEVNULL)
    coverage = Coverage(target.module_file()) if KCOV.exists() else None
    total = {"seed": args.seed, "loads": 0, "calls": 0, "rounds": 0, "seconds": 0.0}
    commands = collections.defaultdict(collections.Counter)
    crashes: collections.Counter[str] = collections.Counter()
    failure = None
    while total["calls"] < args.calls and failure is None:
        seed = args.seed + total["loads"]
        parameters, sizes = setting(seed)
        share = min(args.load_calls, args.calls - total["calls"])
        say(args, f"load {total['loads']}: seed {seed}, {parameters}, {' '.join(sizes)}")
        try:
            if target.loaded():
                target.unload_when_free()
            target.load(parameters)
            result = fuzz_once(seed, share, coverage, target)
            if result["failure"] is None:
                target.unload_when_free()
        except (AssertionError, OSError) as error:
            result = {"failure": str(error)}
        failure = result["failure"]
        total["loads"] += 1
        for name in ("calls", "rounds", "seconds"):
            total[name] += result.get(name, 0)
        for name, results in result.get("commands", {}).items():
            commands[name].update(results)
        crashes.update(result.get("crashes", {}))
        if result.get("seconds"):
            say(args, f"  {result['calls']} calls, {result['calls'] / result['seconds']:.0f}/s")
    summary = {
        **total,
        "seconds": round(total["seconds"], 1),
        "commands": commands,
        "crashes": crashes,
        "coverage": coverage and coverage.summary(),
        "failure": failure,
    }
    show(args, summary)
    if failure is not None:
        # The other stream is not held back: without this it would be first.
        sys.stdout.flush()
        # Where workers crashed, those that had to as well.
        log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
        print(*re.findall(r".*segfault.*", log)[-8:], sep="\n", file=sys.stderr)
        print(f"fuzz: found: {failure}\nreplay:\n  {replay(args, seed, share)}", file=sys.stderr)
    return 0 if failure is None else 1


def show(args: argparse.Namespace, summary: dict) -> None:
    if args.json:
        print(json.dumps(summary))
        return
    for name, results in summary["commands"].items():
        print(f"  {name:10}" + "".join(f" {key} {count}" for key, count in results.items()))
    if coverage := summary["coverage"]:
        print(
            f"  {coverage['reached']} of {coverage['points']} points reached, as far as KCOV sees:"
        )
        print("  not in work queues, exit, execve, the scheduler; functions not reached:")
        print("  " + (" ".join(coverage["functions_not_reached"]) or "(none)"))
    print(
        f"seeds {summary['seed']} to {summary['seed'] + summary['loads'] - 1}: "
        f"{summary['calls']} calls, {summary['rounds']} rounds, {summary['seconds']} s, "
        f"crashes (signal: times) {dict(summary['crashes'])}"
    )


def main() -> int:
    args = parse()
    return guest(args) if os.environ.get("KFIBER_GUEST") == "1" else in_guest(args)


if __name__ == "__main__":
    sys.exit(main())
