/* SPDX-License-Identifier: MIT */
/*
 * What a switch of the CPU costs: two threads that yield to each other on one processor, watched
 * by the module ("attached") or not. Prints the median and the least of the cycle counter's
 * advance a switch, and how many there were; under QEMU's -icount that counts instructions.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "request.h"
#include "uapi/fiber.h"

#define ROUNDS 2001

static bool attached;
static int device;
static volatile int stop;

static void attach(unsigned long number)
{
	if (attached && request(device, FIBER_IOC_ATTACH, number))
		fail("FIBER_IOC_ATTACH");
}

static void *yields(void *arg)
{
	attach(2);
	while (!stop)
		sched_yield();
	return arg;
}

static int compare(const void *one, const void *other)
{
	uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;

	return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
	static uint64_t costs[ROUNDS];
	const struct sched_param first = { .sched_priority = 1 };
	pthread_t other;
	cpu_set_t cpus;
	int i;

	attached = argc == 2 && !strcmp(argv[1], "attached");
	if (attached) {
		device = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
		if (device < 0 || mmap(NULL, FIBER_TABLE_SIZE(1), PROT_READ | PROT_WRITE,
				       MAP_SHARED, device, 0) == MAP_FAILED)
			fail(FIBER_DEVICE);
	}
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	/* Of this class the one that yields always goes last. */
	if (sched_setaffinity(0, sizeof(cpus), &cpus) || sched_setscheduler(0, SCHED_FIFO, &first) ||
	    pthread_create(&other, NULL, yields, NULL))
		fail("cannot start");
	attach(1);
	for (i = 0; i < 100; i++)
		sched_yield();
	for (i = 0; i < ROUNDS; i++) {
		uint64_t begin = __builtin_ia32_rdtsc();

		/* To the other one and back. */
		sched_yield();
		costs[i] = (__builtin_ia32_rdtsc() - begin) / 2;
	}
	stop = 1;
	pthread_join(other, NULL);
	qsort(costs, ROUNDS, sizeof(*costs), compare);
	printf("yield %llu %llu %d\n", (unsigned long long)costs[ROUNDS / 2],
	       (unsigned long long)costs[0], ROUNDS);
	return 0;
}
