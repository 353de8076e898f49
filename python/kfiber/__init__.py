# SPDX-License-Identifier: MIT
"""Fibers that the Linux kernel knows.

Layout:

    errors      the error that a person is meant to read
    proc        what /proc/PID/fiber says, as dataclasses
    render      fibers as a table, JSON or Prometheus text
    module      the kernel module: build, load, unload, status
    vm          a command run inside a virtual machine with the module loaded
    cli         the command `kfiber`, one file a verb
    kmod, uapi  the module's sources
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
