/* SPDX-License-Identifier: MIT */
/*
 * What strangers cost who read a process's file in /proc all the time: a victim creates and deletes
 * fibers on one processor, and the strangers are on the others, where they read or only count. So
 * the victim can lose time to what they do in the kernel, and to nothing else. Needs the module
 * and two processors.
 *
 *	strangers [READERS [TURNS]]	default: 4 and 9
 *
 * Turns of both kinds take turns. Prints the median of each kind's pairs of creation and deletion a
 * second, the median of the ratios of neighbouring turns, and how often all readers read:
 *
 *	alone 41236
 *	beside 40917
 *	ratio 0.992
 *	reads 12345
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "request.h"

#define TURNS_MAX	99
#define READERS_MAX	64
#define PAIRS		3000	/* of a turn */
#define VICTIMS_PROCESSOR 1

static struct {
	atomic_bool reading;
	atomic_ulong reads;
} *shared;

static int device;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* On that processor, or on all but that. */
static void stay(int processor, bool on)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (long i = 0; i < sysconf(_SC_NPROCESSORS_ONLN); i++)
		if ((i == processor) == on)
			CPU_SET((int)i, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("sched_setaffinity");
}

/* Somebody else where that is possible: it takes no right of the victim's. */
static _Noreturn void reader(pid_t victim)
{
	char path[64], text[4096];
	int file;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != victim)
		exit(0);
	stay(VICTIMS_PROCESSOR, false);
	if (!getuid() && (setgid(65534) || setuid(65534)))
		fail("setuid");
	snprintf(path, sizeof(path), "/proc/%d/fiber/1", victim);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		fail(path);
	for (;;) {
		if (!atomic_load(&shared->reading))
			continue;
		if (pread(file, text, sizeof(text), 0) <= 0)
			fail("read");
		atomic_fetch_add(&shared->reads, 1);
	}
}

/* Pairs a second. */
static double turn(bool beside)
{
	unsigned long reads = atomic_load(&shared->reads);
	struct request creation, deletion;
	struct fiber_create args;
	double begin;

	/* It never runs: any addresses do. */
	create_prepare(&args, (void (*)(void *))65536, 0, (void *)65536, 65536, 0);
	creation = create_request(device, &args);
	atomic_store(&shared->reading, beside);
	/* They have begun, all of them if they are fair to each other. */
	while (beside && atomic_load(&shared->reads) < reads + 100)
		;
	begin = now();
	for (int i = 0; i < PAIRS; i++) {
		long err = send(&creation);

		deletion = delete_request(device, args.id);
		if (err || send(&deletion))
			fail("create and delete");
	}
	return PAIRS / (now() - begin);
}

static int compare(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

static double median(double *values, int count)
{
	qsort(values, (size_t)count, sizeof(*values), compare);
	return values[count / 2];
}

int main(int argc, char **argv)
{
	int readers = argc > 1 ? atoi(argv[1]) : 4, turns = argc > 2 ? atoi(argv[2]) : 9;
	double alone[TURNS_MAX], beside[TURNS_MAX], ratios[TURNS_MAX];
	pid_t pids[READERS_MAX], self = getpid();

	if (argc > 3 || readers < 1 || readers > READERS_MAX || turns < 1 || turns > TURNS_MAX) {
		fprintf(stderr, "usage: strangers [READERS [TURNS]]: 1 to %d, 1 to %d\n",
			READERS_MAX, TURNS_MAX);
		return 2;
	}
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
		fprintf(stderr, "strangers: victim and strangers need a processor each\n");
		return 2;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		fail("mmap");
	device = device_open();
	convert(device, 0);
	stay(VICTIMS_PROCESSOR, true);
	for (int i = 0; i < readers; i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			fail("fork");
		if (!pids[i])
			reader(self);
	}
	turn(true);
	turn(false);
	for (int i = 0; i < turns; i++) {
		alone[i] = turn(false);
		beside[i] = turn(true);
		ratios[i] = beside[i] / alone[i];
	}
	for (int i = 0; i < readers; i++) {
		kill(pids[i], SIGKILL);
		waitpid(pids[i], NULL, 0);
	}
	printf("alone %.0f\nbeside %.0f\nratio %.3f\nreads %lu\n", median(alone, turns),
	       median(beside, turns), median(ratios, turns), atomic_load(&shared->reads));
	return 0;
}
