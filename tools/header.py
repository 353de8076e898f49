# SPDX-License-Identifier: MIT
"""Reads fiber.h: its comments, and the declarations that each is about.

For the reference page (reference.py) and the man pages (man.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEADER = Path(__file__).resolve().parents[1] / "lib/include/fiber.h"
# A comment, and the declarations up to the next comment or preprocessor block.
ENTRY = re.compile(
    r"^/\*((?:(?!\*/).)*)\*/\n((?:(?!/\*|#if|#endif|#pragma|extern|#include)[^\n]*\n)*)",
    re.M | re.S,
)
NAME = re.compile(
    r"\b(fiber_\w+)\(|(?:struct|enum) (fiber_\w+) \{|(fiber_\w+);|#define (FIBER_\w+)"
)


@dataclass(frozen=True)
class Entry:
    text: str
    code: str
    names: list[str]  # without those of parameters and fields

    @property
    def functions(self) -> list[str]:
        return [name for name in self.names if re.search(rf"^\w.*\b{name}\(", self.code, re.M)]

    @property
    def structures(self) -> list[str]:
        return re.findall(r"^struct (\w+) \{", self.code, re.M)


def entries() -> Iterator[Entry]:
    """In the order of the header. The first one, without names, is about the whole library."""
    for comment, code in ENTRY.findall(HEADER.read_text()):
        lines = [re.sub(r"^ ?\* ?", "", line.strip(" ")) for line in comment.strip().splitlines()]
        text = "\n".join(lines).strip()
        if text.startswith("SPDX"):
            continue
        plain = re.sub(r"/\*.*?\*/", "", code, flags=re.S)
        # What is indented belongs to a structure or continues a line.
        outer = "\n".join(line for line in plain.splitlines() if not line.startswith("\t"))
        names = ["".join(found) for found in NAME.findall(outer)]
        if names or "\n\n" in text:
            yield Entry(text, code.strip(), list(dict.fromkeys(names)))
