# SPDX-License-Identifier: MIT
"""What is written in more than one place agrees."""

import ast
import re
from pathlib import Path

import pytest

import kfiber
from kfiber import aio, module
from samples import FIBER_FILE

ROOT = Path(__file__).resolve().parents[1]


def text(name):
    return (ROOT / name).read_text()


def test_the_version_request_is_the_headers():
    header = text("uapi/fiber.h")
    magic = int(re.search(r"#define FIBER_IOC_MAGIC\s+(\w+)", header)[1], 16)
    number = int(re.search(r"#define FIBER_IOC_VERSION\s+_IO\(\w+, (\w+)\)", header)[1], 16)
    assert magic << 8 | number == module._IOC_VERSION


def test_parameters_that_cannot_be_set_say_so():
    """The package knows them by this word, because a module's file does not have their modes."""
    main = text("kmod/main.c")
    counters = re.findall(r"module_param_cb\((\w+), &fiber_count_ops, .*, 0444\)", main)
    described = re.findall(r'MODULE_PARM_DESC\((\w+), ".*\(read-only\)"\)', main)
    assert counters == described == ["processes", "threads", "fibers"]


def test_the_module_prints_the_keys_that_the_package_reads():
    body = text("kmod/show.c").split("void fiber_show(")[1].split("\n}\n")[0]
    printed = re.findall(r'seq_(?:printf|puts)\(m, "([A-Z][\w ]+): ', body)
    assert printed == [line.partition(":")[0] for line in FIBER_FILE.splitlines()]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("kmod/main.c", r'MODULE_VERSION\("(.*)"\)'),
        ("kmod/dkms.conf", r'PACKAGE_VERSION="(.*)"'),
        ("meson.build", r"version: '([\d.]+)',\n  license"),
        ("CHANGELOG.md", r"^## ([\d.]+)"),
        ("CITATION.cff", r"^version: (.*)"),
        ("packaging/debian/changelog", r"^kfiber \(([\d.]+)-\d+\)"),
    ],
)
def test_there_is_one_version(name, pattern):
    assert re.search(pattern, text(name), re.MULTILINE)[1] == kfiber.__version__


def test_the_reference_has_all_names():
    names = {f"kfiber.{name}" for name in kfiber.__all__ if name != "__version__"}
    names |= {f"kfiber.aio.{name}" for name in aio.__all__}
    listed = re.findall(r"^## `(\S+)`$", text("docs/reference/python.md"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert names <= set(listed)


def test_the_reference_has_all_functions_in_c():
    header = re.sub(r"/\*.*?\*/", "", text("lib/include/fiber.h"), flags=re.DOTALL)
    titles = re.findall(r"^## (.*)$", text("docs/reference/c.md"), re.MULTILINE)
    listed = {name for title in titles for name in re.findall(r"`(\w+)`", title)}
    assert set(re.findall(r"\b(fiber_\w+)\(", header)) <= listed


def test_what_is_exported_is_what_is_meant():
    stub = ast.parse(text("python/kfiber/_native.pyi"))
    names = {node.name for node in stub.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    # They serve `kfiber doctor`, kfiber.aio, kfiber.table and kfiber.otel.
    internal = {"swap", "share_context", "cycles", "otel_enable", "otel_set_span"}
    assert kfiber.__all__ == sorted({"__version__", "watch", *names} - internal)


def test_every_file_says_its_licence():
    suffixes = {".py", ".c", ".h", ".S", ".cpp", ".sh"}
    files = [
        path
        for folder in ("kmod", "uapi", "lib", "bench", "python", "tests", "tools")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes and not path.name.endswith(".mod.c")
    ]
    assert len(files) > 30
    lacking = [
        str(path.relative_to(ROOT))
        for path in files
        if "SPDX-License-Identifier: " not in path.read_text()[:200]
    ]
    assert lacking == []
