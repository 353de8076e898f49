# SPDX-License-Identifier: MIT
"""Two copies of the library in one process: libfiber.so, and libfiber.a in a plugin."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("KFIBER_BUILD", ROOT / "build")) / "lib"

PLUGIN = """\
#include <fiber.h>

static fiber_id_t home;
static int visits;

static void body(void *arg)
{
	for (;;) {
		visits++;
		fiber_switch(home);
	}
}

int visit(const char *engine, int times)
{
	fiber_id_t id;
	int err;

	if (engine && fiber_set_engine(engine))
		return -1;
	err = fiber_convert(0, &home);
	for (int i = 0; !err && i < times; i++) {
		err = fiber_create(&id, body, 0, 0);
		if (!err)
			err = fiber_switch(id);
	}
	return err ? err : -visits;
}
"""

PROGRAM = (
    PLUGIN.replace("visit(", "visit_here(")
    + """
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

int main(int argc, char **argv)
{
	void *object = dlopen(argv[1], RTLD_NOW);
	int (*visit)(const char *, int) = (int (*)(const char *, int))dlsym(object, "visit");

	if (visit_here("mapped", 100) != -100 || strcmp(fiber_engine(), "mapped"))
		return 1;
	if (visit("mapped", 100) != EBUSY)
		return 2;
	/* By itself it is another one, and both go on. */
	if (visit("auto", 100) != -100)
		return 3;
	for (int i = 0; i < 100; i++)
		if (fiber_switch(2 + i))
			return 4;
	return visits != 200;
}
"""
)


@pytest.mark.guest
def test_a_second_copy_leaves_the_firsts_table_alone(tmp_path):
    (tmp_path / "plugin.c").write_text(PLUGIN)
    (tmp_path / "program.c").write_text(PROGRAM)
    plugin, program = tmp_path / "plugin.so", tmp_path / "program"
    include = f"-I{ROOT / 'lib/include'}"
    archive, own = BUILD / "libfiber.a", "-Wl,--exclude-libs,ALL"
    shared = [f"-L{BUILD}", f"-Wl,-rpath,{BUILD}", "-lfiber", "-ldl"]
    build = ["gcc", include, "-o"]
    subprocess.run(
        [*build, plugin, tmp_path / "plugin.c", "-shared", "-fPIC", archive, own], check=True
    )
    subprocess.run([*build, program, tmp_path / "program.c", *shared], check=True)
    done = subprocess.run([program, plugin], timeout=60)
    assert done.returncode == 0
