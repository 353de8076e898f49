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
STEPS = "a sanitizer's switch is the one in C"
LIMITED = "the sanitizer itself needs the memory that the test forbids"
REASONS = {
    ("address", "no_address_space_is_enomem"): LIMITED,
    ("address", "backtraces_end_at_the_bottom"): "a sanitizer's frame lies below the function's",
    ("address", "a_hundred_thousand_fibers_at_the_default_limits"): "its shadow is resident too",
    ("address", "a_large_guard_shares_its_page_of_the_page_table"): "its shadow has tables, too",
    ("thread", "a_large_guard_shares_its_page_of_the_page_table"): "its shadow has tables, too",
    ("address", "an_overflow_is_reported"): "AddressSanitizer reports it itself",
    ("address", "a_million_fibers"): LIMITED,
    ("address", "a_second_thread_waits_for_the_switch_of_the_first"): STEPS,
    ("address", "a_sole_thread_needs_no_locked_instruction"): STEPS,
    ("address", "large_stacks_return_their_memory"): "its shadow is resident too",
    ("address", "the_first_fiber_maps_little"): "it maps much itself",
    ("address", "locked_memory_of_one_fiber_is_little"): LIMITED,
    ("address", "limited_address_space_is_used"): LIMITED,
    ("address", "too_many_mappings_are_eagain"): LIMITED,
    ("address", "a_refused_creation_returns_what_it_allocated"): LIMITED,
    ("thread", "a_refused_creation_returns_what_it_allocated"): LIMITED,
    ("thread", "a_million_fibers"): LIMITED,
    ("thread", "a_child_destroys_no_values_of_other_threads"): FORKS,
    ("thread", "with_nobody_to_go_on_the_thread_ends"): "a snapshot is copied while it changes",
    ("thread", "a_second_thread_waits_for_the_switch_of_the_first"): STEPS,
    ("thread", "a_sole_thread_needs_no_locked_instruction"): STEPS,
    ("thread", "without_barriers_each_switch_is_locked"): STEPS,
    ("thread", "large_stacks_return_their_memory"): "its shadow is resident too",
    ("thread", "the_first_fiber_maps_little"): "it maps much itself",
    ("thread", "locked_memory_of_one_fiber_is_little"): LIMITED,
    ("thread", "limited_address_space_is_used"): LIMITED,
    ("thread", "too_many_mappings_are_eagain"): LIMITED,
    ("thread", "no_address_space_is_enomem"): LIMITED,
    ("thread", "backtraces_end_at_the_bottom"): "a sanitizer's frame lies below the function's",
    ("thread", "a_hundred_thousand_fibers_at_the_default_limits"): LIMITED,
    ("thread", "an_overflow_is_reported"): "ThreadSanitizer takes the signal",
    ("thread", "pthread_exit_runs_destructors"): ENDS,
    ("thread", "lib_end"): ENDS,
    ("thread", "a_callback_deletes_the_fiber_that_ends"): ENDS,
    ("thread", "lib_fork"): FORKS,
}


# No programs of their own.
PARTS = {"check", "suspended", "catches"}
PROGRAMS = {
    f"lib_{source.stem}": source
    for source in sorted([*HERE.glob("*.c"), *HERE.glob("*.cpp")])
    if source.stem not in PARTS
}
WINDOWS = HERE.parent / "windows"
PROGRAMS |= {f"windows_{name}": WINDOWS / f"{name}.c" for name in ("fiber", "fls")}


def collect():
    for sanitizer in FLAGS:
        for program, source in PROGRAMS.items():
            if program == "lib_host":
                continue
            for name in re.findall(r"^TEST\((\w+)\)", source.read_text(), re.MULTILINE):
                case = f"{sanitizer}-{program}-{name}"
                yield pytest.param(sanitizer, program, name, id=case)


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
            targets = [f"tests/{s.parent.name}/{program}" for program, s in PROGRAMS.items()]
            subprocess.run(
                ["ninja", "-C", folder, "--quiet", *targets],
                check=True, env=environment, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            made[sanitizer] = folder / "tests"
        return made[sanitizer]

    return get


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
        "ASAN_OPTIONS": f"detect_leaks={int(program.startswith('windows'))}",
    }
    # Older runtimes do not cope with as many random bits as addresses have by now.
    path = programs(sanitizer) / PROGRAMS[program].parent.name / program
    command = [shutil.which("setarch") or "setarch", "-R", path, name]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"


# pthread_exit() of a fiber is a failed CHECK in its interceptor, before the library hears of it
# (GCC 12, tsan_interceptors_posix.cpp); a fiber whose function returns ends its thread.

# Programs with a sanitizer over the ordinary build of the library: options, and correct code.
ORDINARY = {
    # Each deleted fiber's copies of frames are freed: the last line has the growth in KiB.
    "use_after_return": (
        "address",
        "detect_stack_use_after_return=1:detect_leaks=0",
        """
        static void use(volatile char *byte) { *byte = 1; }
        static void body(void *arg) { volatile char bytes[64]; use(bytes); fiber_switch(home); }
        static long pages(void)
        {
            long all, resident;
            FILE *file = fopen("/proc/self/statm", "r");
            int got = fscanf(file, "%ld %ld", &all, &resident);
            fclose(file);
            return got == 2 ? resident : -1;
        }
        static int run(void)
        {
            long before = 0;
            for (int i = 0; i < 3000; i++) {
                if (i == 500)
                    before = pages();
                if (fiber_create(&fiber, body, 0, 0) || fiber_switch(fiber) || fiber_delete(fiber))
                    return 1;
            }
            return pages() - before > 2048;
        }
        """,
    ),
    # Memory to which only a suspended fiber's stack, or a key's values, point.
    "leaks": (
        "address",
        "detect_leaks=1",
        """
        int __lsan_do_recoverable_leak_check(void);
        static fiber_key_t key;
        static void body(void *arg)
        {
            char *volatile block = malloc(1000);
            fiber_key_set(key, malloc(1000));
            fiber_switch(home);
            free(block);
            fiber_switch(home);
        }
        static void wipe(void)
        {
            volatile char bytes[4096];
            for (int i = 0; i < 4096; i++)
                bytes[i] = 0;
        }
        static int run(void)
        {
            int leaks;
            if (fiber_key_create(&key, free) || fiber_create(&fiber, body, 0, 0))
                return 1;
            fiber_switch(fiber);
            wipe();
            leaks = __lsan_do_recoverable_leak_check();
            fiber_switch(fiber);
            return leaks || fiber_delete(fiber);
        }
        """,
    ),
    # What a fiber wrote on another thread is visible once it can be deleted.
    "race": (
        "thread",
        "",
        """
        static int *data;
        static fiber_id_t back;
        static void body(void *arg) { *data = 42; fiber_switch(back); }
        static void *thread(void *arg)
        {
            fiber_convert(0, &back);
            fiber_switch(fiber);
            for (;;)
                pause();
        }
        static int run(void)
        {
            struct fiber_stat stat = FIBER_STAT_INIT;
            pthread_t id;
            data = malloc(sizeof(int));
            if (fiber_create(&fiber, body, 0, 0) || pthread_create(&id, 0, thread, 0))
                return 1;
            do
                fiber_get_stat(fiber, &stat);
            while (stat.state != FIBER_SUSPENDED);
            while (fiber_delete(fiber) == EBUSY)
                ;
            _exit(*data != 42);
        }
        """,
    ),
    # The child deletes a fiber that another thread ran, which still runs to ThreadSanitizer.
    "fork": (
        "thread",
        "",
        """
        #include <sys/wait.h>
        static volatile int inside;
        static void body(void *arg) { __atomic_store_n(&inside, 1, __ATOMIC_SEQ_CST); pause(); }
        static void *thread(void *arg)
        {
            fiber_convert(0, 0);
            fiber_switch(fiber);
            return 0;
        }
        static int run(void)
        {
            pthread_t id;
            int status;
            pid_t child;
            if (fiber_create(&fiber, body, 0, 0) || pthread_create(&id, 0, thread, 0))
                return 1;
            while (!__atomic_load_n(&inside, __ATOMIC_SEQ_CST))
                ;
            child = fork();
            if (!child)
                _exit(fiber_delete(fiber));
            waitpid(child, &status, 0);
            _exit(status != 0);
        }
        """,
    ),
    # Threads make and free stacks at once, and end by their fibers' return.
    "ends": (
        "thread",
        "",
        """
        static void nothing(void *arg) { }
        static void *thread(void *arg)
        {
            struct fiber_attr attr = FIBER_ATTR_INIT;
            fiber_id_t ids[40];
            fiber_convert(0, 0);
            for (int i = 0; i < 40; i++) {
                attr.stack_size = 65536 << i % 4;
                if (fiber_create(&ids[i], nothing, 0, &attr))
                    abort();
            }
            for (int i = 0; i < 39; i++)
                fiber_delete(ids[i]);
            fiber_switch(ids[39]);
            abort();
        }
        static int run(void)
        {
            pthread_t ids[4];
            for (int i = 0; i < 4; i++)
                pthread_create(&ids[i], 0, thread, 0);
            for (int i = 0; i < 4; i++)
                pthread_join(ids[i], 0);
            return fiber_count() != 5;
        }
        """,
    ),
}

AROUND = """
#include <errno.h>
#include <fiber.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static fiber_id_t home, fiber;
{code}
int main(void)
{{
    return fiber_convert(0, &home) || run();
}}
"""


@pytest.mark.parametrize("name", ORDINARY)
def test_with_the_ordinary_library(tmp_path, name):
    sanitizer, options, code = ORDINARY[name]
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(AROUND.format(code=code))
    library = [f"-L{BUILD / 'lib'}", f"-Wl,-rpath,{BUILD / 'lib'}", "-lfiber", "-lpthread"]
    flags = ["-g", f"-fsanitize={sanitizer}", f"-I{ROOT / 'lib/include'}"]
    subprocess.run(["gcc", *flags, source, "-o", program, *library], check=True)
    environment = {**os.environ, "KFIBER_ENGINE": "local", "ASAN_OPTIONS": options}
    command = [shutil.which("setarch") or "setarch", "-R", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
