/* SPDX-License-Identifier: MIT */
/* Several threads after the same fibers: ownership, and that nothing is miscounted. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define THREADS 3

static __thread uint64_t home_id;
static __thread unsigned int thread_number;

/* Not inlined: see fiber_switch(). */
static __attribute__((noinline, noipa)) uint64_t home(void)
{
	return home_id;
}

static __attribute__((noinline, noipa)) unsigned int number(void)
{
	return thread_number;
}

static uint64_t random_next(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state >> 33;
}

#define ROUNDS 300

static uint64_t prize;
static atomic_int tried, winners, losers;
static pthread_barrier_t barrier;

/* The winner holds it until all others have tried. */
static void prize_run(void *arg)
{
	(void)arg;
	for (;;) {
		atomic_fetch_add(&winners, 1);
		atomic_fetch_add(&tried, 1);
		while (atomic_load(&tried) < THREADS)
			sched_yield();
		CHECK_OK(fiber_switch(home()));
	}
}

static void *prize_hunter(void *arg)
{
	home_id = convert(0);
	for (int round = 0; round < ROUNDS; round++) {
		long err;

		pthread_barrier_wait(&barrier);
		err = fiber_switch(prize);
		if (err) {
			CHECK_ERR(err, EBUSY);
			atomic_fetch_add(&losers, 1);
			atomic_fetch_add(&tried, 1);
		}
		/* One of the threads clears the field for the next round. */
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
			CHECK(atomic_load(&winners) == 1);
			CHECK(atomic_load(&losers) == THREADS - 1);
			atomic_store(&winners, 0);
			atomic_store(&losers, 0);
			atomic_store(&tried, 0);
		}
		pthread_barrier_wait(&barrier);
	}
	return arg;
}

TEST(exactly_one_thread_wins)
{
	pthread_t threads[THREADS];

	convert(0);
	prize = create(prize_run, NULL, 0, NULL);
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (int i = 0; i < THREADS; i++)
		threads[i] = thread_start(prize_hunter, NULL);
	for (int i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	CHECK_EQ(proc_number(prize, "Number of activations"), ROUNDS);
	CHECK_EQ(proc_number(prize, "Number of failed activations"), ROUNDS * (THREADS - 1));
}

/*
 * All fibers, the threads' own included, go to random ones, of which many run
 * elsewhere. Each marks in user memory that it runs; two threads in one fiber
 * would see each other's mark.
 */
#define CREATED 8
#define ALL (CREATED + THREADS)
#define SWITCHES 9000

static struct member {
	uint64_t id;
	atomic_int occupied;
	atomic_long activations, failures;
} members[ALL];
static atomic_int budget, at_the_end;

/* Never returns: each thread ends in whatever fiber it is when nothing is left. */
static void wander(struct member *me)
{
	uint64_t seed = me->id, cookie = me->id * UINT64_C(0x9e3779b97f4a7c15);
	volatile uint64_t on_stack = cookie;

	for (;;) {
		struct member *next = &members[random_next(&seed) % ALL];
		long err;

		CHECK(!atomic_exchange(&me->occupied, 1));
		CHECK_EQ(self(), me->id);
		CHECK_EQ(on_stack, cookie);
		if (atomic_fetch_sub(&budget, 1) <= 0) {
			atomic_fetch_add(&at_the_end, 1);
			for (;;)
				pause();
		}
		/* Who comes next may have resumed this one before we know the result. */
		atomic_store(&me->occupied, 0);
		err = fiber_switch(next->id);
		if (!err) {
			/* Resumed: somebody else's success, counted by who arrives. */
			atomic_fetch_add(&me->activations, 1);
		} else if (next == me) {
			CHECK_ERR(err, EINVAL);
			atomic_fetch_add(&me->failures, 1);
		} else {
			CHECK_ERR(err, EBUSY);
			atomic_fetch_add(&next->failures, 1);
		}
	}
}

static void wander_created(void *arg)
{
	struct member *me = arg;

	atomic_fetch_add(&me->activations, 1);
	wander(me);
}

static void *wander_thread(void *arg)
{
	struct member *me = arg;

	me->id = convert((uint32_t)(me - members) & FIBER_FLAG_FPU);
	pthread_barrier_wait(&barrier);
	wander(me);
	return NULL;
}

TEST(random_targets_on_all_threads)
{
	uint64_t activations = 0, failures = 0;

	convert(0);
	atomic_store(&budget, SWITCHES);
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (int i = 0; i < CREATED; i++)
		members[i].id = create(wander_created, &members[i], i & FIBER_FLAG_FPU, NULL);
	for (int i = CREATED; i < ALL; i++)
		thread_start_on_lasting_stack(wander_thread, &members[i]);
	WAIT_FOR(atomic_load(&at_the_end) == THREADS);

	for (int i = 0; i < ALL; i++) {
		uint64_t id = members[i].id;

		CHECK_EQ(proc_number(id, "Number of activations"),
			 (uint64_t)atomic_load(&members[i].activations));
		CHECK_EQ(proc_number(id, "Number of failed activations"),
			 (uint64_t)atomic_load(&members[i].failures));
		activations += (uint64_t)atomic_load(&members[i].activations);
		failures += (uint64_t)atomic_load(&members[i].failures);
	}
	CHECK_EQ(activations + failures, SWITCHES);
	/* The race took place. */
	CHECK(activations > 0 && failures > 0);
}

#define DELETE_ROUNDS 300

static uint64_t victim;
static atomic_int deleted, gone, entered;

static void victim_run(void *arg)
{
	(void)arg;
	for (;;) {
		atomic_fetch_add(&entered, 1);
		CHECK_OK(fiber_switch(home()));
	}
}

/* Two delete it and one switches to it. */
static void *delete_rival(void *arg)
{
	home_id = convert(0);
	thread_number = (unsigned int)(uintptr_t)arg;
	for (int round = 0; round < DELETE_ROUNDS; round++) {
		long err;

		if (number() == 0) {
			struct fiber_create args = {
				.size = sizeof(args),
				.entry = (uintptr_t)victim_run,
				.stack_size = STACK_SIZE,
			};
			static void *stack;

			if (!stack)
				stack = stack_new(STACK_SIZE);
			args.stack_start = (uintptr_t)stack;
			CHECK_OK(try_create(&args, &victim));
			atomic_store(&deleted, 0);
			atomic_store(&gone, 0);
			atomic_store(&entered, 0);
		}
		pthread_barrier_wait(&barrier);
		if (number() < 2) {
			err = fiber_delete(victim);
			CHECK(err == 0 || err == -ESRCH || err == -EBUSY);
			atomic_fetch_add(err ? &gone : &deleted, err != -EBUSY);
		} else {
			err = fiber_switch(victim);
			CHECK(err == 0 || err == -ESRCH);
			CHECK(atomic_load(&entered) == !err);
		}
		pthread_barrier_wait(&barrier);
		if (number() == 0) {
			/* Both deletions may have met the switch. */
			CHECK(atomic_load(&deleted) <= 1);
			CHECK_ERR(fiber_delete(victim), atomic_load(&deleted) ? ESRCH : 0);
		}
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

TEST(deletion_and_switch_exclude_each_other)
{
	pthread_t threads[THREADS];
	struct counters before;

	counters_wait_none();
	convert(0);
	before = counters_read();
	pthread_barrier_init(&barrier, NULL, THREADS);
	for (uintptr_t i = 0; i < THREADS; i++)
		threads[i] = thread_start(delete_rival, (void *)i);
	for (int i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	before.fibers += THREADS;
	counters_wait(before);
}

#define SLOTS 6

static _Atomic uint64_t slots[SLOTS];
static atomic_bool stop;

static void slot_run(void *arg)
{
	(void)arg;
	for (;;)
		fiber_switch(home());
}

/* Creates, renames, enters and deletes what the others do, too. */
static void *slot_rival(void *arg)
{
	uint64_t seed = (uintptr_t)arg, stacks[SLOTS];

	home_id = convert((uint32_t)seed & FIBER_FLAG_FPU);
	for (int i = 0; i < SLOTS; i++)
		stacks[i] = (uintptr_t)stack_new(STACK_SIZE);
	for (int round = 0; round < 1500; round++) {
		unsigned int place = random_next(&seed) % SLOTS;
		uint64_t id = atomic_load(&slots[place]);
		struct fiber_create args = {
			.size = sizeof(args),
			.entry = (uintptr_t)slot_run,
			.stack_size = STACK_SIZE,
			.flags = round & FIBER_FLAG_FPU,
		};
		long err;

		switch (random_next(&seed) % 4) {
		case 0:
			args.stack_start = stacks[place];
			/* Only who takes the place creates, on a stack that nobody uses. */
			if (id || !stacks[place])
				break;
			CHECK_OK(try_create(&args, &id));
			stacks[place] = 0;
			atomic_store(&slots[place], id);
			break;
		case 1:
			err = fiber_delete(id);
			CHECK(err == 0 || err == -ESRCH || err == -EBUSY);
			if (!err) {
				atomic_compare_exchange_strong(&slots[place], &id, 0);
				stacks[place] = (uintptr_t)stack_new(STACK_SIZE);
			}
			break;
		case 2:
			if (!id)
				break;
			err = fiber_rename(id, "a rival's");
			CHECK(err == 0 || err == -ESRCH);
			break;
		default:
			err = fiber_switch(id);
			CHECK(err == 0 || err == -ESRCH || err == -EBUSY);
			CHECK_EQ(self(), home());
		}
	}
	return NULL;
}

static void *proc_reader(void *arg)
{
	atomic_ulong *files = arg;

	while (!atomic_load(&stop)) {
		for (int i = 0; i < SLOTS; i++) {
			char state[PROC_LINE];
			uint64_t id = atomic_load(&slots[i]);

			/* It may be deleted between the load and the look, or during it. */
			if (id && proc_line(getpid(), id, "State", state)) {
				CHECK(!strcmp(state, "new") || !strcmp(state, "running") ||
				      !strcmp(state, "suspended"));
				atomic_fetch_add(files, 1);
			}
		}
	}
	return NULL;
}

TEST(creation_and_deletion_under_readers)
{
	pthread_t threads[THREADS], reader;
	uint64_t until = now_ms() + 10 * DEADLINE_MS;
	atomic_ulong files = 0;

	convert(0);
	reader = thread_start(proc_reader, &files);
	/* Once more if the reader has found none alive, as on a busy machine. */
	do {
		for (uintptr_t i = 0; i < THREADS; i++)
			threads[i] = thread_start(slot_rival, (void *)(i + 1));
		for (int i = 0; i < THREADS; i++)
			thread_join(threads[i]);
	} while (!atomic_load(&files) && now_ms() < until);
	atomic_store(&stop, true);
	thread_join(reader);
	CHECK(atomic_load(&files) > 0);
}


static void *end_in_switches(void *arg)
{
	uint64_t id = *(uint64_t *)arg;

	home_id = convert(0);
	for (int i = 0; i < 20; i++)
		fiber_switch(id);
	return NULL;
}

static void bounce(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_OK(fiber_switch(home()));
}

/* Threads come and go while others use the same fibers; nothing stays behind. */
static void threads_come_and_go(void)
{
	uint64_t ids[2];

	convert(0);
	for (int i = 0; i < 2; i++)
		ids[i] = create(bounce, NULL, 0, NULL);
	for (int round = 0; round < 25; round++) {
		pthread_t threads[4];

		for (int i = 0; i < 4; i++)
			threads[i] = thread_start(end_in_switches, &ids[i & 1]);
		for (int i = 0; i < 4; i++)
			thread_join(threads[i]);
	}
	WAIT_FOR(counters_read().threads == 1);
	/* Those of the threads are finished, and still there until they are deleted. */
	CHECK_EQ(counters_read().fibers, 1 + 2 + 100);
	for (uint64_t id = 4; id < 4 + 100; id++)
		CHECK_OK(fiber_delete(id));
}

TEST(threads_that_come_and_go)
{
	counters_wait_none();
	in_child(threads_come_and_go);
	counters_wait_none();
}
