# SPDX-License-Identifier: MIT
"""Greenlets that are fibers: greenlet's API, for programs that know no other.

    python -m kfiber.greenlet PROGRAM ...      a program whose `import greenlet` gets this
    KFIBER_GREENLET=1 python PROGRAM ...       the same
    kfiber.greenlet.install()                  the same, before the first import of greenlet

What greenlet's documentation says holds, but that a greenlet has a stack of its own, which is
never copied, and that `kfiber ps` shows it. Modules that were compiled for greenlet's C API work
as they are.
"""

import sys
from pathlib import Path
from typing import Final

from kfiber._native import greenlet as _greenlet

CLOCKS_PER_SEC = _greenlet.CLOCKS_PER_SEC
GREENLET_USE_CONTEXT_VARS = _greenlet.GREENLET_USE_CONTEXT_VARS
GREENLET_USE_GC = _greenlet.GREENLET_USE_GC
GREENLET_USE_TRACING = _greenlet.GREENLET_USE_TRACING
GreenletExit = _greenlet.GreenletExit
_C_API = _greenlet._C_API
enable_optional_cleanup = _greenlet.enable_optional_cleanup
error = _greenlet.error
get_clocks_used_doing_optional_cleanup = _greenlet.get_clocks_used_doing_optional_cleanup
getcurrent = _greenlet.getcurrent
gettrace = _greenlet.gettrace
greenlet = _greenlet.greenlet
settrace = _greenlet.settrace

# Read by the interpreter when it starts; installs this if the variable is set.
START: Final = "kfiber-greenlet.pth"
VARIABLE: Final = "KFIBER_GREENLET"

# The release of greenlet whose behaviour this is.
__version__ = "3.5.6"

__all__ = [
    "_C_API",
    "GreenletExit",
    "__version__",
    "error",
    "getcurrent",
    "gettrace",
    "greenlet",
    "install",
    "installed",
    "settrace",
]


def installed() -> bool:
    """Whether `import greenlet` gets this."""
    return sys.modules.get("greenlet") is sys.modules[__name__]


def starts() -> bool:
    """Whether KFIBER_GREENLET=1 is heard by this Python: kfiber is installed in it."""
    return any(Path(folder, START).is_file() for folder in sys.path)


def install() -> None:
    """From now on `import greenlet` gets this, in the whole process. Nothing if it does already.

    RuntimeError: greenlet has been imported, and its greenlets cannot become fibers.
    """
    if installed():
        return
    if sys.modules.get("greenlet") is not None:
        raise RuntimeError(
            "greenlet has been imported already; hint: call kfiber.greenlet.install() before, "
            "or start the program by python -m kfiber.greenlet"
        )
    sys.modules["greenlet"] = sys.modules[__name__]
    sys.modules["greenlet._greenlet"] = _greenlet
