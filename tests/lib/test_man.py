# SPDX-License-Identifier: MIT
"""The man pages of libfiber, which are made of fiber.h."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import header
import man
import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("KFIBER_BUILD", ROOT / "build"))
SYMBOLS = re.findall(r"\bfiber_\w+(?=;)", (ROOT / "lib/libfiber.map").read_text())

pytestmark = pytest.mark.skipif("KFIBER_GUEST" in os.environ, reason="tested outside the guest")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The pages as `meson install` places them; gives the folder of sections."""
    folder = tmp_path_factory.mktemp("root")
    meson = Path(sys.executable).parent / "meson"
    command = [meson, "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (page,) = folder.rglob("libfiber.3")
    return page.parents[1]


def test_each_function_has_a_page(installed):
    assert len(SYMBOLS) > 30
    for name in SYMBOLS:
        text = (installed / f"man3/{name}.3").read_text()
        if text.startswith(".so "):
            text = (installed / text.split()[1]).read_text()
        assert re.search(rf"^(.*, )?{name}\b.* \\- \w", text, re.MULTILINE)
        assert re.search(rf"^.*\b{name}\(", text, re.MULTILINE)


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff")
def test_the_pages_are_well_formed(installed):
    for page in sorted(installed.glob("man3/*")):
        done = subprocess.run(
            ["groff", "-man", "-ww", "-s", "-Kutf8", "-Tascii", "-P-cbou", page],
            cwd=installed, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), page.name
        assert "NAME" in done.stdout and "SYNOPSIS" in done.stdout


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff")
def test_the_pages_have_the_text_of_the_header(installed):
    """Each word of it, and each declaration: nothing is lost between them."""
    shown = ""
    for page in sorted(installed.glob("man3/*")):
        if not page.read_text().startswith(".so "):
            command = ["groff", "-man", "-rHY=0", "-Kutf8", "-Tascii", "-P-cbou", page]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            shown += " ".join(done.stdout.split()).replace("`", "'") + "\n"
    for entry in header.entries():
        for line in re.sub(r"^- (E.*?: )?|`", "", entry.text, flags=re.MULTILINE).splitlines():
            assert " ".join(line.split()).replace("`", "'") in shown
        for line in entry.code.splitlines():
            assert " ".join(line.split()).replace("`", "'") in shown


def test_errors_are_a_list():
    text = man.library_pages()["fiber_switch.3"]
    errors = text.partition(".SH ERRORS")[2]
    assert re.findall(r"^\.TP\n\\fB(.*)\\fR$", errors, re.MULTILINE)[:2] == ["EPERM", "ESRCH"]
