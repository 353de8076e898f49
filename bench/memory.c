/* SPDX-License-Identifier: MIT */
/*
 * Many fibers that take kernel memory and next to nothing else: each has a name and two positions of
 * local storage, and all share one stack, which works because each runs once only.
 *
 *	memory FIBERS [fpu]	says "ready", waits for a line, makes them, says "done", waits again
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "request.h"
#include "uapi/fiber.h"

#define STACK 65536

static int device;
static uint64_t main_fiber;

static void two_slots(void *unused)
{
	uint64_t index;

	(void)unused;
	for (int i = 0; i < 2; i++)
		if (ioctl(device, FIBER_IOC_FLS_ALLOC, &index))
			fail("fls");
	request(device, FIBER_IOC_SWITCH, main_fiber);
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
	struct fiber_convert convert = { .size = sizeof(convert) };
	struct fiber_create args = { .size = sizeof(args), .entry = (uintptr_t)two_slots, .stack_size = STACK };
	void *stack;

	device = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
	if (device < 0)
		fail(FIBER_DEVICE);
	if (ioctl(device, FIBER_IOC_CONVERT, &convert))
		fail("convert");
	main_fiber = convert.id;
	stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack == MAP_FAILED)
		fail("mmap");
	memset(stack, 0, STACK);
	args.stack_start = (uintptr_t)stack;
	if (argc > 2 && !strcmp(argv[2], "fpu"))
		args.flags = FIBER_FLAG_FPU;

	hand_over("ready");
	for (long i = 0; i < fibers; i++) {
		snprintf(args.name, sizeof(args.name), "fiber %ld", i);
		if (ioctl(device, FIBER_IOC_CREATE, &args))
			fail("create");
		if (request(device, FIBER_IOC_SWITCH, args.id))
			fail("switch");
	}
	hand_over("done");
	return 0;
}
