# SPDX-License-Identifier: MIT
"""Writes the pages docs/reference/python.md, c.md and command.md: `make reference`.

Their only sources are docstrings, fiber.h and the command's parsers. tests/test_docs.py says when
a page is out of date.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

from header import entries

from kfiber import __all__ as public
from kfiber import cli

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python/kfiber"
FOLDER = ROOT / "docs/reference"

# A source, the name under which programs reach what is in it, and which of it; None: what
# kfiber exports.
PYTHON: tuple[tuple[str, str, list[str] | None], ...] = (
    ("_native.pyi", "kfiber", None),
    ("holds.py", "kfiber", ["watch"]),
    ("holds.py", "kfiber.holds", ["Watch", "Event"]),
    ("aio.py", "kfiber.aio", ["to_fiber", "await_", "run_sync"]),
    ("proc.py", "kfiber.proc", ["fibers", "all_fibers"]),
    ("info.py", "kfiber.info", ["FiberInfo"]),
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def docstring(node: ast.Module | ast.ClassDef | Function) -> str:
    return inspect.cleandoc(ast.get_docstring(node, clean=False) or "")


def signature(node: Function, name: str, method: bool) -> str:
    arguments = node.args
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    if method and not static:
        # self or cls
        (arguments.posonlyargs or arguments.args).pop(0)
    text = f"{name}({ast.unparse(arguments).removeprefix('/, ')})"
    return (
        text
        if node.returns is None or name[0].isupper()
        else f"{text} -> {ast.unparse(node.returns)}"
    )


def members(node: ast.ClassDef, title: str) -> Iterator[str]:
    """The signatures of a class's public methods and attributes, each with its docstring."""
    for item in node.body:
        if isinstance(item, Function):
            kinds = {ast.unparse(decorator) for decorator in item.decorator_list}
            if any(kind.endswith((".setter", ".deleter")) for kind in kinds):
                continue
            if item.name in ("__new__", "__init__"):
                if item.name == "__init__" and any("__new__" in ast.unparse(m) for m in node.body):
                    continue
                yield f"`{signature(item, title, True)}`\n\n{docstring(item)}"
            elif not item.name.startswith("_") and "property" in kinds:
                returns = ast.unparse(item.returns) if item.returns else "Any"
                yield f"`{item.name}: {returns}`\n\n{docstring(item)}"
            elif not item.name.startswith("_"):
                yield f"`{signature(item, item.name, True)}`\n\n{docstring(item)}"
        elif isinstance(item, ast.AnnAssign) and not ast.unparse(item.target).startswith("_"):
            yield f"`{ast.unparse(item.target)}: {ast.unparse(item.annotation)}`"


def python() -> str:
    sections = [
        "# Python",
        "All functions may be called from all threads. Times are in nanoseconds, sizes in bytes.",
        docstring(ast.parse((PACKAGE / "_native.pyi").read_text())),
    ]
    for source, module, names in PYTHON:
        tree = ast.parse((PACKAGE / source).read_text())
        for node in tree.body:
            if not isinstance(node, ast.ClassDef | Function):
                continue
            if node.name not in (public if names is None else names):
                continue
            title = f"{module}.{node.name}"
            sections.append(f"## `{title}`")
            if isinstance(node, ast.ClassDef):
                bases = [base for base in map(ast.unparse, node.bases) if "[" not in base]
                if bases:
                    sections.append(f"Base: `{', '.join(bases)}`.")
                sections.append(docstring(node))
                sections += members(node, title)
            else:
                sections.append(f"`{signature(node, title, False)}`")
                sections.append(docstring(node))
    return "\n\n".join(section.strip() for section in sections if section.strip()) + "\n"


def c() -> str:
    sections = [
        "# C",
        "This page is the text of `fiber.h`. Link with `pkg-config --libs libfiber`.",
    ]
    for entry in entries():
        if entry.names:
            title = ", ".join(f"`{name}`" for name in entry.names)
            sections += [f"## {title}", entry.text, f"```text\n{entry.code}\n```"]
        else:
            sections.append(entry.text)
    return "\n\n".join(sections) + "\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The rows of a table of the parser's options."""
    for action in parser._actions:
        # Their texts are argparse's, which has others in each release.
        if isinstance(action, argparse._HelpAction | argparse._VersionAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            continue
        metavar = action.metavar or (
            action.choices and "{" + ",".join(map(str, action.choices)) + "}"
        )
        value = "" if action.nargs == 0 else str(metavar or action.dest.upper())
        spelled = ", ".join(f"`{f'{name} {value}'.strip()}`" for name in action.option_strings)
        text = (action.help or "") % {**vars(action), "prog": parser.prog}
        yield f"| {cell(spelled or f'`{value}`')} | {cell(text)} |"


def verb(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    yield f"{'#' * level} {parser.prog}"
    yield parser.description or ""
    if rows := list(options(parser)):
        yield "\n".join(["| argument | meaning |", "|---|---|", *rows])
    if parser.epilog:
        yield f"```text\n{textwrap.dedent(parser.epilog).strip()}\n```"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from verb(child, level + 1)


INTRODUCTION = """\
`kfiber VERB --help` prints the same. An error is one line on standard error: `kfiber: what failed:
why; hint: what helps`. The exit status is 0, or 1 after an error, or 2 if the command line is
wrong, unless a verb says otherwise below."""


def command() -> str:
    sections = [
        "# The command kfiber",
        INTRODUCTION,
        *verb(cli.parser(), 2),
    ]
    return "\n\n".join(section.strip() for section in sections if section.strip()) + "\n"


PAGES = {FOLDER / "python.md": python, FOLDER / "c.md": c, FOLDER / "command.md": command}


if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page())
