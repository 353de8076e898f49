# SPDX-License-Identifier: MIT
"""Functions by their addresses: what the program itself says of its own."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from kfiber import symbols

SOURCE = """\
#include <stdio.h>
#include <unistd.h>

static void hidden(void) { puts("hidden"); }
void shown(void) { puts("shown"); }

int main(void)
{
	printf("%lx %lx\\n", (unsigned long)hidden, (unsigned long)shown);
	fflush(stdout);
	pause();
	return 0;
}
"""


@pytest.fixture
def names(tmp_path):
    """Of the two functions above in a running program, built with these flags."""

    def run(*flags):
        source, program = tmp_path / "program.c", tmp_path / "program"
        source.write_text(SOURCE)
        subprocess.run(["gcc", "-O0", *flags, source, "-o", program], check=True, timeout=60)
        with subprocess.Popen([program], stdout=subprocess.PIPE, text=True) as process:
            try:
                addresses = [int(word, 16) for word in process.stdout.readline().split()]
                known = symbols.Symbols(process.pid)
                return [known.name(address) for address in (*addresses, addresses[0] + 1)]
            finally:
                process.kill()

    return run


@pytest.mark.parametrize("flags", [("-pie", "-fPIE"), ("-no-pie", "-fno-pie")])
def test_static_and_global_functions(names, flags):
    assert names(*flags) == ["hidden", "shown", ""]


def test_a_stripped_program_tells_what_it_exports(names):
    assert names("-s", "-rdynamic") == ["", "shown", ""]


def test_a_shared_library():
    address = ctypes.cast(ctypes.CDLL(None).qsort, ctypes.c_void_p).value
    assert symbols.Symbols(os.getpid()).name(address) == "qsort"


def test_a_process_that_is_not_there():
    assert symbols.Symbols(2**22 + 1).name(0x1000) == ""


@pytest.mark.parametrize("length", [0, 3, 16, 64, 100, 1000, 5000])
def test_a_file_that_is_cut_off_names_nothing_or_less(tmp_path, length):
    whole = Path("/proc/self/exe").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:length])
    known = symbols.Symbols(os.getpid())
    assert known._read(str(tmp_path / "cut")) == {}


def test_what_is_no_program_has_no_functions():
    assert symbols.functions(b"#!/bin/sh\n" * 100) == {}
