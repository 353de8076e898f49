/* SPDX-License-Identifier: MIT */
/* Times of fibers: right within 0.5 %, whoever asks, and never less than was told before. */
#include <stdbool.h>
#include <time.h>

#include "check.h"

static fiber_id_t root, other;
static volatile int started, stop;

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	CHECK(!clock_gettime(clock, &now));
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The clock that the engine measures by, and the fiber's time. */
static clockid_t clock_of(const struct fiber_stat *stat)
{
	return stat->cpu_time == FIBER_TIME_UNKNOWN ? CLOCK_MONOTONIC_RAW : CLOCK_THREAD_CPUTIME_ID;
}

static uint64_t time_of(const struct fiber_stat *stat)
{
	return stat->cpu_time == FIBER_TIME_UNKNOWN ? stat->run_time : stat->cpu_time;
}

static void spin(clockid_t clock, uint64_t ns)
{
	uint64_t begin = clock_ns(clock);

	while (clock_ns(clock) - begin < ns)
		;
}

/* A look at the calling fiber, between two at its thread's clock. */
struct look {
	uint64_t before, time, after;
};

static struct look look_at(fiber_id_t id)
{
	struct fiber_stat stat = stat_of(id);
	clockid_t clock = clock_of(&stat);
	struct look look;

	look.before = clock_ns(clock);
	stat = stat_of(id);
	look.time = time_of(&stat);
	look.after = clock_ns(clock);
	return look;
}

static void check_passed(const struct look *first, const struct look *last)
{
	uint64_t passed = last->time - first->time;
	uint64_t least = last->before - first->after, most = last->after - first->before;

	CHECK(passed + most / 200 >= least && passed <= most + most / 200);
}

static void spins_and_returns(void *unused)
{
	(void)unused;
	for (;;) {
		struct fiber_stat stat = stat_of(other);

		spin(clock_of(&stat), 100000000);
		CHECK_OK(fiber_switch(root));
	}
}

TEST(times_are_right_within_half_a_percent)
{
	struct look first, last, sum[2];
	struct fiber_stat stat;
	uint64_t before;

	CHECK_OK(fiber_convert(0, &root));
	CHECK_OK(fiber_create(&other, spins_and_returns, NULL, NULL));
	first = look_at(root);
	stat = stat_of(root);
	spin(clock_of(&stat), 200000000);
	last = look_at(root);
	check_passed(&first, &last);
	/* And so does what both fibers ran. */
	stat = stat_of(other);
	before = time_of(&stat);
	sum[0] = look_at(root);
	CHECK_OK(fiber_switch(other));
	sum[1] = look_at(root);
	stat = stat_of(other);
	sum[1].time += time_of(&stat) - before;
	check_passed(&sum[0], &sum[1]);
	CHECK(stat.longest_run <= time_of(&stat) && stat.longest_run >= 99000000);
}

static void switches_back(void *unused)
{
	(void)unused;
	for (;;)
		CHECK_OK(fiber_switch(root));
}

/* Now and then off the CPU, on either fiber. */
static void *switches(void *unused)
{
	unsigned int turn;

	(void)unused;
	CHECK_OK(fiber_convert(0, &root));
	CHECK_OK(fiber_create(&other, switches_back, NULL, NULL));
	__atomic_store_n(&started, 1, __ATOMIC_SEQ_CST);
	for (turn = 1; !__atomic_load_n(&stop, __ATOMIC_SEQ_CST); turn++) {
		CHECK_OK(fiber_switch(other));
		if (!(turn % 64))
			nanosleep(&(struct timespec) { .tv_nsec = 1000 }, NULL);
	}
	return NULL;
}

TEST(no_time_goes_back)
{
	struct fiber_stat before[2], now;
	pthread_t thread = thread_start(switches, NULL);
	fiber_id_t ids[2];
	int i;

	wait_for(&started);
	ids[0] = root;
	ids[1] = other;
	before[0] = stat_of(root);
	before[1] = stat_of(other);
	for (i = 0; i < 40000; i++) {
		struct fiber_stat *last = &before[i % 2];

		now = stat_of(ids[i % 2]);
		CHECK(time_of(&now) >= time_of(last));
		CHECK(now.longest_run >= last->longest_run);
		*last = now;
	}
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	thread_join(thread);
}

static void *sleeps(void *unused)
{
	(void)unused;
	CHECK_OK(fiber_convert(0, &root));
	__atomic_store_n(&started, 1, __ATOMIC_SEQ_CST);
	wait_for(&stop);
	return NULL;
}

TEST(a_fiber_that_sleeps_elsewhere_uses_no_time)
{
	pthread_t thread = thread_start(sleeps, NULL);
	struct fiber_stat first, last;

	wait_for(&started);
	not_on("local", "nobody knows when a thread is off the CPU");
	first = stat_of(root);
	sleep_ms(500);
	last = stat_of(root);
	CHECK(last.cpu_time - first.cpu_time < 250000000);
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	thread_join(thread);
}
