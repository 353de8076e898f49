# SPDX-License-Identifier: MIT
"""For Sphinx: `make docs`."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "kfiber"
# What the reference is made of: the package's sources, and for itself, whose names are those of the
# extension, the extension's stub.
API = ROOT / "build" / "api" / "kfiber"

shutil.rmtree(API, ignore_errors=True)
API.mkdir(parents=True)
for source in PACKAGE.glob("[a-z]*.py"):
    shutil.copy(source, API)
shutil.copy(PACKAGE / "_native.pyi", API / "__init__.pyi")

project = "kfiber"
version = re.search(r'__version__ = "(.*)"', (PACKAGE / "__init__.py").read_text())[1]

extensions = ["myst_parser", "autoapi.extension"]
html_theme = "furo"
html_show_copyright = False
# Docstrings have code in single backticks.
default_role = "code"

autoapi_dirs = [str(API)]
autoapi_generate_api_docs = False
autoapi_options = ["members", "undoc-members", "special-members"]
autoapi_member_order = "bysource"
