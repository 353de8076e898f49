# SPDX-License-Identifier: MIT
"""Man pages: of the command and its verbs, from its parsers, and of libfiber, from fiber.h.

python tools/man.py FOLDER              writes man1/kfiber.1, man1/kfiber-ps.1, … and man3/ there,
                                        and the pages of docs/man
python tools/man.py --library FOLDER    writes libfiber.3, fiber_switch.3, … there
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from header import HEADER, Entry, entries

WRITTEN = Path(__file__).resolve().parents[1] / "docs/man"


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
    # Not where only the library is built.
    from kfiber import __version__

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


def prose(text: str) -> str:
    """Words of fiber.h; functions are bold and parameters are in italics."""
    text = escaped(" ".join(text.split()))
    text = re.sub(r"`([^`]+)`", r"\\fI\1\\fR", text)
    return re.sub(r"\b(fiber_\w+)\(", r"\\fB\1\\fR(", text)


def description(text: str) -> Iterator[str]:
    """Paragraphs, and the errors, whose lines begin with a dash."""
    for number, block in enumerate(text.split("\n\n")):
        if not block.startswith("- "):
            yield from ([".PP"] if number else []) + [prose(block)]
            continue
        yield ".SH ERRORS"
        for item in re.split(r"^- ", block, flags=re.M)[1:]:
            name, colon, meaning = item.partition(": ")
            if colon:
                yield from (".TP", rf"\fB{name}\fR", prose(meaning))
            else:
                yield from (".PP", prose(item))


def declaration(code: str) -> list[str]:
    return [".nf", escaped(code.expandtabs()), ".fi"]


LIBRARY = "libfiber"


def library_page(name: str, title: str, body: list[str], see: list[str]) -> str:
    version = re.findall(r"#define FIBER_VERSION_[MP]\w+ (\d+)", HEADER.read_text())
    seen = ", ".join(rf"\fB{other}\fR(3)" for other in see if other != name)
    lines = [
        f'.TH "{name.upper()}" 3 "" "libfiber {".".join(version)}" "libfiber"',
        ".SH NAME", title,
        ".SH LIBRARY", r"Fibers (\fIlibfiber\fR, \fI\-lfiber\fR)",
        *body,
        ".SH SEE ALSO", seen,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def has_page(entry: Entry) -> bool:
    return bool(entry.functions or entry.structures)


def group_page(entry: Entry) -> tuple[list[str], str]:
    """The names that lead to the page, and the page."""
    names = entry.functions or entry.structures
    first = re.split(r"[.:;](?:\s|$)", entry.text)[0]
    title = rf"{', '.join(names)} \- {prose(first[:1].lower() + first[1:])}"
    mentioned = re.findall(r"\b(fiber_\w+)\(", entry.text)
    body = [".SH SYNOPSIS", r"\fB#include <fiber.h>\fR", ".PP", *declaration(entry.code)]
    body += [".SH DESCRIPTION", *description(entry.text)]
    if ".SH ERRORS" in body and entry.functions:
        place = body.index(".SH ERRORS")
        body[place:place] = [".SH RETURN VALUE", "0, or the number of an error."]
    return names, library_page(names[0], title, body, [LIBRARY, *dict.fromkeys(mentioned)])


def library_pages() -> dict[str, str]:
    """The text of each file. A group's further names lead to its page."""
    pages = {}
    every = list(entries())
    for entry in filter(has_page, every):
        (name, *others), text = group_page(entry)
        pages[f"{name}.3"] = text
        pages |= {f"{other}.3": f".so man3/{name}.3\n" for other in others}
    body = [".SH SYNOPSIS", r"\fB#include <fiber.h>\fR"]
    for entry in every:
        if not entry.names:
            body += [".SH DESCRIPTION", *description(entry.text), ".SH CONSTANTS AND TYPES"]
        elif not has_page(entry):
            body += [".PP", prose(entry.text), ".PP", *declaration(entry.code)]
    title = rf"{LIBRARY} \- fibers that the operating system knows"
    see = [name.removesuffix(".3") for name in pages]
    pages[f"{LIBRARY}.3"] = library_page(LIBRARY, title, body, see)
    return pages


def command_pages() -> dict[str, str]:
    from kfiber.cli import parser

    return {f"{p.prog.replace(' ', '-')}.1": page(p) for p in parsers(parser())}


def write(folder: Path, pages: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (folder / name).write_text(text)


def main() -> None:
    if sys.argv[1] == "--library":
        write(Path(sys.argv[2]), library_pages())
        return
    from kfiber import __version__

    folder = Path(sys.argv[1])
    write(folder / "man1", command_pages())
    write(folder / "man3", library_pages())
    for path in WRITTEN.iterdir():
        page = path.read_text().replace("@VERSION@", __version__)
        write(folder / f"man{path.suffix[1:]}", {path.name: page})


if __name__ == "__main__":
    main()
