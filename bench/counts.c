/* SPDX-License-Identifier: MIT */
/*
 * What the module's requests cost, by the time-stamp counter, which counts instructions where the
 * machine is emulated with -icount. Raw requests: no library in between. Prints a line a case:
 * name, median, least, most.
 *
 *	counts [FIBERS [fpu]]	with so many other fibers in the process (default 0), and with the
 *				whole FPU state for the fiber that is measured from, too
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "request.h"
#include "uapi/fiber.h"

#define ROUNDS 1001
#define STACK 65536

static int device;
static uint64_t main_fiber;
static uint64_t samples[ROUNDS];

static inline uint64_t counter(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

static void back_and_forth(void *unused)
{
	(void)unused;
	for (;;)
		request(device, FIBER_IOC_SWITCH, main_fiber);
}

static uint64_t create(unsigned int flags)
{
	struct fiber_create args = {
		.size = sizeof(args),
		.entry = (uintptr_t)back_and_forth,
		.stack_size = STACK,
		.flags = flags,
	};
	void *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (stack == MAP_FAILED)
		fail("mmap");
	args.stack_start = (uintptr_t)stack;
	if (ioctl(device, FIBER_IOC_CREATE, &args))
		fail("create");
	return args.id;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* `ways`: how many of the thing one request does. */
static void measure(const char *name, int fd, unsigned long command, unsigned long argument, int ways)
{
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t start = counter();

		request(fd, command, argument);
		samples[i] = counter() - start;
	}
	qsort(samples, ROUNDS, sizeof(samples[0]), compare);
	printf("%s %.1f %.1f %.1f\n", name, (double)samples[ROUNDS / 2] / ways,
	       (double)samples[0] / ways, (double)samples[ROUNDS - 1] / ways);
}

int main(int argc, char **argv)
{
	long others = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
	struct fiber_convert convert = { .size = sizeof(convert) };
	struct fiber_fls slot = { .size = sizeof(slot) };
	uint64_t plain, full;
	int null;

	if (argc > 2)
		convert.flags = FIBER_FLAG_FPU;
	device = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (device < 0 || null < 0)
		fail("open");
	if (ioctl(device, FIBER_IOC_CONVERT, &convert))
		fail("convert");
	main_fiber = convert.id;
	while (others-- > 0)
		create(0);
	plain = create(0);
	full = create(FIBER_FLAG_FPU);
	if (ioctl(device, FIBER_IOC_FLS_ALLOC, &slot.index))
		fail("fls");

	/* TCGETS, which /dev/null does not know: ENOTTY. */
	measure("null_ioctl", null, 0x5401, 0, 1);
	measure("version", device, FIBER_IOC_VERSION, 0, 1);
	measure("fls_get", device, FIBER_IOC_FLS_GET, (uintptr_t)&slot, 1);
	measure("switch", device, FIBER_IOC_SWITCH, plain, 2);
	measure("switch_fpu", device, FIBER_IOC_SWITCH, full, 2);
	return 0;
}
