# SPDX-License-Identifier: MIT
"""`python -m kfiber` is the command `kfiber`."""

from kfiber.cli import run

if __name__ == "__main__":
    run()
