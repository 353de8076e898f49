/* SPDX-License-Identifier: MIT */
/* FIBER_IOC_SWITCH: who runs what where, its errors, and its counters. */
#include <stdatomic.h>
#include <unistd.h>

#include "harness.h"

static void count_up(void *arg)
{
	uint64_t *count = arg;

	for (;;) {
		++*count;
		CHECK_OK(fiber_switch(1));
	}
}

TEST(there_and_back)
{
	uint64_t count = 0, id;

	convert(0);
	id = create(count_up, &count, 0, NULL);
	for (uint64_t i = 1; i <= 100; i++) {
		CHECK_OK(fiber_switch(id));
		CHECK_EQ(count, i);
		CHECK_EQ(self(), 1);
	}
	CHECK_EQ(proc_number(id, "Number of activations"), 100);
	CHECK_EQ(proc_number(1, "Number of activations"), 100);
	CHECK_EQ(proc_number(id, "Number of failed activations"), 0);
}

static uint64_t inside;

static void note_self(void *arg)
{
	(void)arg;
	inside = self();
	CHECK(proc_is(inside, "State", "running"));
	CHECK(proc_is(inside, "Running", "yes"));
	CHECK(proc_is(1, "State", "suspended"));
	CHECK(proc_is(1, "Running", "no"));
	CHECK_OK(fiber_switch(1));
}

TEST(states_follow)
{
	uint64_t id;

	convert(0);
	id = create(note_self, NULL, 0, NULL);
	CHECK(proc_is(id, "State", "new"));
	CHECK_OK(fiber_switch(id));
	CHECK_EQ(inside, id);
	CHECK(proc_is(id, "State", "suspended"));
	CHECK(proc_is(1, "State", "running"));
	CHECK_EQ(proc_number(id, "Saved instruction pointer"), (uintptr_t)fiber_switch_resume);
}

#define RING 5
static uint64_t ring[RING];
static int ring_trace[3 * RING], ring_length;

static void ring_run(void *arg)
{
	uintptr_t place = (uintptr_t)arg;

	for (;;) {
		ring_trace[ring_length++] = (int)place;
		CHECK_OK(fiber_switch(ring_length == 3 * RING ? 1 : ring[(place + 1) % RING]));
	}
}

TEST(any_fiber_may_switch_to_any)
{
	convert(0);
	for (uintptr_t i = 0; i < RING; i++)
		ring[i] = create(ring_run, (void *)i, 0, NULL);
	CHECK_OK(fiber_switch(ring[0]));
	for (int i = 0; i < 3 * RING; i++)
		CHECK_EQ((unsigned int)ring_trace[i], (unsigned int)(i % RING));
}

TEST(unknown_ids_are_esrch)
{
	static const uint64_t unknown[] = {
		0, 3, 512, 513, 65536, 65537, 1 << 20, (1 << 20) | 2, UINT64_C(1) << 31,
		UINT64_C(1) << 32, (UINT64_C(1) << 32) | 2, UINT64_C(1) << 63,
		(UINT64_C(1) << 63) | 2, UINT64_MAX, (1 << 20) - 1,
	};
	uint64_t count = 0, id;

	convert(0);
	id = create(count_up, &count, 0, NULL);
	CHECK_EQ(id, 2);
	for (unsigned int i = 0; i < ARRAY_SIZE(unknown); i++)
		CHECK_ERR(fiber_switch(unknown[i]), ESRCH);
	CHECK_EQ(count, 0);
	CHECK_EQ(self(), 1);
	CHECK_EQ(proc_number(1, "Number of failed activations"), 0);
	CHECK_EQ(proc_number(2, "Number of failed activations"), 0);
}

static void switch_to_itself(void *arg)
{
	(void)arg;
	CHECK_ERR(fiber_switch(self()), EINVAL);
	CHECK_OK(fiber_switch(1));
}

TEST(itself_is_einval_and_counts)
{
	uint64_t id;

	convert(0);
	for (int i = 0; i < 3; i++)
		CHECK_ERR(fiber_switch(1), EINVAL);
	CHECK_EQ(proc_number(1, "Number of failed activations"), 3);
	CHECK_EQ(proc_number(1, "Number of activations"), 0);
	id = create(switch_to_itself, NULL, 0, NULL);
	CHECK_OK(fiber_switch(id));
	CHECK_EQ(proc_number(id, "Number of failed activations"), 1);
	CHECK_EQ(proc_number(id, "Number of activations"), 1);
}

static atomic_bool runs, may_leave;
static atomic_int runner_tid;

static void busy_run(void *arg)
{
	uint64_t *home = arg;

	atomic_store(&runner_tid, gettid());
	atomic_store(&runs, true);
	WAIT_FOR(atomic_load(&may_leave));
	CHECK_OK(fiber_switch(*home));
	check_failed(__FILE__, __LINE__, "resumed once too often");
}

static uint64_t runner_home, busy;

static void *runner(void *arg)
{
	runner_home = convert(0);
	CHECK_OK(fiber_switch(busy));
	return arg;
}

TEST(running_on_another_thread_is_ebusy_and_counts)
{
	pthread_t thread;
	char tid[16];

	convert(0);
	busy = create(busy_run, &runner_home, 0, NULL);
	thread = thread_start(runner, NULL);
	WAIT_FOR(atomic_load(&runs));
	snprintf(tid, sizeof(tid), "%d", atomic_load(&runner_tid));
	CHECK(proc_is(busy, "Thread id", tid));
	CHECK(proc_is(busy, "State", "running"));
	/* The creator's, not the runner's. */
	CHECK_EQ(proc_number(busy, "Parent thread id"), (unsigned int)gettid());

	for (int i = 0; i < 7; i++)
		CHECK_ERR(fiber_switch(busy), EBUSY);
	CHECK_EQ(self(), 1);
	CHECK_EQ(proc_number(busy, "Number of failed activations"), 7);
	CHECK_EQ(proc_number(busy, "Number of activations"), 1);
	CHECK_EQ(proc_number(1, "Number of failed activations"), 0);
	/* A living thread's own fiber is parked, so it could be taken; itself it is not. */
	CHECK(proc_is(runner_home, "State", "suspended"));
	atomic_store(&may_leave, true);
	thread_join(thread);
}

static __thread int local_value;

/* Not inlined: a caller that keeps the variable's address would be wrong after a switch. */
static __attribute__((noinline, noipa)) int local_read(void)
{
	return local_value;
}

static __attribute__((noinline, noipa)) void local_write(int value)
{
	local_value = value;
}

static pid_t tids[2];
static int locals[2];

static void nomad_run(void *arg)
{
	uint64_t *back = arg;

	for (int i = 0; i < 2; i++) {
		tids[i] = gettid();
		locals[i] = local_read();
		CHECK_OK(fiber_switch(*back));
	}
	check_failed(__FILE__, __LINE__, "resumed once too often");
}

static uint64_t nomad, nomad_back;

static void *second_host(void *arg)
{
	local_write(2);
	nomad_back = convert(0);
	CHECK_OK(fiber_switch(nomad));
	CHECK(tids[1] == gettid());
	return arg;
}

/* Row 6: any thread may take any fiber. What is thread-local follows the thread. */
TEST(suspended_here_resumed_there)
{
	local_write(1);
	nomad_back = convert(0);
	nomad = create(nomad_run, &nomad_back, 0, NULL);
	CHECK_OK(fiber_switch(nomad));
	CHECK(tids[0] == gettid());
	thread_join(thread_start(second_host, NULL));
	CHECK(tids[1] && tids[1] != tids[0]);
	CHECK(locals[0] == 1);
	CHECK(locals[1] == 2);
	CHECK_EQ(proc_number(nomad, "Number of activations"), 2);
}

#define MANY 1500

TEST(many_fibers)
{
	static uint64_t counts[MANY], ids[MANY];

	convert(0);
	for (int i = 0; i < MANY; i++)
		ids[i] = create(count_up, &counts[i], i % 3 ? 0 : FIBER_FLAG_FPU, NULL);
	for (int round = 1; round <= 2; round++)
		for (int i = MANY - 1; i >= 0; i--)
			CHECK_OK(fiber_switch(ids[i]));
	for (int i = 0; i < MANY; i++)
		CHECK_EQ(counts[i], 2);
	CHECK_EQ(proc_number(ids[MANY - 1], "Number of activations"), 2);
}
