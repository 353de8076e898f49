# SPDX-License-Identifier: MIT
"""The Debian that runs here."""

from __future__ import annotations

import platform

SERIES = {"bookworm": "6.1", "trixie": "6.12"}
"""The kernel series of each release that is known, by codename."""


def codename() -> str:
    """The codename of the running distribution ("bookworm"), or empty."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return release.get("VERSION_CODENAME", "")
