/* SPDX-License-Identifier: MIT */
/* That the switch written by hand does the work that it is compared for: one line for each. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/peers/asm.h"

_Thread_local struct asm_thread asm_thread = { .number = 1 };

static struct peer_fiber here = { .owner = 1 }, there;
static uint64_t stack[1024];
static unsigned int there_mxcsr;

static void expect(int holds, const char *what)
{
	if (!holds) {
		printf("not so: %s\n", what);
		exit(1);
	}
	printf("%s\n", what);
}

static void body(void)
{
	unsigned int rounded = 0x3f80;

	expect(here.owner == 0, "the one left is free");
	expect(there.owner == 1, "the one taken is owned");
	expect(here.run_time > 0, "the run that ended is booked");
	there_mxcsr = __builtin_ia32_stmxcsr();
	__builtin_ia32_ldmxcsr(rounded);
	for (;;)
		asm_switch_full(&there, &here);
}

int main(void)
{
	uint64_t *top = stack + 1024;

	top[-9] = 0x1f80 | (uint64_t)0x37f << 32;
	top[-2] = (uintptr_t)body;
	there.sp = &top[-9];
	asm_thread.since = __builtin_ia32_rdtsc();

	there.owner = 2;
	expect(asm_switch_full(&here, &there) == EBUSY, "a fiber that another thread has is busy");
	expect(here.owner == 1 && there.owner == 2 && !there.activations, "which changes nothing");
	there.owner = 0;

	expect(asm_switch_full(&here, &there) == 0, "there and back");
	expect(there_mxcsr == 0x1f80, "it began with the control words of its stack");
	expect(__builtin_ia32_stmxcsr() == 0x1f80, "and its own did not come along");
	expect(there.activations == 1 && here.activations == 1, "both activations are counted");
	expect(asm_thread.since > 0 && there.run_time > 0, "its run is booked");
	expect(here.owner == 1 && there.owner == 0, "owners are as before");
	return 0;
}
