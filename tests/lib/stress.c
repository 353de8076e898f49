/* SPDX-License-Identifier: MIT */
/* Threads that take each other's fibers, at random and for long. */
#include <stdbool.h>
#include <stdlib.h>

#include "check.h"

#define FIBERS	64
#define THREADS	2

/* The goal of all together: a hundred million, or what the environment says. */
static long goal = 100000000;

static struct member {
	fiber_id_t id;
	/* Changed by the fiber alone. */
	uint64_t random;
	long switches, busy;
} members[FIBERS];

static bool stop;
static int ready;
static fiber_id_t homes[THREADS];
static long waits[THREADS];
static __thread int number;

/* Not inlined: asked anew after each switch. */
static __attribute__((noinline)) fiber_id_t home_here(void)
{
	return homes[*(volatile int *)&number];
}

static uint64_t draw(struct member *me)
{
	me->random ^= me->random << 13;
	me->random ^= me->random >> 7;
	return me->random ^= me->random << 17;
}

static void wanders(void *arg)
{
	struct member *me = arg;
	volatile uint64_t canary = me->id * UINT64_C(0x9e3779b97f4a7c15);
	fiber_id_t self;
	int err;

	for (;;) {
		if (__atomic_load_n(&stop, __ATOMIC_RELAXED))
			err = fiber_switch(home_here());
		else
			err = fiber_switch(members[draw(me) % FIBERS].id);
		if (!err)
			__atomic_store_n(&me->switches, me->switches + 1, __ATOMIC_RELAXED);
		else if (err == EBUSY || err == EINVAL)
			me->busy++;
		else
			CHECK_RESULT(err, 0);
		CHECK(canary == me->id * UINT64_C(0x9e3779b97f4a7c15));
		CHECK(!fiber_self(&self) && self == me->id);
		if (me == members && !(me->switches % 16)) {
			long sum = 0;
			int i;

			for (i = 0; i < FIBERS; i++)
				sum += __atomic_load_n(&members[i].switches, __ATOMIC_RELAXED);
			if (sum >= goal)
				__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
		}
	}
}

static void *runs_them(void *arg)
{
	int i, err;

	number = (int)(intptr_t)arg;
	CHECK_OK(fiber_convert(0, &homes[number]));
	if (!number) {
		for (i = 0; i < FIBERS; i++) {
			members[i].random = (uint64_t)i + 1;
			CHECK_OK(fiber_create(&members[i].id, wanders, &members[i], NULL));
		}
		__atomic_store_n(&ready, 1, __ATOMIC_SEQ_CST);
	}
	wait_for(&ready);
	/* Each begins with another one, unless that has been taken already. */
	while ((err = fiber_switch(members[number].id)) == EBUSY)
		waits[number]++;
	CHECK_OK(err);
	CHECK(__atomic_load_n(&stop, __ATOMIC_RELAXED));
	return NULL;
}

TEST(rivals_at_random)
{
	const char *words = getenv("KFIBER_STRESS");
	uint64_t activations = 0, failed = 0;
	long switches = 0, busy = 0;
	pthread_t threads[THREADS];
	int i;

	if (words)
		goal = strtol(words, NULL, 0);
	for (i = 0; i < THREADS; i++)
		threads[i] = thread_start(runs_them, (void *)(intptr_t)i);
	for (i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	CHECK_OK(fiber_convert(0, NULL));
	for (i = 0; i < FIBERS; i++) {
		struct fiber_stat stat = stat_of(members[i].id);

		activations += stat.activations;
		failed += stat.failed_activations;
		switches += members[i].switches;
		busy += members[i].busy;
		CHECK_OK(fiber_delete(members[i].id));
	}
	CHECK(switches >= goal);
	/* Each switch was one: of those that the fibers did not come back from, one a fiber; two began. */
	CHECK(activations >= (uint64_t)switches && activations <= (uint64_t)switches + FIBERS + 2);
	CHECK(failed == (uint64_t)(busy + waits[0] + waits[1]));
}
