# SPDX-License-Identifier: MIT
"""Kernels from packages: which suite, links that stay inside, images unpacked."""

import gzip
import lzma
import struct
import subprocess
from pathlib import Path

import pytest

from kfiber.vm import distribution, kernels
from kfiber.vm.apt import Apt
from kfiber.vm.errors import MISSING, VmError
from kfiber.vm.headers import needs_newer_libraries, relocate
from kfiber.vm.kernel import unpack_image


@pytest.mark.parametrize(
    ("codename", "series", "link"),
    [
        ("bookworm", None, "6.1"),
        ("bookworm", "6.12", "6.12"),
        ("trixie", None, "6.12"),
        ("trixie", "6.1", "6.1"),
        ("sid", "7.3", "7.3"),
        ("", "7.3-rt", "7.3-rt"),
    ],
)
def test_a_kernel_in_the_cache_is_taken_as_it_is(monkeypatch, tmp_path, codename, series, link):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(distribution, "codename", lambda: codename)
    (tmp_path / "kfiber/kernels/6.0-x").mkdir(parents=True)
    (tmp_path / "kfiber/kernels" / link).symlink_to("6.0-x")
    # Without the network, or this would fail.
    assert kernels.get(series).release == "6.0-x"


def test_every_series_of_a_release_can_be_fetched():
    assert set(distribution.SERIES.values()) <= set(distribution.KERNELS)
    assert kernels.NAMES == (*distribution.KERNELS, "debug")


class Mirror:
    """Takes the place of Apt: `packages` has, by suite, the control fields by package.

    A package's file has its name, and is "unpacked" by the function of `contents` for it.
    """

    packages: dict = {}
    contents: dict = {}

    def __init__(self, home, sources):
        (self.suite,) = sources

    def update(self):
        if self.suite not in self.packages:
            raise VmError(f"cannot read {self.suite}", status=MISSING)

    def show(self, package):
        try:
            return self.packages[self.suite][package]
        except KeyError:
            raise VmError(f"no package {package} in {self.suite}", status=MISSING) from None

    closure = Apt.closure

    def download(self, packages, into):
        for package in packages:
            self.show(package)
        return [Path(package) for package in packages]

    def unpack(self, package, into):
        self.contents[package.name](into)


def offered(release, version, meta="linux-image-amd64"):
    """What a suite has that offers this kernel: new packages, in the new places."""
    depends = {
        meta: f"linux-base-amd64, linux-image-{release} (= {version})",
        f"linux-image-{release}": f"kmod, linux-base (>= 4), linux-binary-{release} (= 1), "
        f"linux-modules-{release}",
        f"linux-binary-{release}": f"linux-base-{release}",
        f"linux-modules-{release}": f"kmod, linux-base-{release} (= {version})",
        f"linux-base-{release}": "",
        f"linux-headers-{release}": f"gcc-99-for-host | gcc, linux-headers-{release}-common, "
        "linux-kbuild-0",
        f"linux-headers-{release}-common": "",
        "linux-kbuild-0": "libc6 (>= 99.1), libz1 (>= 1)",
    }
    return {name: {"version": version, "depends": text} for name, text in depends.items()}


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(distribution, "codename", lambda: "bookworm")
    monkeypatch.setattr(kernels, "Apt", Mirror)
    monkeypatch.setattr(kernels, "machine_sources", list)
    monkeypatch.setattr(kernels, "debian_sources", lambda sources, codename, suite: [suite])
    monkeypatch.setattr(Mirror, "packages", {})
    monkeypatch.setattr(Mirror, "contents", {})
    return Mirror


def newest(series, tmp_path):
    found = kernels._newest(series, "bookworm", tmp_path)
    return found.offer.suite, found.release


def test_the_newest_of_all_suites_is_taken(mirror, tmp_path, capsys):
    mirror.packages.update(
        {
            "bookworm": offered("6.12.9-amd64", "6.12.9-1", "linux-image-6.12-amd64"),
            "bookworm-backports": offered("6.12.10-amd64", "6.12.10-1"),
        }
    )
    assert newest("6.12", tmp_path) == ("bookworm-backports", "6.12.10-amd64")
    assert "passing over trixie: cannot read trixie" in capsys.readouterr().err


def test_of_equal_versions_our_releases_own_is_taken(mirror, tmp_path):
    mirror.packages.update(
        {
            "trixie": offered("6.12.9+deb13-amd64", "6.12.9-1"),
            "bookworm": offered("6.12.9+deb12-amd64", "6.12.9-1~deb12u1", "linux-image-6.12-amd64"),
        }
    )
    assert newest("6.12", tmp_path) == ("bookworm", "6.12.9+deb12-amd64")


def test_a_suite_that_went_on_to_another_series_is_told_so(mirror, tmp_path):
    mirror.packages["trixie-backports"] = offered("7.30.1-amd64", "7.30.1-1")
    with pytest.raises(VmError, match=r"has no kernel 7\.3: its .* is 7\.30\.1-1; hint: "):
        newest("7.3", tmp_path)


def test_without_any_suite_the_last_error_is_told(mirror, tmp_path):
    with pytest.raises(VmError, match=r"no suite has a kernel 6\.12.*cannot read trixie"):
        newest("6.12", tmp_path)


def test_a_kernel_of_a_newer_release_is_made_to_work(mirror, tmp_path):
    """Its packages are put together, and its tools start with the C library of that release."""
    release = "7.3.1-amd64"
    kbuild = "usr/lib/linux-kbuild-0/scripts"
    libraries = "usr/lib/x86_64-linux-gnu"
    mirror.packages["trixie-backports"] = offered(release, "7.3.1-1~bpo13+1")
    mirror.packages["trixie"] = {name: {"depends": ""} for name in ("libc6", "libz1")}

    def put(path, content, mode=0o644):
        def unpack(into):
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            (into / path).write_bytes(content)
            (into / path).chmod(mode)

        return unpack

    def headers(into):
        folder = f"usr/src/linux-headers-{release}"
        put(f"{folder}/Makefile", f"include /usr/src/linux-headers-{release}-common/M\n".encode())(
            into
        )
        (into / folder / "scripts").symlink_to("../../lib/linux-kbuild-0/scripts")

    # A loader that says how it is called.
    loader = b'#!/bin/sh\necho "loader:" "${1}" "${4}" "${6}"\n'
    mirror.contents.update(
        {
            f"linux-image-{release}": lambda into: None,
            f"linux-binary-{release}": put(f"usr/lib/modules/{release}/vmlinuz", b"image"),
            f"linux-modules-{release}": put(f"usr/lib/modules/{release}/kernel/a.ko.xz", b""),
            f"linux-base-{release}": put(f"usr/lib/modules/{release}/modules.builtin", b""),
            f"linux-headers-{release}": headers,
            f"linux-headers-{release}-common": put(
                f"usr/src/linux-headers-{release}-common/M", b""
            ),
            "linux-kbuild-0": put(f"{kbuild}/mod/modpost", b"\x7fELF /lib64/ld-linux-x", 0o755),
            "libc6": put(f"{libraries}/ld-linux-x86-64.so.2", loader, 0o755),
            "libz1": put(f"{libraries}/libz.so.1", b""),
        }
    )
    kernel = kernels.get("7.3")
    assert kernel.release == release
    assert kernel.image.read_bytes() == b"image"
    assert (kernel.modules / "kernel/a.ko.xz").exists()
    assert (kernel.modules / "modules.builtin").exists()
    tool = kernel.build / "scripts/mod/modpost"
    done = subprocess.run([tool, "word"], capture_output=True, text=True, check=True)
    assert done.stdout == f"loader: --library-path {tool} word\n"
    assert [path.name for path in tmp_path.glob("kfiber/kernels/[!.]*") if path.is_symlink()] == [
        "7.3"
    ]


@pytest.mark.parametrize(("codename", "series"), [("sid", None), ("", None), ("bookworm", "5.4")])
def test_an_unknown_kernel_is_told_so(monkeypatch, codename, series):
    monkeypatch.setattr(distribution, "codename", lambda: codename)
    with pytest.raises(VmError, match=r"; hint: .*--kernel 6\.1\|6\.12"):
        kernels.get(series)


def test_a_build_tree_works_where_it_is(tmp_path):
    headers = tmp_path / "usr/src/linux-headers-1-amd64"
    common = tmp_path / "usr/src/linux-headers-1-common"
    (headers / "include/config").mkdir(parents=True)
    common.mkdir()
    (common / "Makefile").write_text(
        "all:\n\t@echo $(KBUILD_OUTPUT)\n\t@cat $(dir $(lastword $(MAKEFILE_LIST)))scripts\n"
    )
    (headers / "Makefile").write_text(
        "KBUILD_OUTPUT=/usr/src/linux-headers-1-amd64\n"
        "include /usr/src/linux-headers-1-common/Makefile\n"
    )
    config = headers / "include/config/auto.conf"
    config.write_text("CONFIG_A=y\nCONFIG_DEBUG_INFO_BTF_MODULES=y\nCONFIG_B=y\n")
    (common / "scripts").symlink_to("/usr/lib/kbuild")
    (tmp_path / "usr/lib").mkdir()
    (tmp_path / "usr/lib/kbuild").write_text("found")

    relocate(tmp_path)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    run = subprocess.run(
        ["make", "-C", moved / "usr/src/linux-headers-1-amd64", "-s"],
        capture_output=True,
        text=True,
    )
    assert run.stdout == f"{moved}/usr/src/linux-headers-1-amd64/\nfound", run.stderr
    config = moved / "usr/src/linux-headers-1-amd64/include/config/auto.conf"
    assert config.read_text() == "CONFIG_A=y\nCONFIG_B=y\n"


@pytest.mark.parametrize(
    ("compiler", "used"), [("gcc-999", "x-gcc-999 y"), ("gcc-998", "gcc empty")]
)
def test_another_compiler_stands_in_for_one_that_is_missing(tmp_path, compiler, used):
    headers = tmp_path / "usr/src/linux-headers-1-amd64"
    headers.mkdir(parents=True)
    (headers / "Makefile").write_text(
        "CROSS_COMPILE = x-\n-include $(CURDIR)/.kernelvariables\n"
        "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT = y\n"
        "all:\n\t@echo $(CC) $(or $(CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT),empty)\n"
    )
    variables = headers / ".kernelvariables"
    variables.write_text("CC = $(if $(X),ccache) $(CROSS_COMPILE)gcc-999\n")
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / f"x-{compiler}"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    relocate(tmp_path)
    run = subprocess.run(
        ["make", "-s", "-C", headers],
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == used


@pytest.mark.parametrize(
    ("depends", "newer"),
    [
        ("libc6 (>= 2.2), libelf1 (>= 0.144)", False),
        ("pahole, libc6 (>= 99.1), zlib1g", True),
        ("libc6", False),
    ],
)
def test_whether_tools_need_newer_libraries(depends, newer):
    assert needs_newer_libraries(depends) == newer


def test_modules_below_usr_are_found_below_lib(tmp_path):
    (tmp_path / "usr/lib/modules/1-amd64").mkdir(parents=True)
    relocate(tmp_path)
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
