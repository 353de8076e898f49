# SPDX-License-Identifier: MIT
"""Data of a report that nobody measured, for tests."""

from kfiber_bench import page, report
from kfiber_bench.row import row
from kfiber_bench.variants import LOOKUPS, VARIANTS

MACHINE = {
    "kernel": "6.1.0",
    "processor": "a processor",
    "processors": 2,
    "memory_mib": 1967,
    "emulated": True,
}
SLOW = {"version2": 6.0, "direct": 0.9, "mapped": 0.5, "local": 0.5, "swapcontext": 0.6}


def sample(scale=1.0):
    """Every list has records; `scale` is how much slower version 2 is than it should be."""
    collection = report.Collection(report.Progress())
    for name in ("guest", "counted", "second"):
        collection.take(name, {"about": MACHINE})
    for variant in VARIANTS:
        slow = SLOW.get(variant.key, 1.0) * (scale if variant.key == "version2" else 1)
        for repeat in range(5):
            noise = 1 + repeat / 100
            cells = [(where, fibers, processes) for where in ("guest", "second")
                     for fibers in (512, 1024) for processes in (1, 3)]  # fmt: skip
            if not repeat:
                cells += [("counted", fibers, 1) for fibers in (512, 1024)]
            for where, fibers, processes in cells:
                own = slow * processes * (fibers / 512 if variant.key == "version2" else 1)
                collection.take(
                    where,
                    {
                        "matrix": {
                            "variant": variant.key, "fibers": fibers, "processes": processes,
                            "repeat": repeat, "calls": 30, "threads": 2,
                            "init": 0.02 * noise, "work": 2 * own * noise,
                            "active": own * noise, "reads": 660.0,
                            "switches": 7.0,
                        }
                    },
                )  # fmt: skip
            for fibers in (128, 512, 1024, 4096):
                for threads in (1, 2):
                    key = {"variant": variant.key, "fibers": fibers, "threads": threads}
                    times = {"ns": 1000 * slow * noise, "refused": 0.01}
                    collection.take("guest", {"switching": {**key, "repeat": repeat, **times}})
    for lookup in LOOKUPS:
        for fibers in (128, 512, 1024, 2048, 4096):
            for operation in ("null_ioctl", "create", "switch", "fls_get"):
                own = 4400 + 5.5 * fibers if lookup == "scan" else 850
                collection.take(
                    "counted",
                    {
                        "operations": {
                            "lookup": lookup, "fibers": fibers, "operation": operation,
                            "instructions": 588 if operation == "null_ioctl" else round(own),
                            "least": 500, "most": 20000,
                        }
                    },
                )  # fmt: skip
    for count, state in enumerate(page.STATES):
        collection.take("counted", {"others": {"state": state, "instructions": 1759 + 6 * count}})
    found = collection.close()
    found["functions"] = [
        {"function": "entry_SYSCALL_64", "instructions": 64},
        {"function": "tomoyo_file_ioctl", "instructions": 30},
        {"function": "fiber_switch", "instructions": 82},
    ]
    found["missing"] = [{"what": "libco", "why": "peer_libco is not built"}]
    found["about"] = {
        "command": "make report", "mode": "default", "date": "2026-11-28", "source": "abc",
        "repeats": 5, "minutes": 17.0, "seconds": 0.1, "second_kernel": "none",
    }  # fmt: skip
    environment = {"kernel": "6.18.0", "machine": "a processor, 4 passes"}
    switches = [
        row("switch", 20.0, "ns", engine="local", fibers=512, spread=1),
        row("switch", 200.0, "ns", engine=None, fibers=512, spread=1, peer="swapcontext"),
    ]
    python = [
        row(f"3.14: {case}", 70.0, "ns", engine="local", peer="greenlet", ratio=0.3)
        for case in ("switch to and from main", "gc.collect(), 100,000 suspended")
    ]
    found["native"] = {
        "switch": {"environment": environment, "rows": switches},
        "python": {"environment": environment, "rows": python},
    }
    return found
