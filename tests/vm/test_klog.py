# SPDX-License-Identifier: MIT
"""Which lines of a kernel log are problems, and how much is cut out."""

import pytest

from kfiber.vm.klog import problems, refused_parameter


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 1 PID: 77 at kernel/fiber.c:10 switch+0x1/0x2 [fiber]",
        "WARNING: possible circular locking dependency detected",
        "WARNING: possible recursive locking detected",
        "WARNING: inconsistent lock state",
        "WARNING: suspicious RCU usage",
        "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "BUG: KASAN: use-after-free in fiber_put+0x1/0x2",
        "BUG: sleeping function called from invalid context at mm/slab.h:1",
        "BUG: scheduling while atomic: app/77/0x00000002",
        "kernel BUG at mm/slub.c:435!",
        "Oops: 0002 [#1] PREEMPT SMP NOPTI",
        "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
        "Kernel panic - not syncing: Fatal exception",
        "INFO: task app:77 blocked for more than 120 seconds.",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [app:77]",
        "UBSAN: shift-out-of-bounds in fiber.c:3:4",
        "unreferenced object 0xffff888003 (size 64):",
        "list_add corruption. prev->next should be next",
        "kfiber: problem: the module does not unload",
    ],
)
@pytest.mark.parametrize("stamp", ["[    1.234567] ", "[12345.000001][  T77] ", ""])
def test_a_problem(line, stamp):
    assert problems(f"[    1.0] before\n{stamp}{line}") == stamp + line


@pytest.mark.parametrize(
    "line",
    [
        "traps: app[77] general protection fault ip:1 sp:2 error:0 in app[1000+2000]",
        "app[77]: segfault at 0 ip 1 sp 2 error 4 in app",
        "Spectre V2 : WARNING: Unprivileged eBPF is enabled",
        "fiber: loading out-of-tree module taints kernel.",
        "hrtimer: interrupt took 253550078 ns",
        "rcu: Preemptible hierarchical RCU implementation.",
        "INFO: lockdep is not on",
    ],
)
def test_no_problem(line):
    assert problems(f"[    1.234567] {line}\n") == ""


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("fiber: `0' invalid for parameter `max_fibers'", "max_fibers=0"),
        ("fiber: `a b' invalid for parameter `lookup'", "lookup=a b"),
        ("fiber: unknown parameter 'x' ignored", None),
    ],
)
def test_a_parameter_that_the_module_refused(line, refused):
    assert refused_parameter(f"[    1.0] before\n[    1.234567] {line}\n") == refused


def test_a_report_is_cut_out_whole():
    log = (
        "[    1.000000] before\n"
        "[    2.000000] ------------[ cut here ]------------\n"
        "[    2.000001] WARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2\n"
        "[    2.000002] Call Trace:\n"
        "[    2.000003] ---[ end trace 0000000000000000 ]---\n"
        "[    3.000000] between\n"
        "[    4.000000] UBSAN: x\n"
    )
    lines = log.splitlines()
    assert problems(log).splitlines() == [*lines[1:5], "…", lines[6]]
