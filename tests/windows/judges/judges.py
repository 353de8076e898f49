# SPDX-License-Identifier: MIT
"""Public programs with a backend for Windows' fibers, over ours: `make judges`.

They are built against lib/include/windows. Their sources come from Debian's source packages into
the cache and are built in a temporary folder; nothing of theirs is here. Each one's own tests are
the judge. What cannot be fetched is skipped with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kfiber.cache import cache, locked
from kfiber.errors import KfiberError
from kfiber.vm import distribution
from kfiber.vm.apt import Apt, debian_sources, machine_sources

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
BUILD = Path(os.environ.get("KFIBER_BUILD", ROOT / "build"))
LIMIT = 900

INCLUDES = (f"-I{ROOT / 'lib/include/windows'}", f"-I{ROOT / 'lib/include'}")
FOLDERS = (BUILD / "lib" / "windows", BUILD / "lib")
LIBRARIES = (*(f"-L{folder}" for folder in FOLDERS), "-lfiber-windows", "-lfiber")


def run(*words: object, cwd: Path | None = None, **environment: str) -> str:
    """What a command writes; it must succeed."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        env={
            **os.environ,
            "KFIBER_ENGINE": os.environ.get("KFIBER_ENGINE", "local"),
            "LD_LIBRARY_PATH": ":".join(map(str, FOLDERS)),
            **environment,
        },
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout[-20000:]}"
    return done.stdout


class Debian:
    """Source and binary packages of this machine's Debian release, kept in the cache."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._apt: Apt | None = None

    def _updated(self) -> Apt:
        if self._apt is None:
            codename = distribution.codename()
            sources = debian_sources(machine_sources(), codename, codename)
            # The release alone: sources of updates are not on every mirror, and a program and
            # the library that it is linked with must be of one version.
            both = [
                replace(source, types="deb deb-src")
                for source in sources
                if source.suite == codename
            ]
            self._apt = Apt(self._folder / "apt", both)
            self._apt.update()
        return self._apt

    def _fetched(self, package: str) -> Path:
        """The folder of a source package's files."""
        folder = self._folder / package
        try:
            with locked(self._folder / f"{package}.lock"):
                if not list(folder.glob("*.dsc")):
                    scratch = self._folder / f"{package}.part"
                    shutil.rmtree(scratch, ignore_errors=True)
                    self._updated().download_source(package, scratch)
                    scratch.rename(folder)
        except KfiberError as error:
            pytest.skip(f"the source of {package} cannot be fetched: {error}")
        return folder

    def source(self, package: str, into: Path) -> Path:
        """The unpacked and patched source."""
        if shutil.which("dpkg-source") is None:
            pytest.skip("no dpkg-source; hint: apt-get install dpkg-dev")
        (description,) = self._fetched(package).glob("*.dsc")
        run("dpkg-source", "--no-check", "-x", description, into / "source")
        return into / "source"

    def original(self, package: str, into: Path, *members: str) -> Path:
        """Of a large source that Debian does not patch there: only those folders of its archive."""
        (archive,) = self._fetched(package).glob("*.orig.tar.*z")
        into.mkdir(exist_ok=True)
        run("tar", "-xf", archive, "-C", into, *members)
        return into

    def unpacked(self, *packages: str) -> Path:
        """The files of binary packages, which are not installed."""
        root = self._folder / "-".join(packages)
        try:
            with locked(root.with_suffix(".lock")):
                if not root.exists():
                    scratch = root.with_suffix(".part")
                    shutil.rmtree(scratch, ignore_errors=True)
                    for file in self._updated().download(list(packages), scratch / "packages"):
                        self._updated().unpack(file, scratch)
                    scratch.rename(root)
        except KfiberError as error:
            pytest.skip(f"{', '.join(packages)} cannot be fetched: {error}")
        return root / "usr"


@pytest.fixture(scope="session")
def debian() -> Debian:
    return Debian(cache() / "judges")


def needs(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")


def uses_our_fibers(path: Path, names: Sequence[str]) -> None:
    """The program's own code asks for these, so it was the backend for Windows that was tested."""
    wanted = run("nm", "-D", "--undefined-only", path)
    for name in names:
        assert re.search(rf"\b{name}$", wanted, re.MULTILINE), f"{name} is not used"


def test_wine(debian: Debian, tmp_path: Path) -> None:
    """Wine's own tests of fibers, dlls/kernel32/tests/fiber.c."""
    source = debian.source("wine", tmp_path)
    program = tmp_path / "fiber"
    run(
        *("gcc", "-D_GNU_SOURCE", "-w", f"-I{HERE / 'wine'}", *INCLUDES, "-o", program),
        *(source / "dlls/kernel32/tests/fiber.c", HERE / "wine" / "harness.c", *LIBRARIES),
    )
    text = run(program, "fiber")
    print(text)
    found = re.search(r"^(\d+) checks, 0 failed, 1 skipped$", text, re.MULTILINE)
    assert found
    assert int(found[1]) >= 100
    # ntdll's own functions, which older releases of Windows lack as well.
    assert "RtlFlsAlloc is not available" in text


def test_coro(debian: Debian, tmp_path: Path) -> None:
    """Perl's Coro with libcoro's CORO_FIBER, all its tests."""
    needs("perl", "make")
    perl = run("perl", "-MConfig", "-e", 'print "$Config{archlibexp} $Config{ccflags}"')
    library, _, flags = perl.partition(" ")
    if not Path(library, "CORE", "perl.h").exists():
        pytest.skip("no perl.h; hint: apt-get install libperl-dev")
    used = debian.unpacked(
        "libcanary-stability-perl", "libcommon-sense-perl", "libguard-perl", "libanyevent-perl"
    )
    found = [used / "share/perl5", *used.glob("lib/*/perl5/5.*")]
    environment = {"PERL5LIB": ":".join(map(str, found)), "PERL_MM_USE_DEFAULT": "1"}
    source = debian.source("libcoro-perl", tmp_path)
    run("perl", "Makefile.PL", cwd=source, CORO_INTERFACE="f", **environment)
    run(
        *("make", f"CCFLAGS={flags} {' '.join(INCLUDES)}", f"OTHERLDFLAGS={' '.join(LIBRARIES)}"),
        cwd=source,
        **environment,
    )
    uses_our_fibers(
        source / "blib/arch/auto/Coro/State/State.so",
        ["ConvertThreadToFiber", "CreateFiber", "SwitchToFiber", "DeleteFiber", "GetCurrentFiber"],
    )
    text = run("make", "test", cwd=source, **environment)
    print(text[text.index("t/00") :])
    assert "All tests successful." in text
    assert "Files=20, Tests=206," in text


@pytest.mark.parametrize("name", ["callcc", "fiber"])
def test_boost(debian: Debian, tmp_path: Path, name: str) -> None:
    """Boost.Context with BOOST_USE_WINFIB: its tests of continuations and of fibers."""
    source = debian.original("boost1.81", tmp_path / "source", "boost/libs/context")
    context = source / "boost/libs/context"
    headers = debian.unpacked("libboost1.81-dev") / "include"
    program = tmp_path / name
    run(
        *("g++", "-std=c++17", "-w", "-DBOOST_USE_WINFIB", "-DBOOST_CONTEXT_SOURCE"),
        *("-DBOOST_CONTEXT_STATIC_LINK", "-DBOOST_ALL_NO_LIB", f"-I{headers}", *INCLUDES),
        *(context / "test" / f"test_{name}.cpp", context / "src/fiber.cpp"),
        *(context / "src/continuation.cpp", context / "src/posix/stack_traits.cpp"),
        *("-o", program, *LIBRARIES),
    )
    uses_our_fibers(program, ["ConvertThreadToFiber", "CreateFiber", "SwitchToFiber"])
    text = run(program)
    print(text)
    assert "No errors detected." in text


def test_spice(debian: Debian, tmp_path: Path) -> None:
    """spice-gtk's coroutines with coroutine_winfibers.c, and their test."""
    glib = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "glib-2.0"], capture_output=True, text=True
    )
    if glib.returncode:
        pytest.skip("no glib; hint: apt-get install libglib2.0-dev")
    source = debian.source("spice-gtk", tmp_path)
    (tmp_path / "config.h").touch()
    program = tmp_path / "coroutine"
    run(
        *("gcc", "-DWITH_WINFIBER", f"-I{tmp_path}", f"-I{source / 'src'}", *INCLUDES),
        *(source / "tests/coroutine.c", source / "src/coroutine_winfibers.c", "-o", program),
        *(*glib.stdout.split(), *LIBRARIES),
    )
    uses_our_fibers(program, ["ConvertThreadToFiber", "CreateFiber", "SwitchToFiber"])
    text = run(program, "--tap")
    print(text)
    assert re.findall(r"^ok \d+ (\S+)", text, re.MULTILINE) == [
        "/coroutine/simple", "/coroutine/two", "/coroutine/yield",
    ]  # fmt: skip
    assert "not ok" not in text


def test_openssl(debian: Debian, tmp_path: Path) -> None:
    """OpenSSL's jobs with async_win.c, in the rest of Debian's library, and asynctest.c."""
    source = debian.source("openssl", tmp_path)
    used = debian.unpacked("libssl-dev")
    async_ = source / "crypto/async"
    (library,) = used.glob("lib/*/libcrypto.a")
    architecture = library.parent.name
    program = tmp_path / "asynctest"
    run(
        # No second backend beside it.
        *("gcc", "-w", "-DOSSL_CRYPTO_ASYNC_POSIX_H", "-include", HERE / "openssl.h"),
        *(f"-I{used / 'include'}", f"-I{used / 'include' / architecture}"),
        *(f"-I{source / 'include'}", f"-I{async_}", f"-I{source}", *INCLUDES),
        *(async_ / "async.c", async_ / "async_wait.c", async_ / "arch/async_win.c"),
        *(source / "test/asynctest.c", library, "-o", program, *LIBRARIES),
    )
    uses_our_fibers(program, ["ConvertThreadToFiberEx", "CreateFiberEx", "SwitchToFiber"])
    text = run(program)
    print(text)
    assert text.rstrip().endswith("PASS")
