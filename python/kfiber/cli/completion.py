# SPDX-License-Identifier: MIT
"""`kfiber completion`: completes verbs and options in a shell."""

from __future__ import annotations

import argparse

from kfiber.errors import KfiberError

EPILOG = """\
Into the folder where the shell looks: for bash it is
~/.local/share/bash-completion/completions and the file's name is kfiber, for
zsh a folder in fpath and the name is _kfiber; tcsh reads it by `source`.

examples:
  kfiber completion bash > kfiber
  kfiber completion zsh > _kfiber
  kfiber completion tcsh > kfiber.tcsh
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "completion",
        help="print what completes verbs and options in a shell",
        description="Prints a script that completes verbs and options of kfiber in a shell.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh"
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Prints the script. KfiberError: shtab is not installed."""
    try:
        import shtab
    except ImportError:
        raise KfiberError(
            "cannot make completions: shtab is not installed; hint: pip install 'kfiber[tools]'"
        ) from None
    # It imports this file.
    from kfiber.cli import parser

    print(shtab.complete(parser(), shell=args.shell))
    return 0
