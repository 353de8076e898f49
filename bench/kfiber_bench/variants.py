# SPDX-License-Identifier: MIT
"""What the report compares."""

from __future__ import annotations

from typing import NamedTuple


class Variant(NamedTuple):
    """
    One way to have fibers. `engine` is what the workloads call it; `lookup` is the module's
    parameter, None where no module takes part.
    """

    key: str
    title: str
    engine: str
    lookup: str | None


VARIANTS = (
    Variant("version1", "version 1 (hash)", "kernel", "hash"),
    Variant("version2", "version 2 (scan)", "kernel", "scan"),
    Variant("direct", "kernel (direct)", "kernel", "direct"),
    Variant("mapped", "mapped", "mapped", "direct"),
    Variant("local", "local", "local", None),
    Variant("swapcontext", "swapcontext", "swapcontext", None),
)
BY_KEY = {each.key: each for each in VARIANTS}
# In the order in which the module is loaded. `local` and swapcontext run beside the last.
LOOKUPS = ("hash", "scan", "direct")


def with_lookup(lookup: str) -> list[Variant]:
    """The variants that are measured while the module has that look-up."""
    return [
        each
        for each in VARIANTS
        if each.lookup == lookup or (each.lookup is None and lookup == LOOKUPS[-1])
    ]
