# SPDX-License-Identifier: MIT
"""kfiber.module: building and its cache, with a compiler that is a script here."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from kfiber import module
from kfiber.errors import KfiberError

ROOT = Path(__file__).resolve().parents[1]

MAKE = """\
#!/bin/sh
# make -C TREE -jN M=DIR modules
echo called >> "$LOG"
for word; do case $word in M=*) dir=${word#M=} ;; esac; done
[ -f "$dir/Kbuild" ] && [ -f "$dir/../uapi/fiber.h" ] || exit 3
if [ -n "$FAIL" ]; then echo "fiber.c:1: error: no"; exit 2; fi
echo module > "$dir/fiber.ko"
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The log of a make that stands in for Kbuild; the cache is empty."""
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text(MAKE)
    make.chmod(0o755)
    monkeypatch.setenv("PATH", f"{make.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.delenv("FAIL", raising=False)
    return tmp_path / "log"


def test_a_build_is_kept_and_used_again(calls, tmp_path):
    first = module.build(tmp_path, "6.1")
    assert first.read_text() == "module\n"
    assert module.build(tmp_path, "6.1") == first
    assert calls.read_text() == "called\n"


def test_another_kernel_is_another_build(calls, tmp_path):
    (tmp_path / "Module.symvers").write_text("a")
    first = module.build(tmp_path, "6.1")
    (tmp_path / "Module.symvers").write_text("b")
    assert module.build(tmp_path, "6.1") != first


def test_a_failed_build_shows_the_compilers_words_and_leaves_nothing(
    calls, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(KfiberError, match=r"does not build against this kernel.*mend: "):
        module.build(tmp_path, "6.1")
    assert "fiber.c:1: error: no" in capfd.readouterr().err
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".lock"]
    monkeypatch.delenv("FAIL")
    assert module.build(tmp_path, "6.1").exists()


def test_a_cache_that_cannot_be_written_is_named(calls, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(KfiberError, match=r"cannot write .*/file/.*mend: set XDG_CACHE_HOME"):
        module.build(tmp_path, "6.1")


@pytest.mark.parametrize("home", ["", "relative"])
def test_only_an_absolute_cache_home_counts(tmp_path, monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert module.cache() == tmp_path / ".cache" / "kfiber"


def test_without_headers_the_error_names_their_package(monkeypatch):
    monkeypatch.setattr("platform.release", lambda: "0.0.0-none")
    with pytest.raises(KfiberError, match=r"mend: apt-get install linux-headers-0.0.0-none"):
        module.build()


def test_loading_without_the_right_prints_the_line_for_sudo(tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(KfiberError, match=rf"mend: sudo /\S+/insmod {tmp_path}/fiber.ko a=1$"):
        module.load(tmp_path / "fiber.ko", {"a": "1"})


@pytest.mark.guest
def test_somebody_else_builds_but_does_not_load(calls, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    os.chown(cache, 12345, 12345)
    calls.touch()
    calls.chmod(0o666)
    # Both may lie below somebody's home; the guest's files are its own.
    for folder in {*tmp_path.parents, tmp_path, *module.running_build_dir().resolve().parents}:
        folder.chmod(folder.stat().st_mode | 0o555)
    command = ["setpriv", "--reuid", "12345", "--clear-groups", "env", f"PYTHONPATH={ROOT}/python"]
    command += [os.path.realpath("/usr/bin/python3"), "-m", "kfiber", "module", "load", "a=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    product = rf"{re.escape(str(cache))}/kfiber/modules/\S+/fiber\.ko"
    assert re.fullmatch(
        rf"kfiber: loading the module needs root; mend: sudo /\S+/insmod {product} a=1\n",
        done.stderr,
    )
    assert calls.read_text() == "called\n"


def test_status_with_a_module(tmp_path, monkeypatch):
    (tmp_path / "parameters").mkdir()
    for name, text in (("refcnt", "2"), ("version", "0.1.0"), ("parameters/fibers", "513")):
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(module, "SYSFS", tmp_path)
    monkeypatch.setattr(module, "DEVICE", tmp_path / "none")
    status = module.status()
    assert (status.loaded, status.version, status.users) == (True, "0.1.0", 2)
    assert status.parameters == {"fibers": "513"}


def test_status_without_a_module(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SYSFS", tmp_path / "none")
    monkeypatch.setattr(module, "DEVICE", tmp_path / "none")
    status = module.status()
    assert (status.loaded, status.device, status.abi, status.usable) == (False, False, None, False)
