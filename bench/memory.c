/* SPDX-License-Identifier: MIT */
/*
 * Many fibers that take kernel memory and next to nothing else: each has a name and two positions of
 * local storage, and all share one stack, which works because each runs once only.
 *
 *	memory FIBERS [fpu]	says "ready", waits for a line, makes them, says "done", waits again
 */
#include <unistd.h>

#include "request.h"

#define STACK 65536

static int device;
static uint64_t main_fiber;

static void two_slots(void *unused)
{
	struct request back = switch_request(device, main_fiber);

	(void)unused;
	for (int i = 0; i < 2; i++)
		fls_alloc(device);
	send(&back);
}

static void hand_over(const char *word)
{
	puts(word);
	fflush(stdout);
	if (getchar() == EOF)
		exit(1);
}

int main(int argc, char **argv)
{
	long fibers = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
	unsigned int fpu = argc > 2 && !strcmp(argv[2], "fpu");
	struct request visit, creation;
	struct fiber_create args;
	void *stack;

	device = device_open();
	main_fiber = convert(device, 0);
	stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack == MAP_FAILED)
		fail("mmap");
	memset(stack, 0, STACK);
	create_prepare(&args, two_slots, 0, stack, STACK, fpu);
	creation = create_request(device, &args);

	hand_over("ready");
	for (long i = 0; i < fibers; i++) {
		snprintf(args.name, sizeof(args.name), "fiber %ld", i);
		if (send(&creation))
			fail("create");
		visit = switch_request(device, args.id);
		if (send(&visit))
			fail("switch");
	}
	hand_over("done");
	return 0;
}
