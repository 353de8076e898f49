/* SPDX-License-Identifier: MIT */
/* Not a test: a fiber for test_backtrace.py to look at in a debugger, suspended and then running. */
#include <fiber.h>
#include <signal.h>

static fiber_id_t home, deep;

static __attribute__((noinline)) void innermost(int depth)
{
	if (depth)
		innermost(depth - 1);
	else
		fiber_switch(home);
	/* Not a tail call. */
	__asm__ volatile("" ::: "memory");
	if (!depth)
		raise(SIGTRAP);
	__asm__ volatile("" ::: "memory");
}

static void entry_of_the_fiber(void *arg)
{
	(void)arg;
	innermost(3);
	fiber_switch(home);
}

int main(void)
{
	if (fiber_convert(0, &home) || fiber_create(&deep, entry_of_the_fiber, NULL, NULL))
		return 1;
	fiber_switch(deep);
	raise(SIGTRAP);
	fiber_switch(deep);
	return 0;
}
