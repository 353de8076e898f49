# SPDX-License-Identifier: MIT
"""The README's C program does what it says."""

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.guest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("KFIBER_BUILD", ROOT / "build")) / "lib"


def test_hello(tmp_path):
    text = (ROOT / "README.md").read_text()
    code = re.search(
        r"^    #include <.*>\n(?:    .*\n|\n)*?    \}\n(?!\n?    )", text, re.MULTILINE
    )[0]
    source = tmp_path / "hello.c"
    source.write_text(textwrap.dedent(code))
    program = tmp_path / "hello"
    compiler = ["cc", "-Wall", "-Werror", f"-I{ROOT / 'lib/include'}", source, "-o", program]
    subprocess.run([*compiler, f"-L{BUILD}", f"-Wl,-rpath,{BUILD}", "-lfiber"], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "hello, world\n")
