# SPDX-License-Identifier: MIT
"""The package as its users have it: sdist, wheel, virtual environment, and nothing left of it.

test_versions.py installs it on the other Pythons, from the checkout. Nothing is downloaded: the
wheel is built with the setuptools that is here.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import kfiber
from kfiber import module
from kfiber.vm import kernels

ACCESS = ("60-fiber.rules", "fiber.sysusers", "Makefile")
ROOT = Path(__file__).resolve().parents[1]
NOT_IN_A_CLONE = (".git", ".venv", "build", "dist", "*.so", "*.egg-info", "__pycache__", ".*_cache")
ENVIRONMENT = {
    # A checkout on it would be found first.
    **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    "PIP_NO_INDEX": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    # The compiled files are pip's to remove.
    "PYTHONDONTWRITEBYTECODE": "",
}


def run(*command, folder, **environment):
    done = subprocess.run(
        command,
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    copy = folder / "clone"
    ignore = shutil.ignore_patterns(*NOT_IN_A_CLONE)
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignore)
    # What Kbuild leaves there is not for others.
    (copy / "kmod" / "fiber.mod.c").touch()
    program = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", program, folder, folder=copy)
    (path,) = folder.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(sdist):
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    run(*pip, "--wheel-dir", sdist.parent, sdist, folder=sdist.parent)
    (path,) = sdist.parent.glob("*.whl")
    return path


@pytest.fixture
def python(wheel, tmp_path):
    """The Python of an environment with the wheel and nothing else."""
    folder = tmp_path / "venv"
    run(sys.executable, "-m", "venv", folder, folder=tmp_path)
    inside = folder / "bin" / "python"
    run(inside, "-m", "pip", "install", wheel, folder=tmp_path)
    return inside


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def sources(*folders):
    """What is to be compiled there, and what says how."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".c", ".h", ".S") or path.name in ("Kbuild", "Makefile", "dkms.conf")
        if not path.name.endswith(".mod.c")
    }


def test_the_sdist_has_all_sources(sdist):
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert sources("lib", "uapi", "python/native") <= names
    assert {f"python/kfiber/{name}" for name in sources("kmod")} <= names
    assert {f"python/kfiber/packaging/{name}" for name in ACCESS} <= names
    assert {"LICENSES/MIT.txt", "LICENSES/GPL-2.0-only.txt", "README.md"} <= names


def test_the_sdist_has_what_a_checkout_has(sdist):
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout of git")
    tracked = run("git", "ls-files", "-z", folder=ROOT).split("\0")
    # What is a link here is a folder with files there.
    wanted = {name for name in tracked if name and not (ROOT / name).is_symlink()}
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {name for name in wanted - names if not name.startswith((".ci/", ".git"))} == set()
    built = (".so", ".o", ".ko", ".pyc")
    assert not [name for name in names if name.endswith(built) or name.startswith("build/")]


def test_the_wheel_has_the_modules_sources_and_the_extension(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    within = {name.removeprefix("kfiber/") for name in names if name.startswith("kfiber/")}
    assert {name for name in within if name.startswith(("kmod/", "uapi/"))} == sources(
        "kmod", "uapi"
    )
    assert f"_native{sysconfig.get_config_var('EXT_SUFFIX')}" in within
    assert {
        "py.typed",
        "_native.pyi",
        "greenlet/__init__.pyi",
        "vm/init.sh",
        "vm/debug.config",
    } <= within
    assert {f"packaging/{name}" for name in ACCESS} <= within


def test_the_extensions_name_no_folder_of_the_machine_that_built_them(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".so")]
        archive.extractall(tmp_path, names)
    assert len(names) == 2
    for name in names:
        dynamic = run("readelf", "--dynamic", name, folder=tmp_path)
        assert "SYMTAB" in dynamic and "PATH" not in dynamic


def test_the_files_about_access_are_installed_where_udev_and_sysusers_look(tmp_path):
    make = ["make", "-s", "-C", ROOT / "packaging", f"DESTDIR={tmp_path}"]
    run(*make, "install", folder=tmp_path)
    rule = (tmp_path / "usr/lib/udev/rules.d/60-fiber.rules").read_text()
    group = (tmp_path / "usr/lib/sysusers.d/fiber.conf").read_text()
    assert f'KERNEL=="fiber", GROUP="{module.GROUP}", MODE="0660"' in rule
    assert f"\ng {module.GROUP} -\n" in group
    run(*make, "uninstall", folder=tmp_path)
    assert not files(tmp_path)


def test_it_runs_and_goes(python, tmp_path):
    (site,) = (python.parent.parent / "lib").glob("python*/site-packages")
    for command in ([python, "-m", "kfiber"], [python.with_name("kfiber")]):
        assert run(*command, "--version", folder=tmp_path) == f"kfiber {kfiber.__version__}\n"
    program = "import kfiber; print(kfiber.Fiber(sum, (1, 2)).switch(), kfiber.__file__)"
    value, path = run(python, "-c", program, folder=tmp_path, KFIBER_ENGINE="local").split()
    assert (value, Path(path).parent) == ("3", site / "kfiber")
    run(python, "-m", "pip", "uninstall", "--yes", "kfiber", folder=tmp_path)
    assert not [path for path in site.iterdir() if "kfiber" in path.name.lower()]
    assert not python.with_name("kfiber").exists()


def test_greenlets_are_fibers_where_somebody_asks(python, tmp_path):
    """By the environment or by a word before the program, whose Python has the same options."""
    program = "import sys; print('kfiber' in sys.modules, sys.flags.dev_mode, sys.argv[1:])"
    before = [python, "-X", "dev"]
    after = ["-c", program, "-m", "word"]
    off, on = (f"{asked} True ['-m', 'word']\n" for asked in (False, True))
    assert run(*before, *after, folder=tmp_path) == off
    assert run(*before, *after, folder=tmp_path, KFIBER_GREENLET="0") == off
    assert run(*before, *after, folder=tmp_path, KFIBER_GREENLET="1") == on
    for word in (["-m", "kfiber.greenlet"], ["-mkfiber.greenlet"]):
        assert run(*before, *word, *after, folder=tmp_path) == on
    # A command that is a program, and what it starts.
    command = python.with_name("command")
    command.write_text(
        "import greenlet, subprocess, sys\n"
        "assert greenlet is sys.modules['kfiber.greenlet'] and greenlet._greenlet.greenlet\n"
        "subprocess.run([sys.executable, '-m', 'kfiber', 'doctor'])"
    )
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    said = run(python, "-m", "kfiber.greenlet", "command", folder=tmp_path, PATH=path)
    assert "greenlet: kfiber.greenlet: its greenlets are fibers" in said


DEBIAN = ROOT / "packaging/debian"


def test_debians_packages_are_made_of_what_is_here():
    """`make deb` builds them, which takes minutes."""
    control = (DEBIAN / "control").read_text()
    packages = set(re.findall(r"^Package: (.*)$", control, re.MULTILINE))
    assert packages == {"kfiber", "kfiber-dkms", "libfiber-dev", "libfiber0", "python3-kfiber"}
    for path in DEBIAN.iterdir():
        name, _, kind = path.name.partition(".")
        assert not kind or name in packages, path
        if kind in ("docs", "examples", "dkms"):
            for pattern in path.read_text().split():
                assert list(ROOT.glob(pattern)), f"{path}: {pattern}"


def test_debians_symbols_have_the_librarys_version():
    """A symbol's version in the map is one in the list, or it would be missing there."""
    versions = set(re.findall(r"^(FIBER_\S+) \{", (ROOT / "lib/libfiber.map").read_text(), re.M))
    assert versions == set(
        re.findall(r"\(symver\)(\S+)", (DEBIAN / "libfiber0.symbols").read_text())
    )


def test_the_module_is_built_in_the_cache_only(python, tmp_path):
    """With the kernel's own build system, from the sources that were installed."""
    (site,) = (python.parent.parent / "lib").glob("python*/site-packages")
    command = [python, "-m", "kfiber", "module", "build"]
    assert "--kernel-dir" in run(*command, "--help", folder=tmp_path)
    before = files(site)
    kernel = kernels.get()
    command += ["--kernel-dir", kernel.build, "--release", kernel.release]
    built = run(*command, folder=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache")).strip()
    assert Path(built).is_relative_to(tmp_path / "cache" / "kfiber")
    assert Path(built).read_bytes().startswith(b"\x7fELF")
    assert files(site) == before
