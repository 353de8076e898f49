# SPDX-License-Identifier: MIT
"""The tree that DKMS gets builds by itself, the way dkms.conf says."""

import re
import subprocess
from pathlib import Path

from kfiber.vm import kernels

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_names_the_tree_that_is_made(tmp_path):
    make = ["make", "-s", "-C", ROOT / "kmod", "dkms-tree", f"DESTDIR={tmp_path}"]
    subprocess.run(make, check=True, timeout=60)
    (tree,) = (tmp_path / "usr/src").iterdir()
    page = (ROOT / "docs/howto/dkms.md").read_text()
    assert f"/usr/src/{tree.name}\n" in page
    assert set(re.findall(r"\bfiber[-/](\d[\d.]*\d)", page)) == {tree.name.partition("-")[2]}


def test_the_tree_builds(tmp_path):
    make = ["make", "-s", "-C", ROOT / "kmod", "dkms-tree", f"DESTDIR={tmp_path}"]
    subprocess.run(make, check=True, timeout=60)
    (tree,) = (tmp_path / "usr/src").iterdir()
    conf = dict(re.findall(r'^(\S+)="(.*)"$', (tree / "dkms.conf").read_text(), re.MULTILINE))
    assert tree.name == f"{conf['PACKAGE_NAME']}-{conf['PACKAGE_VERSION']}"
    # DKMS builds in a copy of its own and sets these variables.
    build = tmp_path / "dkms" / conf["PACKAGE_NAME"] / conf["PACKAGE_VERSION"] / "build"
    build.parent.mkdir(parents=True)
    tree.rename(build)
    values = {
        "kernel_source_dir": str(kernels.get().build),
        "dkms_tree": str(tmp_path / "dkms"),
        **conf,
    }
    line = re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], conf["MAKE[0]"])
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (build / f"{conf['BUILT_MODULE_NAME[0]']}.ko").exists()
