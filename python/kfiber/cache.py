# SPDX-License-Identifier: MIT
"""The user's cache folder of this project, and locks between the processes that use it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kfiber.errors import KfiberError


def cache() -> Path:
    """The cache folder: below XDG_CACHE_HOME if that is absolute, else below the home directory.

    KfiberError: this user has no home directory.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if home.is_absolute():
        return home / "kfiber"
    try:
        return Path.home() / ".cache/kfiber"
    except RuntimeError:
        raise KfiberError(
            f"no cache folder: user {os.getuid()} has no home directory; "
            "hint: set XDG_CACHE_HOME to a folder of yours"
        ) from None


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock file `path`, and makes its folder. Calls `waiting` if another process has it.

    KfiberError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise KfiberError(
            f"cannot write {path}: {error.strerror}; hint: set XDG_CACHE_HOME to a folder of yours"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
