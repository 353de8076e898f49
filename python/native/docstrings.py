# SPDX-License-Identifier: MIT
"""Makes the extension's docstrings and signatures from its stub; setup.py runs it.

    python docstrings.py STUB      prints the C header

A header of macros: DOC_module, DOC_current, DOC_Fiber, DOC_Fiber_switch and so on. One that begins
with a signature has the form from which the interpreter makes `__text_signature__`.
"""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path


def parameters(function: ast.FunctionDef, first: str | None) -> str:
    """The parameters without their types; `first` replaces `self` or `cls`, None leaves it out."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    last_only = len(arguments.posonlyargs) or 1
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    words = []
    for number, (argument, default) in enumerate(zip(positional, defaults, strict=True), 1):
        name = argument.arg
        if number == 1 and name in ("self", "cls"):
            name = first or ""
        if name:
            words.append(name if default is None else f"{name}={ast.unparse(default)}")
        if number == last_only and words:
            words.append("/")
    if arguments.vararg:
        words.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        words.append("*")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        words.append(argument.arg + (f"={ast.unparse(default)}" if default else ""))
    if arguments.kwarg:
        words.append(f"**{arguments.kwarg.arg}")
    return f"({', '.join(words)})"


def documented(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    return inspect.cleandoc(ast.get_docstring(node) or "")


def collect(stub: ast.Module) -> dict[str, str]:
    """Macro's name without DOC_ -> text."""
    found = {"module": documented(stub)}
    for node in stub.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = f"{node.name}{parameters(node, None)}\n--\n\n{documented(node)}"
        if not isinstance(node, ast.ClassDef):
            continue
        text = documented(node)
        for each in node.body:
            if not isinstance(each, ast.FunctionDef):
                continue
            marks = [ast.unparse(mark) for mark in each.decorator_list]
            if any(mark.endswith(".setter") for mark in marks):
                continue
            name = f"{node.name}_{each.name}"
            if "property" in marks:
                found[name] = documented(each)
            elif each.name == "__new__":
                text = f"{node.name}{parameters(each, None)}\n--\n\n{text}\n\n{documented(each)}"
            else:
                signature = f"{each.name}{parameters(each, '$self')}"
                found[name] = f"{signature}\n--\n\n{documented(each)}"
        found[node.name] = text
    return found


def header(stub: Path) -> str:
    """The C header for a stub."""
    lines = [f"/* Made by {Path(__file__).name} from {stub.name}. */"]
    for name, text in collect(ast.parse(stub.read_text(encoding="utf-8"))).items():
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", '\\n"\n\t"')
        lines.append(f'#define DOC_{name} \\\n\t"{escaped}"'.replace('"\n\t"', '" \\\n\t"'))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(header(Path(sys.argv[1])), end="")
