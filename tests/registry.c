/* SPDX-License-Identifier: MIT */
#include "registry.h"

#include <stdio.h>
#include <string.h>

static struct test *tests;

void test_add(struct test *test)
{
	struct test **place = &tests;

	while (*place)
		place = &(*place)->next;
	*place = test;
}

const struct test *test_first(void)
{
	return tests;
}

int test_main(int argc, char **argv)
{
	const struct test *test;

	for (test = tests; test; test = test->next) {
		if (argc == 2 && !strcmp(argv[1], test->name)) {
			test->run();
			return 0;
		}
	}
	fprintf(stderr, "usage: %s TEST, where TEST is one of\n", argv[0]);
	for (test = tests; test; test = test->next)
		fprintf(stderr, "  %s\n", test->name);
	return 2;
}
