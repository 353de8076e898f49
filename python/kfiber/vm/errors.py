# SPDX-License-Identifier: MIT
"""The error of this package, and the exit statuses that are no command's own."""

from kfiber.errors import KfiberError

MISSING = 69
"""Something that the machine needs is not there: QEMU, busybox, a kernel package, the mirror."""
KERNEL_PROBLEM = 70
"""The guest's kernel reported a problem."""
NO_GUEST = 71
"""The guest did not come up, or died without a word."""
TIMEOUT = 124
"""The command ran longer than its time limit, as timeout(1) has it."""


class VmError(KfiberError):
    """A virtual machine could not do what was asked.

    `log` is the guest's kernel log as far as it got, or empty.
    """

    def __init__(self, message: str, *, status: int, log: str = "") -> None:
        super().__init__(message, status=status)
        self.log = log
