/* SPDX-License-Identifier: MIT */
/*
 * The program that measures the fibers of peer.h; included last, since it is compiled together
 * with them, so that no peer pays for being called through a pointer.
 *
 *	PEER ring FIBERS SWITCHES DEPTH	a ring of created fibers, each switching to the next: prints the
 *					thread's CPU time and the time-stamp counter's growth, a switch
 *	PEER create COUNT		one after the other is created, runs, and is deleted: CPU time of each
 *	PEER cold COUNT			all are created, each runs, all are deleted: CPU time of each
 *	PEER resident FIBERS		resident and page-table bytes of each that was created, and of
 *					each that has run as well
 *
 * Each fiber of a ring counts in a local variable how often it ran. Exit status 1 where that is
 * not as often as it had to: then it was no ring.
 */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <alloca.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct peer_fiber peer_main, *peer_fibers;
static long peer_count;

/* Switches left of the measurement, and when the last was done. A lap of reports follows it. */
static long ring_left;
static uint64_t ring_cycles, ring_time;
/* In the order in which they first run, so that a fiber knows its number without being told. */
static long ring_begun, ring_ended;
static long *ring_visits;

static inline uint64_t counter(void)
{
	return __builtin_ia32_rdtsc();
}

static __attribute__((noinline)) uint64_t cpu_time(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static __attribute__((noinline)) void ring_loop(void)
{
	long number = ring_begun++, visits = 0;
	struct peer_fiber *self = &peer_fibers[number];
	struct peer_fiber *next = &peer_fibers[(number + 1) % peer_count];
#ifdef PEER_HINT
	struct peer_fiber *ahead = &peer_fibers[(number + PEER_HINT) % peer_count];
#endif

	for (;;) {
		while (ring_left > 0) {
			ring_left--;
			visits++;
#ifdef PEER_HINT
			peer_hint(ahead);
#endif
			peer_switch(self, next);
		}
		if (!ring_ended) {
			ring_cycles = counter();
			ring_time = cpu_time();
		}
		ring_visits[number] = visits;
		visits = 0;
		peer_switch(self, ++ring_ended == peer_count ? &peer_main : next);
	}
}

/*
 * How far down its stack a fiber is decides over how many cache lines its frames lie, which
 * among tens of thousands of fibers is most of what a switch costs. So that no peer is lucky,
 * measurements go through all depths within a line.
 */
static size_t ring_depth;

static void ring_body(void)
{
	char *depth = (char *)alloca(ring_depth);

	__asm__ volatile("" : : "r"(depth) : "memory");
	ring_loop();
}

static void ring_run(long switches)
{
	ring_left = switches;
	ring_ended = 0;
	peer_switch(&peer_main, &peer_fibers[0]);
	for (long i = 0; i < peer_count; i++) {
		long wanted = switches / peer_count + (i < switches % peer_count);

		if (ring_visits[i] != wanted) {
			fprintf(stderr, "fiber %ld ran %ld times, not %ld\n", i, ring_visits[i], wanted);
			exit(1);
		}
	}
}

static void ring(long switches)
{
	uint64_t from_time, from_cycles;

	ring_visits = (long *)calloc((size_t)peer_count, sizeof(*ring_visits));
	if (!ring_visits)
		fail("calloc");
	for (long i = 0; i < peer_count; i++)
		if (peer_create(&peer_fibers[i]))
			fail("create");
	/* Until each has begun, and the processor knows the way. */
	ring_run(2 * peer_count + 1000);
	from_time = cpu_time();
	from_cycles = counter();
	ring_run(switches);
	printf("%.3f %.3f\n", (double)(ring_time - from_time) / (double)switches,
	       (double)(ring_cycles - from_cycles) / (double)switches);
}

static struct peer_fiber *visit;

static void visit_body(void)
{
	struct peer_fiber *self = visit;

	for (;;)
		peer_switch(self, &peer_main);
}

static void visit_new(struct peer_fiber *fiber)
{
	visit = fiber;
	peer_switch(&peer_main, fiber);
}

static void create(void)
{
	uint64_t begin = 0;

	/* The first ones make what later ones find in the pool. */
	for (long i = -100; i < peer_count; i++) {
		if (!i)
			begin = cpu_time();
		if (peer_create(&peer_fibers[0]))
			fail("create");
		visit_new(&peer_fibers[0]);
		peer_delete(&peer_fibers[0]);
	}
	printf("%.3f\n", (double)(cpu_time() - begin) / (double)peer_count);
}

static void cold(void)
{
	uint64_t begin = cpu_time();

	for (long i = 0; i < peer_count; i++) {
		if (peer_create(&peer_fibers[i]))
			fail("create");
		visit_new(&peer_fibers[i]);
	}
	for (long i = 0; i < peer_count; i++)
		peer_delete(&peer_fibers[i]);
	printf("%.3f\n", (double)(cpu_time() - begin) / (double)peer_count);
}

/* In KiB. A field of /proc/self/status or smaps_rollup. */
static double field(const char *path, const char *name)
{
	FILE *file = fopen(path, "r");
	char line[256];
	double value = -1;

	if (!file)
		fail(path);
	while (value < 0 && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)))
			value = strtod(line + strlen(name), NULL);
	fclose(file);
	return value;
}

static void resident(void)
{
	double size[3], tables[3];

	/* So that only fibers are counted. */
	memset((void *)peer_fibers, 1, (size_t)peer_count * sizeof(*peer_fibers));
	for (int step = 0; step < 3; step++) {
		for (long i = 0; i < peer_count; i++) {
			if (step == 1 && peer_create(&peer_fibers[i]))
				fail("create");
			if (step == 2)
				visit_new(&peer_fibers[i]);
		}
		size[step] = 1024 * field("/proc/self/smaps_rollup", "Rss:");
		tables[step] = 1024 * field("/proc/self/status", "VmPTE:");
	}
	for (int step = 1; step < 3; step++)
		printf("%.1f %.1f%c", (size[step] - size[0]) / (double)peer_count,
		       (tables[step] - tables[0]) / (double)peer_count, step == 2 ? '\n' : ' ');
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int rings = !strcmp(what, "ring") && argc == 5;
	long switches = rings ? strtol(argv[3], NULL, 10) : 0;

	peer_count = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
	if (rings ? peer_count < 2 || switches <= 0 : peer_count <= 0 || argc != 3 ||
	    (strcmp(what, "create") && strcmp(what, "cold") && strcmp(what, "resident"))) {
		fprintf(stderr, "usage: %s ring FIBERS SWITCHES DEPTH | create|cold|resident COUNT\n",
			argv[0]);
		return 2;
	}
	peer_fibers = (struct peer_fiber *)calloc((size_t)peer_count, sizeof(*peer_fibers));
	if (!peer_fibers)
		fail("calloc");
	peer_body = rings ? ring_body : visit_body;
	peer_begin(&peer_main);
	if (rings) {
		ring_depth = strtoul(argv[4], NULL, 10);
		ring(switches);
	} else if (!strcmp(what, "create"))
		create();
	else if (!strcmp(what, "cold"))
		cold();
	else
		resident();
	return 0;
}

#endif /* BENCH_MEASURE_H */
