/* SPDX-License-Identifier: MIT */
/*
 * Fiber-local storage: positions (per fiber, the report's) and keys (per
 * process, Windows').
 */
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>

#include "check.h"

static fiber_id_t home;
static int visits, destroyed;

TEST(positions)
{
	uint64_t index = POISON, value = POISON;

	CHECK_OK(fiber_convert(0, NULL));
	CHECK_ERR(fiber_fls_get(0, &value), EINVAL);
	CHECK_ERR(fiber_fls_set(0, 1), EINVAL);
	CHECK_ERR(fiber_fls_free(0), EINVAL);
	CHECK_ERR(fiber_fls_alloc(NULL), EINVAL);
	CHECK_OK(fiber_fls_alloc(&index));
	CHECK(index == 0);
	CHECK_ERR(fiber_fls_get(0, NULL), EINVAL);
	CHECK_OK(fiber_fls_get(0, &value));
	CHECK(value == 0);
	CHECK_OK(fiber_fls_set(0, UINT64_MAX));
	CHECK_OK(fiber_fls_get(0, &value));
	CHECK(value == UINT64_MAX);
	CHECK_OK(fiber_fls_alloc(&index));
	CHECK(index == 1);

	/* The lowest free one comes again, and empty. */
	CHECK_OK(fiber_fls_free(0));
	CHECK_ERR(fiber_fls_get(0, &value), EINVAL);
	CHECK_ERR(fiber_fls_free(0), EINVAL);
	CHECK_OK(fiber_fls_alloc(&index));
	CHECK(index == 0);
	CHECK_OK(fiber_fls_get(0, &value));
	CHECK(value == 0);
}

TEST(positions_out_of_range)
{
	static const uint64_t bad[] = {
		1, 1023, 1024, 1025, 4096, UINT32_MAX, (uint64_t)1 << 32, (uint64_t)1 << 61,
		UINT64_MAX / 8, UINT64_MAX - 1, UINT64_MAX,
	};
	uint64_t index, value = POISON;
	size_t i;

	CHECK_OK(fiber_convert(0, NULL));
	CHECK_OK(fiber_fls_alloc(&index));
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CHECK_ERR(fiber_fls_get(bad[i], &value), EINVAL);
		CHECK_ERR(fiber_fls_set(bad[i], 1), EINVAL);
		CHECK_ERR(fiber_fls_free(bad[i]), EINVAL);
	}
	CHECK(value == POISON);
}

TEST(all_positions)
{
	uint64_t index = POISON, value, i;

	CHECK_OK(fiber_convert(0, NULL));
	for (i = 0; i < 1024; i++) {
		CHECK_OK(fiber_fls_alloc(&index));
		CHECK(index == i);
		CHECK_OK(fiber_fls_set(i, ~i));
	}
	index = POISON;
	CHECK_ERR(fiber_fls_alloc(&index), EAGAIN);
	CHECK(index == POISON);
	for (i = 0; i < 1024; i++) {
		CHECK_OK(fiber_fls_get(i, &value));
		CHECK(value == ~i);
	}
	CHECK_OK(fiber_fls_free(777));
	CHECK_OK(fiber_fls_alloc(&index));
	CHECK(index == 777);
}

/* One position, at first none; its value survives the switches of all others. */
static void keeps_a_value(void *arg)
{
	uint64_t index, value, mine = (uintptr_t)arg;

	CHECK_ERR(fiber_fls_get(0, &value), EINVAL);
	CHECK_OK(fiber_fls_alloc(&index));
	CHECK(index == 0);
	for (;;) {
		CHECK_OK(fiber_fls_set(index, mine));
		CHECK_OK(fiber_switch(home));
		CHECK_OK(fiber_fls_get(index, &value));
		CHECK(value == mine);
		mine += 1000;
		visits++;
	}
}

TEST(positions_are_each_fibers_own)
{
	fiber_id_t id[8];
	uint64_t value, index;
	uintptr_t i;

	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < 3; i++)
		CHECK_OK(fiber_fls_alloc(&index));
	CHECK_OK(fiber_fls_set(0, 7));
	for (i = 0; i < 8; i++)
		CHECK_OK(fiber_create(&id[i], keeps_a_value, (void *)(i + 1), NULL));
	for (i = 0; i < 80; i++)
		CHECK_OK(fiber_switch(id[i % 8]));
	CHECK(visits == 72);
	CHECK_OK(fiber_fls_get(0, &value));
	CHECK(value == 7);
}

static void counts(void *value)
{
	CHECK(value == &visits || value == &home);
	destroyed++;
}

static fiber_key_t shared;

static void sets_shared(void *arg)
{
	void *value = &value;

	CHECK_OK(fiber_key_get(shared, &value));
	CHECK(!value);
	CHECK_OK(fiber_key_set(shared, arg));
	CHECK_OK(fiber_switch(home));
	CHECK_OK(fiber_key_get(shared, &value));
	CHECK(value == arg);
	CHECK_OK(fiber_switch(home));
}

TEST(a_key_has_a_value_for_each_fiber)
{
	fiber_id_t a, b;
	void *value;

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_key_create(&shared, counts));
	CHECK_OK(fiber_key_set(shared, &shared));
	CHECK_OK(fiber_create(&a, sets_shared, &visits, NULL));
	CHECK_OK(fiber_create(&b, sets_shared, &home, NULL));
	CHECK_OK(fiber_switch(a));
	CHECK_OK(fiber_switch(b));
	CHECK_OK(fiber_switch(a));
	CHECK_OK(fiber_switch(b));
	CHECK_OK(fiber_key_get(shared, &value));
	CHECK(value == &shared);
	CHECK_OK(fiber_key_set(shared, NULL));

	/* Deleting the fiber, and deleting the key, destroy each value once. */
	CHECK_OK(fiber_delete(a));
	CHECK(destroyed == 1);
	CHECK_OK(fiber_key_delete(shared));
	CHECK(destroyed == 2);
	CHECK_OK(fiber_delete(b));
	CHECK(destroyed == 2);
}

TEST(a_key_made_anew_is_empty)
{
	fiber_key_t again;
	void *value;

	CHECK_OK(fiber_convert(0, NULL));
	CHECK_OK(fiber_key_create(&shared, NULL));
	CHECK_OK(fiber_key_set(shared, &home));
	CHECK_OK(fiber_key_delete(shared));
	CHECK_ERR(fiber_key_get(shared, &value), EINVAL);
	CHECK_ERR(fiber_key_set(shared, &home), EINVAL);
	CHECK_ERR(fiber_key_delete(shared), EINVAL);
	CHECK_OK(fiber_key_create(&again, NULL));
	CHECK(again == shared);
	CHECK_OK(fiber_key_get(again, &value));
	CHECK(!value);
}

TEST(keys_of_no_fiber_and_of_no_key)
{
	void *value = &home;
	fiber_key_t key;

	CHECK_ERR(fiber_key_create(NULL, NULL), EINVAL);
	CHECK_OK(fiber_key_create(&key, NULL));
	CHECK_ERR(fiber_key_get(key, &value), EPERM);
	CHECK_ERR(fiber_key_set(key, &home), EPERM);
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_ERR(fiber_key_get(key, NULL), EINVAL);
	CHECK_ERR(fiber_key_get(key + 1, &value), EINVAL);
	CHECK_ERR(fiber_key_get(FIBER_KEYS_MAX, &value), EINVAL);
	CHECK_ERR(fiber_key_set(UINT32_MAX, NULL), EINVAL);
	CHECK_ERR(fiber_key_delete(FIBER_KEYS_MAX), EINVAL);
	CHECK(value == &home);
}

TEST(all_keys)
{
	fiber_key_t key, i;
	void *value;

	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < FIBER_KEYS_MAX; i++) {
		CHECK_OK(fiber_key_create(&key, counts));
		CHECK_OK(fiber_key_set(key, &visits));
	}
	CHECK_ERR(fiber_key_create(&key, NULL), EAGAIN);
	CHECK_OK(fiber_key_get(FIBER_KEYS_MAX - 1, &value));
	CHECK(value == &visits);
	CHECK_OK(fiber_revert());
	CHECK(destroyed == FIBER_KEYS_MAX);
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_OK(fiber_key_get(0, &value));
	CHECK(!value);
}

/* A destructor may use all of the API, deleting its own key included. */
static void deletes_its_key(void *value)
{
	CHECK(value == &visits);
	destroyed++;
	CHECK_OK(fiber_key_delete(shared));
}

TEST(a_destructor_uses_the_api)
{
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_key_create(&shared, deletes_its_key));
	CHECK_OK(fiber_key_set(shared, &visits));
	CHECK_OK(fiber_revert());
	CHECK(destroyed == 1);
}

static fiber_key_t stubborn;
static int stubbornness;
static fiber_id_t reborn;

static void sets_it_again(void *value)
{
	destroyed++;
	if (--stubbornness)
		CHECK_RESULT(fiber_key_set(stubborn, value), 0);
}

static void is_born_without(void *arg)
{
	void *value;

	CHECK_RESULT(fiber_key_get(stubborn, &value), 0);
	CHECK(!value);
	CHECK_RESULT(fiber_key_set(stubborn, arg), 0);
	visits++;
}

static void *ends_there(void *arg)
{
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_RESULT(switch_when_free(reborn), 0);
	return arg;
}

TEST(a_destructor_that_sets_its_key_again)
{
	static const int times[][2] = {
		{ 1, 1 }, { 3, 3 }, { INT_MAX, PTHREAD_DESTRUCTOR_ITERATIONS },
	};
	unsigned int i;

	CHECK_OK(fiber_key_create(&stubborn, sets_it_again));
	CHECK_OK(fiber_create(&reborn, is_born_without, &visits, NULL));
	for (i = 0; i < sizeof(times) / sizeof(*times); i++) {
		destroyed = 0;
		stubbornness = times[i][0];
		thread_join(thread_start(ends_there, NULL));
		CHECK(visits == (int)i + 1 && destroyed == times[i][1]);
	}
	CHECK_RESULT(delete_when_free(reborn), 0);
}

static void deletes_its_fiber(void *value)
{
	fiber_id_t id;

	(void)value;
	destroyed++;
	CHECK_OK(fiber_self(&id));
	CHECK_OK(fiber_delete(id));
}

static void sets_both(void *arg)
{
	(void)arg;
	CHECK_RESULT(fiber_key_set(stubborn, &visits), 0);
	CHECK_RESULT(fiber_key_set(shared, &visits), 0);
}

/* It ends anyway, and the destructors of the other keys still run. */
TEST(a_destructor_deletes_the_fiber_that_ends)
{
	struct fiber_attr attr = FIBER_ATTR_INIT;
	fiber_id_t id;

	CHECK_OK(fiber_key_create(&stubborn, deletes_its_fiber));
	CHECK_OK(fiber_key_create(&shared, counts));
	CHECK_OK(fiber_create(&reborn, sets_both, NULL, NULL));
	thread_join(thread_start(ends_there, NULL));
	CHECK(destroyed == 2);
	CHECK_ERR(fiber_switch(reborn), EPERM);
	CHECK_OK(fiber_convert(0, &home));
	CHECK_ERR(fiber_switch(reborn), ESRCH);

	attr.flags = FIBER_RETURNS;
	CHECK_OK(fiber_create(&id, sets_both, NULL, &attr));
	CHECK_OK(fiber_switch(id));
	CHECK(destroyed == 4);
	CHECK_ERR(fiber_switch(id), ESRCH);
}

/* A round: one thread creates a key and deletes it, while another one sets it. */
#define ROUNDS	20000

static _Atomic fiber_key_t raced;
static _Atomic int round_set, round_done, round_destroyed;

static void counts_round(void *value)
{
	CHECK(value == &raced);
	round_destroyed++;
}

static void *sets_what_is_deleted(void *arg)
{
	void *value;
	int round, err;

	CHECK_OK(fiber_convert(0, NULL));
	for (round = 1; round <= ROUNDS; round++) {
		while (round_set < round)
			sched_yield();
		/* Nothing is left of the rounds before. */
		err = fiber_key_get(raced, &value);
		CHECK(err == EINVAL || !value);
		err = fiber_key_set(raced, (void *)&raced);
		CHECK(err == 0 || err == EINVAL);
		round_done = err ? -round : round;
	}
	return arg;
}

TEST(a_set_while_its_key_is_deleted)
{
	pthread_t thread;
	fiber_key_t key;
	int round;

	CHECK_OK(fiber_convert(0, NULL));
	thread = thread_start(sets_what_is_deleted, NULL);
	for (round = 1; round <= ROUNDS; round++) {
		CHECK_OK(fiber_key_create(&key, counts_round));
		raced = key;
		round_destroyed = 0;
		round_set = round;
		CHECK_OK(fiber_key_delete(key));
		while (round_done != round && round_done != -round)
			sched_yield();
		CHECK(round_destroyed == (round_done > 0));
	}
	thread_join(thread);
}

static void is_not_destroyed(void *value)
{
	(void)value;
	destroyed++;
}

static _Atomic int runs;

static void sets_and_runs(void *arg)
{
	CHECK_OK(fiber_key_set(stubborn, arg));
	for (runs = 1; runs == 1;)
		sleep_ms(1);
}

static void *runs_on(void *arg)
{
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_RESULT(fiber_switch(reborn), 0);
	return arg;
}

static void deletes_what_the_other_ran(void)
{
	CHECK_OK(fiber_delete(reborn));
	CHECK(!destroyed);
}

TEST(a_child_destroys_no_values_of_other_threads)
{
	pthread_t thread;

	not_on("kernel", "the child has no fibers");
	CHECK_OK(fiber_key_create(&stubborn, is_not_destroyed));
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_OK(fiber_create(&reborn, sets_and_runs, &runs, NULL));
	thread = thread_start(runs_on, NULL);
	while (!runs)
		sleep_ms(1);
	CHECK(in_child(deletes_what_the_other_ran) == 0);
	runs = 2;
	thread_join(thread);
	CHECK(destroyed == 1);
}
