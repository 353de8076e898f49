# SPDX-License-Identifier: MIT
"""What a kernel log says went wrong."""

from __future__ import annotations

import re

PATTERNS = (
    # Where a line starts so, the kernel itself is in trouble.
    r"WARNING:",
    r"BUG:",
    r"kernel BUG at ",
    r"Oops:",
    r"general protection fault",
    r"(double fault|divide error|invalid opcode|int3|stack segment):",
    r"Kernel panic",
    r"(rcu: )?INFO: rcu_",
    r"INFO: task .* blocked for more than",
    r"INFO: trying to register non-static key",
    r"watchdog: ",
    r"UBSAN: ",
    r"KASAN: ",
    r"(list_add|list_del) corruption",
    r"unreferenced object 0x",
    # session.sh says so.
    r"kfiber: problem: ",
    # Lockdep and its like, wherever in the line.
    r".*possible recursive locking",
    r".*possible circular locking",
    r".*inconsistent lock state",
    r".*suspicious RCU usage",
    r".*sleeping function called",
    r".*scheduling while atomic",
    r".*still has locks held",
    r".*bad unlock balance",
)
"""What a line of the log must match, from its start behind the time stamp, to be a problem.

Anchored on purpose: `traps: app[7] general protection fault` is a program's trouble, and
`Spectre V2 : WARNING: …` is advice.
"""

_STAMP = re.compile(r"^\[ *\d+\.\d+\](\[ *[TC]\d+\])? ?")
_PROBLEM = re.compile("|".join(PATTERNS))
_END_OF_REPORT = re.compile(r"---\[ end ")
_LINES_OF_REPORT = 60


def problems(log: str) -> str:
    """The reports of problems in `log`, whole lines; empty if there are none."""
    lines = log.splitlines()
    kept: set[int] = set()
    for number, line in enumerate(lines):
        if not is_problem(line):
            continue
        # The rule above a report ("cut here", "=====") belongs to it.
        start = number - 1 if number and re.search(r"cut here|={8}", lines[number - 1]) else number
        for at in range(start, min(number + _LINES_OF_REPORT, len(lines))):
            kept.add(at)
            if at >= number and _END_OF_REPORT.search(lines[at]):
                break
    excerpt: list[str] = []
    for number in sorted(kept):
        if excerpt and number - 1 not in kept:
            excerpt.append("…")
        excerpt.append(lines[number])
    return "\n".join(excerpt)


def is_problem(line: str) -> bool:
    """Whether this line of a log starts the report of a problem."""
    return _PROBLEM.match(_STAMP.sub("", line)) is not None


def refused_parameter(log: str) -> str | None:
    """NAME=VALUE of the parameter that the module refused as it was loaded, or None."""
    found = re.search(r"fiber: `(.*)' (?:invalid|too large) for parameter `(\w+)'", log)
    return f"{found[2]}={found[1]}" if found else None


def tail(log: str, lines: int = 20) -> str:
    """The last `lines` lines of `log`."""
    return "\n".join(log.splitlines()[-lines:])
