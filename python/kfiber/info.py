# SPDX-License-Identifier: MIT
"""What can be known of a fiber from outside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FiberInfo:
    """One fiber as one look found it.

    Addresses are 0 where the reader could not debug the process. Times are in nanoseconds. CPU time
    is what a kernel that watches knows, run time (waiting included) what user mode knows; the other
    is None.
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
    cpu_time_ns: int | None
    run_time_ns: int | None
    longest_run_ns: int
    last_switch_ns_ago: int
    entry: int
    instruction_pointer: int
    stack_pointer: int
    stack_start: int
    stack_size: int
    engine: str
