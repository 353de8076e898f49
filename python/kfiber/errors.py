# SPDX-License-Identifier: MIT
"""The error that a person is meant to read."""


class KfiberError(Exception):
    """Something that the user can correct.

    The message is one line: what is wrong, why, and after "hint:" what to do. The command line
    prints it and exits with `status`.
    """

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
