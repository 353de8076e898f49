/* SPDX-License-Identifier: MIT */
/*
 * Fibers that end without their thread, resumers, and values that travel.
 *
 *	main --transfer--> outer --transfer--> inner
 *	main <---yield---- outer <---yield---- inner
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "check.h"

static fiber_id_t home, outer, inner;
static fiber_key_t key;
static int destroyed, returned;

static void counts_destroyed(void *value)
{
	*(int *)value += 1;
}

static fiber_id_t create(void (*function)(void *), void *arg)
{
	struct fiber_attr attr = FIBER_ATTR_INIT;
	fiber_id_t id;

	attr.flags = FIBER_RETURNS;
	CHECK_RESULT(fiber_create(&id, function, arg, &attr), 0);
	return id;
}

static fiber_id_t resumer(void)
{
	fiber_id_t id;

	CHECK_RESULT(fiber_resumer(&id), 0);
	return id;
}

/* Yields 1, 2, ... and returns after `arg` of them. */
static void counts(void *arg)
{
	intptr_t i;

	CHECK(fiber_received() == &inner);
	for (i = 1; i <= (intptr_t)arg; i++)
		CHECK_RESULT(fiber_yield((void *)i), 0);
}

/* Yields what an inner one yields, and sums it up. */
static void sums(void *arg)
{
	intptr_t sum = 0;

	(void)arg;
	CHECK(!fiber_received());
	inner = create(counts, (void *)3);
	for (;;) {
		CHECK_RESULT(fiber_transfer(inner, &inner), 0);
		if (!fiber_received())
			break;
		sum += (intptr_t)fiber_received();
		CHECK(resumer() == home);
		CHECK_RESULT(fiber_yield((void *)sum), 0);
	}
	CHECK_RESULT(fiber_switch(inner), ESRCH);
}

TEST(generators_nest_as_calls_do)
{
	static const intptr_t sums_of[] = { 1, 3, 6, 0 };
	fiber_id_t id = POISON;
	unsigned int i;

	CHECK_ERR(fiber_resumer(&id), EPERM);
	CHECK_ERR(fiber_yield(NULL), EPERM);
	CHECK(!fiber_received());
	CHECK_OK(fiber_convert(0, &home));
	CHECK_ERR(fiber_resumer(NULL), EINVAL);
	CHECK_ERR(fiber_resumer(&id), ESRCH);
	CHECK_ERR(fiber_yield(NULL), ESRCH);
	CHECK(id == POISON && !fiber_received());
	outer = create(sums, NULL);
	for (i = 0; i < 4; i++) {
		CHECK_OK(fiber_switch(outer));
		CHECK(fiber_received() == (void *)sums_of[i]);
	}
	CHECK_ERR(fiber_transfer(outer, NULL), ESRCH);
	/* Nobody has resumed it but by yielding. */
	CHECK_ERR(fiber_resumer(&id), ESRCH);
}

static void sets_a_key(void *arg)
{
	CHECK_RESULT(fiber_key_set(key, arg), 0);
	returned++;
}

/* Its memory is there for the next one, and its key's values are destroyed on it. */
TEST(thousands_return)
{
	fiber_id_t id;
	int i;

	CHECK_OK(fiber_key_create(&key, counts_destroyed));
	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < 5000; i++) {
		id = create(sets_a_key, &destroyed);
		CHECK_OK(fiber_switch(id));
		CHECK(destroyed == i + 1 && returned == i + 1);
		CHECK_ERR(fiber_switch(id), ESRCH);
	}
	/* One slot was enough for all: ids have the number of the slot in their low bits. */
	CHECK((id & 0xfffff) < 8);
}

static void body_that_deletes_itself(void *arg)
{
	fiber_id_t self;

	(void)arg;
	returned++;
	CHECK_RESULT(fiber_self(&self), 0);
	CHECK_RESULT(fiber_delete(self), 0);
	check_failed(__FILE__, __LINE__, "it came back");
}

TEST(deletes_itself_and_its_resumer_goes_on)
{
	CHECK_OK(fiber_convert(0, &home));
	CHECK_ERR(fiber_delete(home), EPERM);
	outer = create(body_that_deletes_itself, NULL);
	CHECK_OK(fiber_switch(outer));
	CHECK_ERR(fiber_switch(outer), ESRCH);
	CHECK(returned == 1);
}

static void *runs_outer(void *arg)
{
	(void)arg;
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_RESULT(fiber_switch(outer), 0);
	check_failed(__FILE__, __LINE__, "its thread went on");
}

/* As Windows' DeleteFiber() does. */
TEST(deletes_itself_and_its_thread_ends)
{
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&outer, body_that_deletes_itself, NULL, NULL));
	thread_join(thread_start(runs_outer, NULL));
	CHECK_ERR(fiber_switch(outer), ESRCH);
	CHECK_ERR(fiber_delete(outer), ESRCH);
	CHECK(returned == 1);
	/* With engine `kernel` it is deleted when another one is made. */
	CHECK_OK(fiber_create(&outer, body_that_deletes_itself, NULL, NULL));
	CHECK_OK(fiber_delete(outer));
}

static void deletes_its_resumer(void *arg)
{
	(void)arg;
	CHECK_RESULT(fiber_delete(resumer()), 0);
}

static void resumes_inner(void *arg)
{
	(void)arg;
	fiber_switch(inner);
	check_failed(__FILE__, __LINE__, "it was deleted");
}

TEST(without_its_resumer_the_threads_own_fiber_goes_on)
{
	CHECK_OK(fiber_convert(0, &home));
	inner = create(deletes_its_resumer, NULL);
	outer = create(resumes_inner, NULL);
	CHECK_OK(fiber_switch(outer));
	CHECK_ERR(fiber_switch(inner), ESRCH);
	CHECK_ERR(fiber_switch(outer), ESRCH);
}

static void *takes_home(void *arg)
{
	(void)arg;
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_RESULT(fiber_switch(home), 0);
	/* It has come back: the first thread can end, and the fiber that it ran with it. */
	while (fiber_switch(outer) != ESRCH)
		sleep_ms(1);
	exit(0);
}

static void waits_for_home_to_go(void *arg)
{
	(void)arg;
	thread_start(takes_home, NULL);
	while (stat_of(home).state != FIBER_RUNNING)
		sleep_ms(1);
}

TEST(with_nobody_to_go_on_the_thread_ends)
{
	CHECK_OK(fiber_convert(0, &home));
	outer = create(waits_for_home_to_go, NULL);
	CHECK_RESULT(fiber_switch(outer), 0);
	/* On the other thread, while the first one waits for this stack. */
	sleep_ms(50);
	CHECK_RESULT(fiber_yield(NULL), 0);
}

static void counts_free(void *memory, size_t size, void *data)
{
	(void)size;
	free(memory);
	++*(int *)data;
}

static void *allocates(size_t size, void *data)
{
	(void)data;
	return malloc(size);
}

TEST(own_memory_is_returned)
{
	struct fiber_attr attr = FIBER_ATTR_INIT;
	int freed = 0;

	CHECK_OK(fiber_convert(0, &home));
	attr.flags = FIBER_RETURNS;
	attr.stack_alloc = allocates;
	attr.stack_free = counts_free;
	attr.stack_data = &freed;
	CHECK_OK(fiber_create(&outer, counts, (void *)0, &attr));
	CHECK_OK(fiber_transfer(outer, &inner));
	CHECK(freed == 1);
}

static _Atomic int turns;

static void races(void *arg)
{
	atomic_fetch_add((_Atomic int *)arg, 1);
}

static _Atomic fiber_id_t shared;

static void *resumes_shared(void *arg)
{
	int i;

	(void)arg;
	CHECK_OK(fiber_convert(0, NULL));
	for (i = 0; i < 20000; i++) {
		fiber_id_t mine, now = shared;
		int err = fiber_switch(now);

		if (err == ESRCH) {
			mine = create(races, &turns);
			if (!atomic_compare_exchange_strong(&shared, &now, mine))
				CHECK_RESULT(fiber_delete(mine), 0);
		} else if (err) {
			CHECK_RESULT(err, EBUSY);
		}
	}
	return NULL;
}

/* Threads resume fibers that are about to end: each runs once. */
TEST(rivals_for_fibers_that_end)
{
	pthread_t threads[3];
	int i;

	for (i = 0; i < 3; i++)
		threads[i] = thread_start(resumes_shared, NULL);
	for (i = 0; i < 3; i++)
		thread_join(threads[i]);
	CHECK(turns > 100);
}
