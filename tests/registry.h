/* SPDX-License-Identifier: MIT */
/* The tests that a program holds: TEST(name) { ... } adds one. */
#ifndef TESTS_REGISTRY_H
#define TESTS_REGISTRY_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct test {
	const char *name;
	void (*run)(void);
	struct test *next;
};

/* Before main(), in the order of the program's text. */
void test_add(struct test *test);

/* The first of them. NULL: there are none. */
const struct test *test_first(void);

/* main() of a program that runs the one that its argument names: status 0, or 2 for usage. */
int test_main(int argc, char **argv);

#define TEST(function)									\
	static void function(void);							\
	static struct test function##_test = { #function, function, NULL };		\
	__attribute__((constructor)) static void function##_add(void)			\
	{										\
		test_add(&function##_test);						\
	}										\
	static void function(void)

#ifdef __cplusplus
}
#endif

#endif /* TESTS_REGISTRY_H */
