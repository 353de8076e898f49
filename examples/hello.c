/* SPDX-License-Identifier: MIT */
/* A fiber in C: cc -std=c17 hello.c $(pkg-config --cflags --libs libfiber) -o hello */
#include <fiber.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static fiber_id_t root;

static void check(int error, const char *what)
{
	if (error) {
		fprintf(stderr, "%s: %s\n", what, strerror(error));
		exit(EXIT_FAILURE);
	}
}

static void hello(void *name)
{
	printf("hello, %s\n", (const char *)name);
	check(fiber_switch(root), "fiber_switch");
}

int main(void)
{
	fiber_id_t fiber;

	check(fiber_convert(0, &root), "fiber_convert");
	check(fiber_create(&fiber, hello, "world", NULL), "fiber_create");
	check(fiber_switch(fiber), "fiber_switch");
	check(fiber_delete(fiber), "fiber_delete");
	return EXIT_SUCCESS;
}
