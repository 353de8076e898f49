/* SPDX-License-Identifier: MIT */
/*
 * What a switch of the CPU costs: two threads that yield to each other on one processor. They are
 * no fibers, or fibers that the module switches ("converted"), or threads with a status table
 * ("attached"). Prints the median and the least of the cycle counter's advance a switch, and how
 * many there were; under QEMU's -icount that counts instructions.
 */
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

#include "request.h"

#define ROUNDS 2001

static bool attached, converted;
static int device;
static volatile int stop;

static void take_part(unsigned long number)
{
	if (attached)
		attach(device, number);
	if (converted)
		convert(device, 0);
}

static void *yields(void *arg)
{
	take_part(2);
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
	converted = argc == 2 && !strcmp(argv[1], "converted");
	if (attached || converted)
		device = device_open();
	if (attached)
		table_map(device);
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	/* Of this class the one that yields always goes last. */
	if (sched_setaffinity(0, sizeof(cpus), &cpus) || sched_setscheduler(0, SCHED_FIFO, &first) ||
	    pthread_create(&other, NULL, yields, NULL))
		fail("cannot start");
	take_part(1);
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
