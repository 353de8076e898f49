# SPDX-License-Identifier: MIT
"""The documents agree with the tree, and read well where nothing interprets their directives.

`make check` runs this.
"""

import re
import subprocess
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT, capture_output=True, text=True, check=True,
).stdout.split()  # fmt: skip
STUB = "python/kfiber/_native.pyi"
PAGES = sorted(name for name in TRACKED if re.fullmatch(r"docs/.*\.md|[A-Z_]+\.md", name))


def read(name):
    return (ROOT / name).read_text()


def layout():
    """The paths in the layout table of docs/design.md."""
    table = read("docs/design.md").split("## Layout")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return [path for cell in cells for path in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("path", layout())
def test_each_path_of_the_layout_exists(path):
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


def test_each_source_is_in_the_layout():
    """By name, or by a folder below the first ones. A header goes with its source."""
    named = set(layout())
    folders = tuple(path for path in named if path.endswith("/"))
    # Their files have names of their own in the table, except in subfolders.
    split = ("kmod/", "lib/", "python/kfiber/")
    missing = [
        name
        for name in TRACKED
        if re.search(r"\.(c|h|S|py|pyi)$", name) and (ROOT / name).is_file()
        if name not in named and re.sub(r"\.h$", ".c", name) not in named
        if not name.startswith(tuple(set(folders) - set(split)))
    ]
    assert not missing, "hint: name these in the layout table of docs/design.md"


def links(page):
    """Where the links and pictures of a page lead, without those to other sites."""
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"https?:|mailto:", target)]


def anchors(page):
    """The anchors that headings get on the repository's web view."""
    heads = re.findall(r"^#+ (.*)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert "[](" not in read(page)  # the web view shows nothing there
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(ROOT)), target


def blocks(page):
    """The fenced blocks of a page: their language, or directive, and their text."""
    found = re.findall(r"^( *)```(\S+)\n(.*?)^\1```$", read(page), re.MULTILINE | re.DOTALL)
    return [(language, textwrap.dedent(text)) for _, language, text in found]


# What a page says itself, without a directive.
LANGUAGES = {"python", "c", "console", "text", "json"}


@pytest.mark.parametrize("page", PAGES)
def test_blocks_have_their_text(page):
    """The repository's web view shows a directive as it is, and nothing of what it includes."""
    assert {language for language, _ in blocks(page)} <= LANGUAGES


EXAMPLES = [path.read_text() for path in (ROOT / "examples").iterdir()]


@pytest.mark.parametrize("page", PAGES)
def test_code_is_of_an_example(page):
    """So it is run by test_examples.py."""
    for language, text in blocks(page):
        if language in ("python", "c"):
            assert any(text in example for example in EXAMPLES), text


def test_decisions_are_numbered_and_have_the_three_parts():
    records = sorted(ROOT.glob("docs/decisions/0*.md"))
    index = read("docs/decisions/index.md")
    for number, path in enumerate(records, 1):
        text = path.read_text()
        title = re.match(r"# (\d{4}\. .*)\n", text)[1]
        assert path.name.startswith(f"{number:04d}-") and title.startswith(f"{number:04d}. ")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
            "Context", "Decision", "Consequence",
        ]  # fmt: skip
        assert f"- [{title}]({path.name})" in index


@pytest.mark.parametrize("page", ["python", "c", "command"])
def test_generated_pages_are_up_to_date(page, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    pages = {path.stem: make for path, make in import_module("reference").PAGES.items()}
    assert read(f"docs/reference/{page}.md") == pages[page](), "hint: make reference"


def first_cells(page):
    """What the first column of a page's tables names."""
    rows = [line.split(" | ")[0] for line in read(page).splitlines() if line.startswith("| ")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def found(pattern, *sources):
    """What a pattern's group finds in the sources of these folders and files."""
    names = [name for name in TRACKED if name.startswith(sources) and (ROOT / name).is_file()]
    texts = [read(name) for name in names if re.search(r"\.(c|h|S|py|pth)$", name)]
    return {name for text in texts for name in re.findall(pattern, text)}


def test_environment_variables():
    used = found(r"\b(KFIBER_[A-Z_]*[A-Z])\b(?!_H)", "lib/", "python/kfiber/", "python/native/")
    guards = {name for name in used if name.endswith("_H")}
    page = {name for name in first_cells("docs/reference/environment.md") if "KFIBER" in name}
    assert page == used - guards, "hint: docs/reference/environment.md"


def test_module_parameters():
    names = found(r"module_param(?:_cb|_named)?\((\w+),", "kmod/")
    assert first_cells("docs/reference/parameters.md") == names, "hint: name it there"
    defaults = re.findall(r"MODULE_PARM_DESC\((\w+), .*\(default (\w+)\)", read("kmod/main.c"))
    assert len(defaults) == 3
    for name, default in defaults:
        row = re.search(rf"^\| `{name}` \|.*$", read("docs/reference/parameters.md"), re.MULTILINE)
        assert row[0].split(" | ")[2] == default


def test_the_man_page_of_the_device_names_all_requests_and_parameters():
    page = read("docs/man/fiber.4")
    requests = set(
        re.findall(r"^#define (FIBER_IOC_\w+)\s+_IO", read("uapi/fiber.h"), re.MULTILINE)
    )
    assert set(re.findall(r"\bFIBER_IOC_\w+", page)) == requests
    parameters = page.split(".SH PARAMETERS")[1].split("\n.SH ")[0]
    assert first_cells("docs/reference/parameters.md") <= set(re.findall(r"\w+", parameters))


def test_keys_of_proc():
    printed = found(r'seq_(?:printf|puts)\(m, "([A-Z][\w ]+): ', "kmod/show.c")
    page = read("docs/reference/proc.md")
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")}
    assert rows - {"key"} == printed, "hint: docs/reference/proc.md"


def test_fields_of_the_status_table():
    header = read("uapi/fiber.h")
    fields = set()
    for name in ("fiber_table", "fiber_slot", "fiber_thread_area"):
        body = re.search(rf"^struct {name} \{{\n(.*?)^\}};", header, re.MULTILINE | re.DOTALL)[1]
        fields |= set(re.findall(r"\b(\w+)(?:\[\w+\])?;", body))
    page = read("docs/reference/table.md")
    rows = [line.split("|")[2] for line in page.splitlines() if line.startswith("| ")]
    named = {field for row in rows for field in re.findall(r"`(\w+)`", row)}
    assert named == fields - {"pad", "reserved"}, "hint: docs/reference/table.md"


def test_metrics():
    made = found(r'"(kfiber_\w+)"', "python/kfiber/metrics.py")
    page = first_cells("docs/reference/metrics.md")
    assert {n.removesuffix("_total") for n in page} == made, "hint: docs/reference/metrics.md"


# What docs/glossary.md has other terms for.
REPLACED = re.compile(
    r"\b(own fiber|own one|thread's own|control words|observations?|to be seen|doomed|heirs?"
    r"|bur(?:y|ied)|spares|unuse|mend(?:ed|s)?|Whoever|(?:go|goes|going|gone|went) on\b(?! the)"
    r"|fibers? (?:that )?(?:is|are|was|were) left|fibers? (?:that )?moves?|goes elsewhere)\b",
    re.IGNORECASE,
)
MAN = [name for name in TRACKED if name.startswith("docs/man/")]
READ = [*PAGES, *MAN, *(n for n in TRACKED if n.startswith(("lib/include/", "uapi/"))), STUB]


@pytest.mark.parametrize("name", READ)
def test_replaced_terms_do_not_come_back(name):
    text = " ".join(re.sub(r"^ \* ", "", read(name), flags=re.MULTILINE).split())
    words = REPLACED.findall(text)
    assert not words, "hint: docs/glossary.md has the terms"
