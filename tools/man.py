# SPDX-License-Identifier: MIT
"""Man pages of the command and each of its verbs, from its parsers: `make man`.

python tools/man.py FOLDER      writes kfiber.1, kfiber-ps.1, kfiber-vm-run.1, … there
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from kfiber import __version__
from kfiber.cli import parser


def parsers(top: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """It and those of its verbs."""
    yield top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


def escaped(text: str) -> str:
    """The text as roff shows it as it is."""
    lines = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").splitlines()
    # A line that begins so would be a command.
    return "\n".join(rf"\&{line}" if line.startswith(".") else line for line in lines)


def option(action: argparse.Action) -> str:
    """How it is written: names, then its value."""
    if not action.option_strings:
        return escaped(str(action.metavar or action.dest))
    names = ", ".join(rf"\fB{escaped(name)}\fR" for name in action.option_strings)
    if action.nargs == 0:
        return names
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    return rf"{names} \fI{escaped(str(value))}\fR"


def page(each: argparse.ArgumentParser) -> str:
    """The page of one parser."""
    name = each.prog.replace(" ", "-")
    usage = " ".join(each.format_usage().split()).removeprefix("usage: ")
    what = (each.description or "part of kfiber").split(".")[0]
    lines = [
        f'.TH "{escaped(name.upper())}" 1 "" "kfiber {__version__}" "kfiber"',
        ".SH NAME", f"{escaped(name)} {chr(92)}- {escaped(what[:1].lower() + what[1:])}",
        ".SH SYNOPSIS", escaped(usage),
        ".SH DESCRIPTION", escaped(each.description or what + "."),
    ]  # fmt: skip
    actions = [a for a in each._actions if not isinstance(a, argparse._SubParsersAction)]
    verbs = [a for a in each._actions if isinstance(a, argparse._SubParsersAction)]
    lines.append(".SH OPTIONS")
    for action in actions:
        lines += [".TP", option(action), escaped(action.help or "what it is named after")]
    for action in verbs:
        lines.append(f".SH {'VERBS' if action.metavar == 'VERB' else 'ACTIONS'}")
        for choice in action._choices_actions:
            lines += [".TP", rf"\fB{escaped(choice.dest)}\fR", escaped(choice.help or "")]
    if each.epilog:
        lines += [".SH NOTES", ".nf", escaped(each.epilog.rstrip()), ".fi"]
    below = [f"{name}-{verb}" for action in verbs for verb in action.choices]
    above = [name.rpartition("-")[0]] if "-" in name else []
    if see := [*above, *below]:
        lines += [".SH SEE ALSO", ", ".join(rf"\fB{escaped(other)}\fR(1)" for other in see)]
    return "\n".join(lines) + "\n"


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for each in parsers(parser()):
        (folder / f"{each.prog.replace(' ', '-')}.1").write_text(page(each))


if __name__ == "__main__":
    main()
