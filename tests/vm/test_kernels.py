# SPDX-License-Identifier: MIT
"""Kernels from packages: which suite, links that stay inside, images unpacked."""

import gzip
import lzma
import struct
import subprocess

import pytest

from kfiber.vm import distribution, kernels
from kfiber.vm.errors import VmError
from kfiber.vm.kernel import unpack_image


@pytest.mark.parametrize(
    ("codename", "series", "suite"),
    [
        ("bookworm", None, "bookworm"),
        ("bookworm", "6.1", "bookworm"),
        ("bookworm", "6.12", "bookworm-backports"),
        ("trixie", None, "trixie"),
        ("trixie", "6.1", "bookworm"),
        ("trixie", "6.12", "trixie"),
    ],
)
def test_the_suite_of_a_series(monkeypatch, tmp_path, codename, series, suite):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(distribution, "codename", lambda: codename)
    (tmp_path / "kfiber/kernels/6.0-x").mkdir(parents=True)
    (tmp_path / "kfiber/kernels" / suite).symlink_to("6.0-x")
    # A kernel in the cache is taken as it is: without the network, or this would fail.
    assert kernels.get(series).release == "6.0-x"


@pytest.mark.parametrize(("codename", "series"), [("sid", None), ("", None), ("bookworm", "5.4")])
def test_an_unknown_kernel_is_told_so(monkeypatch, codename, series):
    monkeypatch.setattr(distribution, "codename", lambda: codename)
    with pytest.raises(VmError, match=r"; mend: .*--kernel 6\.1\|6\.12"):
        kernels.get(series)


def test_a_build_tree_works_where_it_is(tmp_path):
    headers = tmp_path / "usr/src/linux-headers-1-amd64"
    common = tmp_path / "usr/src/linux-headers-1-common"
    (headers / "include/config").mkdir(parents=True)
    common.mkdir()
    (common / "Makefile").write_text("all:\n\t@cat $(dir $(lastword $(MAKEFILE_LIST)))scripts\n")
    (headers / "Makefile").write_text("include /usr/src/linux-headers-1-common/Makefile\n")
    config = headers / "include/config/auto.conf"
    config.write_text("CONFIG_A=y\nCONFIG_DEBUG_INFO_BTF_MODULES=y\nCONFIG_B=y\n")
    (common / "scripts").symlink_to("/usr/lib/kbuild")
    (tmp_path / "usr/lib").mkdir()
    (tmp_path / "usr/lib/kbuild").write_text("found")

    kernels.relocate(tmp_path)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    run = subprocess.run(
        ["make", "-C", moved / "usr/src/linux-headers-1-amd64", "-s"],
        capture_output=True,
        text=True,
    )
    assert run.stdout == "found", run.stderr
    config = moved / "usr/src/linux-headers-1-amd64/include/config/auto.conf"
    assert config.read_text() == "CONFIG_A=y\nCONFIG_B=y\n"


def test_modules_below_usr_are_found_below_lib(tmp_path):
    (tmp_path / "usr/lib/modules/1-amd64").mkdir(parents=True)
    kernels.relocate(tmp_path)
    assert (tmp_path / "lib/modules/1-amd64").is_dir()


def bzimage(payload):
    header = bytearray(0x260)
    header[0x1F1] = 3
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", header, 0x248, 0x100, len(payload))
    return bytes(header).ljust(4 * 512 + 0x100, b"\0") + payload + b"behind"


ELF = b"\x7fELF" + bytes(1000)


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress])
def test_an_image_is_unpacked(compress):
    size = struct.pack("<I", len(ELF))
    assert unpack_image(bzimage(compress(ELF) + size)) == ELF


@pytest.mark.parametrize("image", [ELF, bzimage(b"zstd?"), bzimage(lzma.compress(b"no ELF"))])
def test_an_image_of_another_kind_is_left_alone(image):
    assert unpack_image(image) == image
