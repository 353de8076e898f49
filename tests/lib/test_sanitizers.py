# SPDX-License-Identifier: MIT
"""The library's tests once more under AddressSanitizer and ThreadSanitizer, on engine `local`.

Both are built, library and tests, beside the ordinary build. What a sanitizer itself cannot do is
skipped with the reason.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = Path(os.environ.get("KFIBER_BUILD", ROOT / "build"))
SKIPPED = 77

pytestmark = pytest.mark.skipif("KFIBER_GUEST" in os.environ, reason="tested outside the guest")

FLAGS = {"address": "address,undefined", "thread": "thread"}
# GCC's ThreadSanitizer of today does not know threads that end on fibers, nor fibers and fork().
ENDS = "ThreadSanitizer cannot end a thread on a fiber"
FORKS = "ThreadSanitizer does not survive fork() among fibers"
LIMITED = "the sanitizer itself needs the memory that the test forbids"
REASONS = {
    ("address", "no_address_space_is_enomem"): LIMITED,
    ("address", "backtraces_end_at_the_bottom"): "a sanitizer's frame lies below the function's",
    ("address", "a_hundred_thousand_fibers_at_the_default_limits"): "its shadow is resident too",
    ("address", "an_overflow_is_reported"): "AddressSanitizer reports it itself",
    ("address", "a_million_fibers"): LIMITED,
    ("thread", "a_million_fibers"): LIMITED,
    ("thread", "no_address_space_is_enomem"): LIMITED,
    ("thread", "backtraces_end_at_the_bottom"): "a sanitizer's frame lies below the function's",
    ("thread", "a_hundred_thousand_fibers_at_the_default_limits"): LIMITED,
    ("thread", "an_overflow_is_reported"): "ThreadSanitizer takes the signal",
    ("thread", "pthread_exit_runs_destructors"): ENDS,
    ("thread", "end"): ENDS,
    ("thread", "fork"): FORKS,
}


def collect():
    for sanitizer in FLAGS:
        for source in sorted([*HERE.glob("*.c"), *HERE.glob("*.cpp")]):
            if source.stem == "host":
                continue
            for name in re.findall(r"^TEST\((\w+)\)", source.read_text(), re.MULTILINE):
                case = f"{sanitizer}-{source.stem}-{name}"
                yield pytest.param(sanitizer, source.stem, name, id=case)


@pytest.fixture(scope="module")
def programs():
    """Builds what a sanitizer needs, once; gives the folder."""
    made = {}

    def get(sanitizer):
        if sanitizer not in made:
            folder = BUILD / "sanitizers" / sanitizer
            environment = {
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
            if not (folder / "build.ninja").exists():
                flags = [f"-Db_sanitize={FLAGS[sanitizer]}", "-Db_lundef=false"]
                subprocess.run(
                    ["meson", "setup", folder, ROOT, *flags],
                    check=True, env=environment, stdout=subprocess.DEVNULL,
                )  # fmt: skip
            sources = [*HERE.glob("*.c"), *HERE.glob("*.cpp")]
            targets = [f"tests/lib/lib_{s.stem}" for s in sources if s.stem not in PARTS]
            subprocess.run(
                ["ninja", "-C", folder, "--quiet", *sorted(targets)],
                check=True, env=environment, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            made[sanitizer] = folder / "tests" / "lib"
        return made[sanitizer]

    return get


# No programs of their own.
PARTS = {"check", "suspended"}


@pytest.mark.parametrize(("sanitizer", "program", "name"), list(collect()))
def test(sanitizer, program, name, programs):
    reason = REASONS.get((sanitizer, name)) or REASONS.get((sanitizer, program))
    if reason:
        pytest.skip(reason)
    environment = {
        **os.environ,
        "KFIBER_ENGINE": "local",
        "KFIBER_STRESS": "1000000",
        # Stacks and control words are mapped, where it does not look for pointers.
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    # Older runtimes do not cope with as many random bits as addresses have by now.
    command = [shutil.which("setarch") or "setarch", "-R", programs(sanitizer) / f"lib_{program}"]
    done = subprocess.run(
        [*command, name],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
