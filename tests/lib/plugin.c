/* SPDX-License-Identifier: MIT */
/*
 * Runs a test program that is a shared object, loaded together with libfiber and
 * the C++ runtime when this C program has long been running: as an interpreter
 * does with its extensions. Or the C++ runtime alone is loaded then, when this thread has
 * been a fiber for long.
 */
#include <dlfcn.h>
#ifdef IS_A_FIBER
#include <fiber.h>
#endif
#include <stdio.h>

int main(int argc, char **argv)
{
	int (*run)(int argc, char **argv);
	void *object;

	if (argc < 2) {
		fprintf(stderr, "usage: %s OBJECT TEST\n", argv[0]);
		return 2;
	}
#ifdef IS_A_FIBER
	if (fiber_convert(0, NULL))
		return 1;
#endif
	object = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	if (!object) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	run = (int (*)(int, char **))dlsym(object, "main");
	return run ? run(argc - 1, argv + 1) : 1;
}
