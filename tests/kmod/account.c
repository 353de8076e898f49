/* SPDX-License-Identifier: MIT */
/*
 * Execution time: CPU time only, in nanoseconds, and the times of a thread's
 * fibers add up to the thread's.
 *
 * Under an emulator clocks are coarse and the host takes CPUs away, so amounts
 * are compared with the kernel's own CPU time of the thread, never with a wall
 * clock, and each figure is bracketed by two readings of it.
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

#define MS 1000000ULL

static uint64_t cpu_ns(uint64_t id)
{
	return proc_number(id, "CPU time ns");
}

static void burner(void *arg)
{
	for (;;) {
		burn_ns(*(uint64_t *)arg);
		CHECK_OK(fiber_switch(1));
	}
}

TEST(time_goes_to_the_fiber_that_ran)
{
	uint64_t little = 20 * MS, much = 80 * MS, id[2], before, after;

	convert(0);
	id[0] = create(burner, &little, 0, NULL);
	id[1] = create(burner, &much, 0, NULL);
	CHECK_EQ(cpu_ns(id[0]), 0);
	for (int i = 0; i < 2; i++) {
		before = thread_cpu_ns();
		CHECK_OK(fiber_switch(id[i]));
		after = thread_cpu_ns();
		CHECK(cpu_ns(id[i]) >= (i ? much : little) * 98 / 100);
		CHECK(cpu_ns(id[i]) <= (after - before) * 102 / 100);
	}
}

static void sleeper(void *arg)
{
	struct timespec time = { 0, 200 * MS };

	(void)arg;
	for (;;) {
		/* The sleep is what is measured. */
		while (nanosleep(&time, &time))
			;
		CHECK_OK(fiber_switch(1));
	}
}

TEST(sleeping_fiber_gains_nothing)
{
	uint64_t id, before, used;

	convert(0);
	id = create(sleeper, NULL, 0, NULL);
	before = thread_cpu_ns();
	CHECK_OK(fiber_switch(id));
	used = thread_cpu_ns() - before;
	CHECK(cpu_ns(id) <= used + used / 50);
	/* It slept 200 ms; a clock on the wall would show them. */
	CHECK(cpu_ns(id) < 100 * MS);
}

TEST(suspended_fiber_gains_nothing)
{
	uint64_t amount = 10 * MS, id, before;

	convert(0);
	id = create(burner, &amount, 0, NULL);
	CHECK_OK(fiber_switch(id));
	before = cpu_ns(id);
	CHECK(before > 0);
	burn_ns(30 * MS);
	CHECK_EQ(cpu_ns(id), before);
}

TEST(running_fiber_includes_its_present_part)
{
	uint64_t before, start, shown;

	convert(0);
	before = thread_cpu_ns();
	start = cpu_ns(1);
	burn_ns(50 * MS);
	shown = cpu_ns(1) - start;
	CHECK(shown >= 49 * MS);
	CHECK(shown <= (thread_cpu_ns() - before) * 102 / 100);
	/* Nobody has switched. */
	CHECK_EQ(proc_number(1, "Number of activations"), 0);
}

static atomic_bool look_done;
static uint64_t looks[2];

static void *look_from_outside(void *arg)
{
	looks[0] = cpu_ns(1);
	WAIT_FOR(cpu_ns(1) >= looks[0] + 20 * MS);
	looks[1] = cpu_ns(1);
	atomic_store(&look_done, true);
	return arg;
}

TEST(running_fiber_grows_for_other_threads_too)
{
	pthread_t thread;

	convert(0);
	thread = thread_start(look_from_outside, NULL);
	while (!atomic_load(&look_done))
		burn_ns(MS);
	thread_join(thread);
	CHECK(looks[1] > looks[0]);
	CHECK(looks[1] <= thread_cpu_ns() * 102 / 100);
}

/* Competes for the CPU until it is killed, or this process ends. */
static pid_t neighbour_start(int cpu)
{
	pid_t parent = getpid(), pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		pin_to_cpu(cpu);
		while (getppid() == parent)
			burn_ns(5 * MS);
		_exit(0);
	}
	return pid;
}

static void neighbour_stop(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid);
}

#define WORKERS 4

static uint64_t worker_ids[WORKERS];
static uint64_t worker_amounts[WORKERS];

/*
 * The thread's fibers, its own included, against its CPU time since @start. The
 * readings are not made at one moment, so it lies between two.
 */
static void check_sum(uint64_t start)
{
	uint64_t lowest, highest, sum = 0;

	lowest = thread_cpu_ns() - start;
	for (int i = 0; i < WORKERS; i++)
		sum += cpu_ns(worker_ids[i]);
	sum += cpu_ns(1);
	highest = thread_cpu_ns() - start;
	if (sum < lowest * 98 / 100 || sum > highest * 102 / 100)
		check_failed(__FILE__, __LINE__, "fibers %llu ns, thread %llu to %llu ns",
			     (unsigned long long)sum, (unsigned long long)lowest,
			     (unsigned long long)highest);
}

static void workers_run(int rounds, uint64_t slice)
{
	uint64_t start;

	/* Before: what the conversion itself takes is nobody's. */
	convert(0);
	start = thread_cpu_ns();
	for (int i = 0; i < WORKERS; i++) {
		worker_amounts[i] = slice * (unsigned int)(i + 1);
		worker_ids[i] = create(burner, &worker_amounts[i], i & 1, NULL);
	}
	for (int round = 0; round < rounds; round++)
		for (int i = 0; i < WORKERS; i++)
			CHECK_OK(fiber_switch(worker_ids[i]));
	check_sum(start);
}

TEST(sum_is_the_threads_time)
{
	workers_run(10, 4 * MS);
}

TEST(sum_is_the_threads_time_beside_a_busy_neighbour)
{
	pid_t neighbour;

	pin_to_cpu(0);
	neighbour = neighbour_start(0);
	workers_run(15, 3 * MS);
	neighbour_stop(neighbour);
}

/* The report cut each slice to whole milliseconds: 0 each. */
TEST(slices_of_microseconds_add_up)
{
	workers_run(1500, 5000);
}

static void sleep_and_work(void *arg)
{
	struct timespec time = { 0, 300000 };

	(void)arg;
	for (;;) {
		nanosleep(&time, NULL);
		burn_ns(200000);
		CHECK_OK(fiber_switch(1));
	}
}

/* The thread goes off the CPU in the middle of most slices. */
TEST(sum_holds_for_fibers_that_sleep)
{
	uint64_t start;

	convert(0);
	start = thread_cpu_ns();
	for (int i = 0; i < WORKERS; i++)
		worker_ids[i] = create(sleep_and_work, NULL, 0, NULL);
	for (int round = 0; round < 150; round++)
		for (int i = 0; i < WORKERS; i++)
			CHECK_OK(fiber_switch(worker_ids[i]));
	check_sum(start);
}

static uint64_t guest_home, guest_id, guest_amount = 40 * MS, guest_used;

static void guest_burner(void *arg)
{
	(void)arg;
	for (;;) {
		burn_ns(guest_amount);
		CHECK_OK(fiber_switch(guest_home));
	}
}

static void *guest_thread(void *arg)
{
	uint64_t before;

	guest_home = convert(0);
	before = thread_cpu_ns();
	CHECK_OK(fiber_switch(guest_id));
	guest_used = thread_cpu_ns() - before;
	return arg;
}

/* A fiber collects from all threads that run it. */
TEST(time_on_several_threads_adds_up)
{
	uint64_t before, used;

	guest_home = convert(0);
	guest_id = create(guest_burner, NULL, 0, NULL);
	before = thread_cpu_ns();
	CHECK_OK(fiber_switch(guest_id));
	used = thread_cpu_ns() - before;
	thread_join(thread_start(guest_thread, NULL));
	used += guest_used;
	CHECK(cpu_ns(guest_id) >= 2 * guest_amount * 98 / 100);
	CHECK(cpu_ns(guest_id) <= used * 102 / 100);
}

TEST(longest_run_is_one_run)
{
	uint64_t amount, id, longest, used, before;

	convert(0);
	id = create(burner, &amount, 0, NULL);
	amount = 5 * MS;
	CHECK_OK(fiber_switch(id));
	amount = 40 * MS;
	before = thread_cpu_ns();
	CHECK_OK(fiber_switch(id));
	used = thread_cpu_ns() - before;
	amount = 5 * MS;
	CHECK_OK(fiber_switch(id));
	longest = proc_number(id, "Longest run ns");
	CHECK(longest >= 40 * MS * 98 / 100);
	CHECK(longest <= used * 102 / 100);
	CHECK(cpu_ns(id) >= longest + 2 * amount * 98 / 100);
}

static void note_longest(void *arg)
{
	uint64_t *shown = arg;

	burn_ns(30 * MS);
	*shown = proc_number(self(), "Longest run ns");
	CHECK_OK(fiber_switch(1));
}

TEST(longest_run_may_be_the_present_one)
{
	uint64_t shown = 0;

	convert(0);
	CHECK_OK(fiber_switch(create(note_longest, &shown, 0, NULL)));
	CHECK(shown >= 29 * MS);
}

TEST(milliseconds_are_the_nanoseconds)
{
	uint64_t amount = 25 * MS, id, ms;
	char value[PROC_LINE], wanted[PROC_LINE];

	convert(0);
	id = create(burner, &amount, 0, NULL);
	CHECK_OK(fiber_switch(id));
	ms = cpu_ns(id) / MS;
	CHECK(ms >= 24);
	CHECK(proc_line(getpid(), id, "Total execution time", value));
	snprintf(wanted, sizeof(wanted), "%llu ms", (unsigned long long)ms);
	CHECK(proc_is(id, "Total execution time", wanted));
}

TEST(last_switch_is_measured_on_the_wall)
{
	uint64_t amount = MS, id, left, shown, now;

	convert(0);
	id = create(burner, &amount, 0, NULL);
	left = now_ns();
	CHECK_OK(fiber_switch(id));
	burn_ns(20 * MS);
	shown = proc_number(id, "Last switch ns ago");
	now = now_ns();
	CHECK(shown >= 19 * MS);
	/* The clocks differ a little, and so may two CPUs'. */
	CHECK(shown <= now - left + MS);
	/* This fiber has been running since then. */
	CHECK(proc_number(1, "Last switch ns ago") >= 19 * MS);
}

TEST(time_before_the_conversion_is_nobodys)
{
	uint64_t start, shown;

	device = device_open();
	burn_ns(60 * MS);
	start = thread_cpu_ns();
	convert(0);
	shown = cpu_ns(1);
	CHECK(shown <= (thread_cpu_ns() - start) * 102 / 100);
}
