# SPDX-License-Identifier: MIT
"""`kfiber module`: build, load and unload the kernel module, and see how it is."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from kfiber import module

EPILOG = """\
examples:
  kfiber module build                    for the running kernel, into your cache
  sudo kfiber module load                build it if necessary, and load it
  sudo kfiber module load max_fibers=1000
  sudo kfiber module load --group dev    for root and the members of group dev
  kfiber module status --json
  sudo kfiber module unload

The module runs in your kernel with all its rights. To try it without that,
use: kfiber vm run
"""


LOAD_EPILOG = """\
`modinfo $(kfiber module build)` describes the parameters. A user who may
open /dev/fiber may have fibers and use kernel memory for them, up to the limits
that the parameters set. The kernel gives it to root only. A udev rule can do
the same as --group at each boot: docs/howto/dkms.md.

examples:
  sudo kfiber module load lookup=hash
  sudo kfiber module load --mode 0666    for everybody
"""


def parameter(text: str) -> tuple[str, str]:
    """NAME=VALUE as a pair."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def mode(text: str) -> int:
    """An octal file mode that lets the device's owner, root, use it."""
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if value & ~0o666 or value & 0o600 != 0o600:
        raise argparse.ArgumentTypeError(f"{text!r} is no octal mode from 0600 to 0666")
    return value


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "module",
        help="build, load, unload the kernel module",
        description="Handles the kernel module `fiber`.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    build = actions.add_parser(
        "build",
        help="build it and print its path",
        description="Builds the module into the user's cache, and prints its path.",
    )
    build.add_argument("--kernel-dir", type=Path, help="headers or tree of another kernel")
    build.add_argument("--release", help="that kernel's version")
    build.set_defaults(main=build_main)

    load = actions.add_parser(
        "load",
        help="load it; build it first if necessary",
        description="Loads the module into this kernel, and prints who may use /dev/fiber.",
        epilog=LOAD_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    load.add_argument("parameters", nargs="*", type=parameter, metavar="NAME=VALUE")
    load.add_argument(
        "--group",
        metavar="GROUP",
        help=f"give the device to this group (default: {module.GROUP} if there is such a group)",
    )
    load.add_argument(
        "--mode",
        type=mode,
        metavar="MODE",
        help="the device's mode, in octal (default: 0660 with a group, else 0600)",
    )
    load.set_defaults(main=load_main)

    unload = actions.add_parser(
        "unload", help="unload it", description="Unloads the module, unless it is in use."
    )
    unload.set_defaults(main=unload_main)

    status = actions.add_parser(
        "status",
        help="print its state; exit with 1 if it is unusable",
        description="Prints the state of the module; the status is 1 if kfiber cannot use it.",
    )
    status.add_argument("--json", action="store_true")
    status.set_defaults(main=status_main)


def build_main(args: argparse.Namespace) -> int:
    """Prints the path of fiber.ko."""
    print(module.build(args.kernel_dir, args.release))
    return 0


def load_main(args: argparse.Namespace) -> int:
    """Builds and loads; prints who may use the device."""
    if args.group is not None:
        # Before anything is done.
        module.group_id(args.group)
    module.load(module.build(), dict(args.parameters))
    access = module.share(args.group, args.mode)
    print(f"loaded; {access}")
    if access.hint:
        print(f"hint: for another user, as root: {access.hint}")
    return 0


def unload_main(args: argparse.Namespace) -> int:
    """Unloads."""
    module.unload()
    return 0


def status_main(args: argparse.Namespace) -> int:
    """Prints the state; 0 if this package can use the module, else 1."""
    status = module.status()
    if args.json:
        print(json.dumps({**dataclasses.asdict(status), "usable": status.usable}, indent=2))
    elif not status.loaded:
        print("not loaded")
    else:
        answer = "no answer" if status.abi is None else f"ABI {status.abi}"
        print(f"loaded, version {status.version}, {answer}, in use by {status.users}")
        print(f"  {status.access or 'no /dev/fiber'}")
        for name, value in status.parameters.items():
            print(f"  {name}={value}")
    return 0 if status.usable else 1
