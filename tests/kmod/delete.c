/* SPDX-License-Identifier: MIT */
/* FIBER_IOC_DELETE: what may go, and that its id never comes back. */
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

/* Each request that takes an id. */
static void check_gone(uint64_t id)
{
	CHECK_ERR(fiber_switch(id), ESRCH);
	CHECK_ERR(fiber_delete(id), ESRCH);
	CHECK_ERR(fiber_rename(id, "gone"), ESRCH);
	CHECK(!proc_exists(id));
}

TEST(new_fiber)
{
	uint64_t count = 0, id;

	convert(0);
	id = create(count_up, &count, 0, NULL);
	CHECK_OK(fiber_delete(id));
	check_gone(id);
	CHECK_EQ(count, 0);
}

TEST(suspended_fiber)
{
	uint64_t count = 0, id;

	convert(0);
	id = create(count_up, &count, FIBER_FLAG_FPU, NULL);
	CHECK_OK(fiber_switch(id));
	CHECK_OK(fiber_delete(id));
	check_gone(id);
	CHECK_EQ(count, 1);
}

TEST(unknown_ids_are_esrch)
{
	static const uint64_t unknown[] = {
		2, 512, 65537, (1 << 20) | 1, UINT64_C(1) << 31, UINT64_C(1) << 63, UINT64_MAX,
	};

	convert(0);
	for (unsigned int i = 0; i < ARRAY_SIZE(unknown); i++)
		check_gone(unknown[i]);
	/* Means oneself to FIBER_IOC_SET_NAME only. */
	CHECK_ERR(fiber_delete(0), ESRCH);
	CHECK_EQ(self(), 1);
}

TEST(id_never_comes_back)
{
	uint64_t count = 0, first, next;

	convert(0);
	first = create(count_up, &count, 0, "first");
	CHECK_EQ(first, 2);
	CHECK_OK(fiber_delete(first));
	/* The same slot, the next generation. */
	next = create(count_up, &count, 0, "next");
	CHECK_EQ(next, (UINT64_C(1) << FIBER_SLOT_BITS) | 2);
	check_gone(first);
	CHECK_EQ(count, 0);
	CHECK(proc_is(next, "Name", "next"));
	CHECK_OK(fiber_switch(next));
	CHECK_EQ(count, 1);
}

TEST(ids_of_many_generations_differ)
{
	uint64_t count = 0, last = 0;
	struct counters before;

	counters_wait_none();
	convert(0);
	before = counters_read();
	for (int i = 0; i < 3000; i++) {
		struct fiber_create args = {
			.size = sizeof(args),
			.entry = (uintptr_t)count_up,
			.arg = (uintptr_t)&count,
			.stack_start = 65536,
			.stack_size = STACK_SIZE,
			.flags = i & 1,
		};
		uint64_t id;

		CHECK_OK(try_create(&args, &id));
		CHECK(id > last);
		last = id;
		CHECK_OK(fiber_delete(id));
	}
	/* Freed, though not at once. */
	counters_wait(before);
}

static void delete_itself(void *arg)
{
	(void)arg;
	CHECK_ERR(fiber_delete(self()), EBUSY);
	CHECK_OK(fiber_switch(1));
}

TEST(running_fiber_is_ebusy)
{
	uint64_t id;

	convert(0);
	CHECK_ERR(fiber_delete(1), EBUSY);
	id = create(delete_itself, NULL, 0, NULL);
	CHECK_OK(fiber_switch(id));
	/* A refused deletion is no activation. */
	CHECK_EQ(proc_number(id, "Number of failed activations"), 0);
	CHECK_OK(fiber_delete(id));
}

static atomic_bool runs, may_leave;
static uint64_t other_home, occupied;

static void occupy(void *arg)
{
	(void)arg;
	atomic_store(&runs, true);
	WAIT_FOR(atomic_load(&may_leave));
	CHECK_OK(fiber_switch(other_home));
}

static void *other_thread(void *arg)
{
	other_home = convert(0);
	CHECK_OK(fiber_switch(occupied));
	return arg;
}

TEST(fibers_of_another_thread)
{
	pthread_t thread;

	convert(0);
	occupied = create(occupy, NULL, 0, NULL);
	thread = thread_start(other_thread, NULL);
	WAIT_FOR(atomic_load(&runs));
	CHECK_ERR(fiber_delete(occupied), EBUSY);
	/* Parked, but what the thread will come home to. */
	CHECK_ERR(fiber_delete(other_home), EPERM);
	CHECK(proc_is(other_home, "State", "suspended"));
	atomic_store(&may_leave, true);
	thread_join(thread);
	/* Now the thread has ended. */
	CHECK_OK(delete_when_free(other_home));
	check_gone(other_home);
	CHECK_OK(delete_when_free(occupied));
}

static void *delete_thread(void *arg)
{
	CHECK_OK(fiber_delete(*(uint64_t *)arg));
	CHECK_ERR(fiber_delete(*(uint64_t *)arg), ESRCH);
	CHECK_ERR(fiber_delete(1), EBUSY);
	return NULL;
}

TEST(thread_that_is_no_fiber_may_delete)
{
	uint64_t count = 0, id;

	convert(0);
	id = create(count_up, &count, 0, NULL);
	thread_join(thread_start(delete_thread, &id));
	check_gone(id);
}
