/* SPDX-License-Identifier: MIT */
/* Processors come and go while fibers run on them, move between threads, and are counted. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "setting.h"

#define ONLINE	"/sys/devices/system/cpu/cpu1/online"
#define TURNS	6
#define WANDERERS 4
#define THREADS	3

static atomic_bool stop;
static atomic_ulong steps;
static uint64_t wanderers[WANDERERS];

/* Each leads a life of its own on whichever thread runs it. */
static void wander(void *arg)
{
	unsigned int number = (unsigned int)(uintptr_t)arg, next = number;
	volatile double sum = 0;

	for (;;) {
		for (int i = 0; i < 50; i++)
			sum = sum + number;
		atomic_fetch_add(&steps, 1);
		next = (next + 1) % WANDERERS;
		if (next != number)
			fiber_switch(wanderers[next]);
		/* Every sum is its own, whatever processor it was made on. */
		if ((uint64_t)sum % 50 != 0)
			check_failed(__FILE__, __LINE__, "a sum is %f", sum);
	}
}

static void *runs_wanderers(void *arg)
{
	unsigned int next = (unsigned int)(uintptr_t)arg;

	convert(FIBER_FLAG_FPU);
	/* From there it goes on among them, until the process ends. */
	for (;;)
		fiber_switch(wanderers[next++ % WANDERERS]);
	return NULL;
}

static uint64_t process_cpu_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void go_off_and_on(void (*check)(void))
{
	for (int turn = 0; turn < TURNS; turn++) {
		unsigned long seen = atomic_load(&steps);

		CHECK_OK(file_write(ONLINE, turn & 1 ? "1" : "0"));
		WAIT_FOR(atomic_load(&steps) > seen + 1000);
		check();
	}
}

static void check_wanderers(void)
{
	uint64_t used = 0;

	for (unsigned int i = 0; i < WANDERERS; i++)
		used += proc_number(wanderers[i], "CPU time ns");
	CHECK(used > 0);
	/* Read first, so that it cannot be more; the kernel's clocks may differ a little. */
	CHECK(used <= process_cpu_ns() + process_cpu_ns() / 10 + 100000000);
}

static void wanderers_run(void)
{
	device = device_open();
	convert(0);
	for (unsigned int i = 0; i < WANDERERS; i++)
		wanderers[i] = create(wander, (void *)(uintptr_t)i, FIBER_FLAG_FPU, NULL);
	for (unsigned int i = 0; i < THREADS; i++)
		thread_start(runs_wanderers, (void *)(uintptr_t)i);
	WAIT_FOR(atomic_load(&steps) > 1000);
	go_off_and_on(check_wanderers);
}

static struct fiber_thread_area *areas;

static void *mapped_thread(void *arg)
{
	unsigned int number = (unsigned int)(uintptr_t)arg;

	CHECK_OK(request(device, FIBER_IOC_ATTACH, number));
	while (!atomic_load(&stop)) {
		atomic_fetch_add(&steps, 1);
		sched_yield();
	}
	return NULL;
}

static uint64_t off_before[THREADS + 1];

static void check_areas(void)
{
	for (unsigned int i = 1; i <= THREADS; i++) {
		uint64_t off = ((volatile struct fiber_thread_area *)areas)[i].off;

		/* Time off the CPU only ever grows, on whichever processor. */
		CHECK(off >= off_before[i]);
		CHECK(off >> 62 == 0);
		off_before[i] = off;
	}
}

static void mapped_threads_run(void)
{
	pthread_t threads[THREADS];
	char *table;

	device = device_open();
	table = mmap(NULL, FIBER_TABLE_SIZE(100), PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	CHECK(table != MAP_FAILED);
	areas = (void *)(table + FIBER_TABLE_AREAS_AT);
	for (unsigned int i = 0; i < THREADS; i++)
		threads[i] = thread_start(mapped_thread, (void *)(uintptr_t)(i + 1));
	WAIT_FOR(atomic_load(&steps) > 1000);
	go_off_and_on(check_areas);
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < THREADS; i++)
		thread_join(threads[i]);
}

static void with_two_processors(void (*run)(void))
{
	char online[8];
	int status;

	if (geteuid())
		skip("only root takes processors off");
	if (file_read(ONLINE, online, sizeof(online)) || *online != '1')
		skip("there is no second processor that can be taken off");
	counters_wait_none();
	status = child_status(run);
	CHECK_OK(file_write(ONLINE, "1"));
	CHECK_EQ((unsigned int)status, 0);
	counters_wait_none();
}

TEST(fibers_go_on)
{
	with_two_processors(wanderers_run);
}

TEST(attached_threads_go_on)
{
	with_two_processors(mapped_threads_run);
}
