# SPDX-License-Identifier: MIT
"""The archive that a guest starts from, and the modules in it."""

import lzma
import subprocess

import pytest

from kfiber.vm.errors import MISSING, VmError
from kfiber.vm.image import Cpio, module_chain


def test_an_independent_cpio_reads_the_archive(tmp_path):
    archive = Cpio()
    archive.file("a/b/odd", b"12345", 0o755)
    archive.file("a/b/empty", b"")
    archive.link("a/link", "b/odd")
    archive.directory("a")
    archive.file("a/binary", bytes(range(256)) * 5)
    subprocess.run(
        ["busybox", "cpio", "-i", "-d"],
        input=archive.finish(),
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "a/b/odd").read_bytes() == b"12345"
    assert (tmp_path / "a/b/odd").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "a/b/empty").read_bytes() == b""
    assert (tmp_path / "a/link").read_bytes() == b"12345"
    assert (tmp_path / "a/binary").read_bytes() == bytes(range(256)) * 5


@pytest.fixture
def modules(tmp_path):
    """
    top ----> middle-one ----> ring
     \\----> builtin            ^
      \\----------------------- /
    """

    def module(name, depends, pack=False):
        content = b"\x7fELF\0license=GPL\0depends=" + depends + b"\0name=x\0"
        path = tmp_path / "kernel" / "sub" / (name + (".ko.xz" if pack else ".ko"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(content) if pack else content)

    module("top", b"ring,middle_one,built-in")
    module("middle-one", b"ring", pack=True)
    module("ring", b"")
    module("broken", b"nowhere")
    (tmp_path / "modules.builtin").write_text("kernel/lib/built-in.ko\n")
    return tmp_path


def test_modules_come_behind_what_they_need(modules):
    chain = module_chain(modules, ["top", "ring"])
    assert list(chain) == ["ring", "middle_one", "top"]
    assert all(content.startswith(b"\x7fELF") for content in chain.values())


def test_a_missing_module_is_named(modules):
    with pytest.raises(VmError, match=r"no module nowhere; hint: ") as caught:
        module_chain(modules, ["broken"])
    assert caught.value.status == MISSING
