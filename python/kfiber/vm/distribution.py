# SPDX-License-Identifier: MIT
"""The Debian that runs here, and the kernels that Debian's suites offer.

A new series of kernels, or one that moved to another suite, is a change of KERNELS only.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

SERIES = {"bookworm": "6.1", "trixie": "6.12"}
"""The series of each known release's own kernel, by the release's codename."""


@dataclass(frozen=True)
class Offer:
    """A suite, and the package in it that depends on the newest kernel of a series."""

    suite: str
    image: str = "linux-image-amd64"

    @property
    def release(self) -> str:
        """The codename of the release that the suite's packages are built for."""
        return self.suite.removesuffix("-backports")

    @property
    def headers(self) -> str:
        """The package that depends on the headers of the same kernel."""
        return self.image.replace("linux-image-", "linux-headers-", 1)


KERNELS: Mapping[str, tuple[Offer, ...]] = {
    "6.1": (Offer("bookworm"),),
    "6.12": (
        Offer("bookworm", "linux-image-6.12-amd64"),
        Offer("bookworm-backports"),
        Offer("trixie"),
    ),
    "7.3": (Offer("trixie-backports"),),
    "7.3-rt": (Offer("trixie-backports", "linux-image-rt-amd64"),),
}
"""Where each series is, by the name that --kernel takes. The newest of its offers is fetched."""


def codename() -> str:
    """The codename of the running distribution ("bookworm"), or empty."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return release.get("VERSION_CODENAME", "")
