# SPDX-License-Identifier: MIT
"""For Sphinx: `make docs`."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "kfiber"

project = "kfiber"
version = re.search(r'__version__ = "(.*)"', (PACKAGE / "__init__.py").read_text())[1]

extensions = ["myst_parser"]
html_theme = "furo"
html_show_copyright = False
# Anchors of headings, as on the repository's web view.
myst_heading_anchors = 3


def toctrees(app, name, source):
    """A page called index lists others, under headings. The sidebar is made of these lists."""
    if name.rpartition("/")[2] != "index":
        return
    for section in re.split(r"^## ", source[0], flags=re.MULTILINE):
        pages = re.findall(r"^- \[.*\]\((.*)\.md\)$", section, re.MULTILINE)
        caption = section.partition("\n")[0].lstrip("# ")
        lines = ["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""]
        source[0] += "\n" + "\n".join(lines) if pages else ""


def setup(app):
    app.connect("source-read", toctrees)
