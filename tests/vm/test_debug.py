# SPDX-License-Identifier: MIT
"""The debug kernel's way into the cache, with a source that takes no time to build."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kfiber.vm import debug, kernels, source
from kfiber.vm.errors import MISSING, VmError

# As far as debug.py uses it. The configuration is what it is asked for, and {lost} of it.
MAKEFILE = """\
all_of_it:
defconfig: ; mkdir -p kernel/configs
kvm_guest.config: ; :
debug-kfiber.config: ; grep -v '^{lost}' kernel/configs/debug-kfiber.config >.config
kernelrelease: ; @echo 6.1.0$$(cat localversion-kfiber)
bzImage: ; {build}
	mkdir -p arch/x86/boot && echo image >arch/x86/boot/bzImage
	echo "  CC      init/main.o" && touch init.o
modules: ; touch Module.symvers
modules_install: ; mkdir -p $(INSTALL_MOD_PATH)/lib/modules/6.1.0$$(cat localversion-kfiber)
"""


@pytest.fixture
def tree(monkeypatch, tmp_path):
    """Makes an archive of a source with that Makefile, which source.archive() gives."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(lost="nothing", build=":"):
        top = tmp_path / "linux-source-6.1"
        for name in ("kernel/configs", "scripts", "include/linux", "drivers/gpu"):
            (top / name).mkdir(parents=True)
        (top / "Makefile").write_text(MAKEFILE.format(lost=lost, build=build))
        (top / "scripts/tool.c").touch()
        (top / "include/linux/fs.h").touch()
        (top / "kernel/fork.c").touch()
        (top / "drivers/gpu/registers.h").touch()
        archive = tmp_path / "linux-source-6.1.tar.xz"
        command = ["tar", "-cJf", archive, "-C", tmp_path, "linux-source-6.1"]
        subprocess.run(command, check=True)
        monkeypatch.setattr(source, "archive", lambda: archive)
        return tmp_path / "cache/kfiber"

    return make


def test_is_built_once_and_named_by_its_config(tree, monkeypatch, tmp_path):
    cache = tree()
    kernel = kernels.get("debug")
    fingerprint = kernel.release.rpartition("-")[2]
    assert kernel.release == f"6.1.0-debug-{fingerprint}"
    assert kernel.image.read_text() == "image\n"
    assert kernel.modules.is_dir()

    def refuse():
        raise AssertionError("it is in the cache")

    monkeypatch.setattr(source, "archive", refuse)
    assert debug.get() == kernel
    other = tmp_path / "other.config"
    other.write_text(debug.CONFIG.read_text() + "# changed\n")
    monkeypatch.setattr(debug, "CONFIG", other)
    with pytest.raises(AssertionError, match="it is in the cache"):
        debug.get()
    assert sorted(path.name for path in (cache / "kernels").iterdir() if path.name[0] != ".") == [
        kernel.release,
        f"debug-{fingerprint}",
    ]


def test_keeps_what_building_modules_needs(tree):
    tree()
    build = debug.get().build
    kept = {str(path.relative_to(build)) for path in build.rglob("*") if path.is_file()}
    assert kept >= {".config", "Makefile", "Module.symvers", "include/linux/fs.h", "scripts/tool.c"}
    assert not kept & {"kernel/fork.c", "init.o", "drivers/gpu/registers.h"}


def test_an_option_that_did_not_take_is_told(tree):
    cache = tree(lost="CONFIG_KASAN=y")
    with pytest.raises(VmError, match=r"has no CONFIG_KASAN=y; hint: ") as caught:
        debug.get()
    assert caught.value.status == MISSING
    assert [path.name for path in (cache / "kernels").iterdir()] == [".debug-lock"]


def test_a_failed_build_leaves_its_log_only(tree):
    cache = tree(build="echo 'fork.c:1: error: something' && false")
    with pytest.raises(VmError, match=r"`make -j\d+ bzImage` failed .*; hint: ") as caught:
        debug.get()
    log = cache / "log/debug-kernel.log"
    assert str(log) in str(caught.value)
    assert "fork.c:1: error: something" in log.read_text()
    assert [path.name for path in (cache / "kernels").iterdir()] == [".debug-lock"]


def test_missing_tools_are_told_before_anything_is_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(debug, "_TOOLS", ("make", "no-such-tool"))
    with pytest.raises(
        VmError, match=r"debug kernel: no-such-tool.* cannot be found; hint: apt-get install "
    ) as caught:
        debug.get()
    assert caught.value.status == MISSING


def test_a_build_that_is_told_to_end_leaves_nothing(tree, tmp_path):
    cache = tree(build=f"echo $$$$ >{tmp_path}/compiler && sleep 1000")
    script = (
        "import sys; from pathlib import Path; from kfiber.cli import main; "
        "from kfiber.vm import source; source.archive = lambda: Path(sys.argv[1]); "
        "sys.exit(main(['vm', 'fetch', '--kernel', 'debug']))"
    )
    words = [sys.executable, "-c", script, tmp_path / "linux-source-6.1.tar.xz"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        compiler = tmp_path / "compiler"
        deadline = time.monotonic() + 60
        while not compiler.exists() or not compiler.read_text():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert [path.name for path in (cache / "kernels").iterdir()] == [".debug-lock"]
    stat = Path("/proc", compiler.read_text().strip(), "stat")
    while stat.exists() and stat.read_text().rpartition(") ")[2][0] not in "ZX":
        assert time.monotonic() < deadline
        time.sleep(0.01)
