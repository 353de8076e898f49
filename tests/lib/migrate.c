/* SPDX-License-Identifier: MIT */
/*
 * Fibers that change threads.
 *
 *	thread A: root A --> traveller --> root A
 *	thread B: root B --------------------------> traveller (goes on here) --> root B
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"

static fiber_id_t traveller, back;
static pid_t seen[2];
static int parked, done;

static void travels(void *arg)
{
	volatile uint64_t local = POISON;

	(void)arg;
	seen[0] = gettid();
	CHECK_RESULT(fiber_switch(back), 0);
	seen[1] = gettid();
	CHECK(local == POISON);
	CHECK_RESULT(fiber_switch(back), 0);
}

static void *continues(void *arg)
{
	(void)arg;
	CHECK_OK(fiber_convert(0, &back));
	CHECK_OK(fiber_switch(traveller));
	return NULL;
}

TEST(suspended_here_resumed_there)
{
	CHECK_OK(fiber_convert(0, &back));
	CHECK_OK(fiber_create(&traveller, travels, NULL, NULL));
	CHECK_OK(fiber_switch(traveller));
	CHECK(seen[0] == gettid());
	thread_join(thread_start(continues, NULL));
	CHECK(seen[1] && seen[1] != gettid());
	CHECK_OK(fiber_delete(traveller));
}

static fiber_id_t root_a, holder_a, root_b;
static pid_t root_a_ran_on;

static void holds(void *arg)
{
	(void)arg;
	__atomic_store_n(&parked, 1, __ATOMIC_SEQ_CST);
	wait_for(&done);
	CHECK_RESULT(fiber_switch(root_a), 0);
}

static void *lends_its_root(void *arg)
{
	pid_t mine = gettid();

	(void)arg;
	CHECK_OK(fiber_convert(0, &root_a));
	CHECK_OK(fiber_create(&holder_a, holds, NULL, NULL));
	CHECK_RESULT(fiber_switch(holder_a), 0);

	/* Now on the main thread, with this thread's stack. */
	root_a_ran_on = gettid();
	CHECK(root_a_ran_on != mine);
	CHECK_RESULT(fiber_switch(root_b), 0);

	CHECK(gettid() == mine);
	return NULL;
}

TEST(a_threads_own_fiber_on_another_thread)
{
	pthread_t thread = thread_start(lends_its_root, NULL);

	CHECK_OK(fiber_convert(0, &root_b));
	wait_for(&parked);
	CHECK_RESULT(fiber_switch(root_a), 0);
	CHECK(root_a_ran_on == gettid());
	__atomic_store_n(&done, 1, __ATOMIC_SEQ_CST);
	thread_join(thread);
}

#define RIVALS 4
#define WINS 500	/* of each rival */

static fiber_id_t prize;
static int inside;
static uint64_t entries;
static _Atomic uint64_t busy;
static int begin;

static __thread fiber_id_t my_root;

/* Not inlined: the thread may have changed since the caller asked last. */
static __attribute__((noinline)) fiber_id_t root_of_thread(void)
{
	__asm__ volatile("" : : : "memory");
	return my_root;
}

static void is_won(void *arg)
{
	(void)arg;
	for (;;) {
		CHECK(__atomic_fetch_add(&inside, 1, __ATOMIC_SEQ_CST) == 0);
		entries++;	/* plain: two tenants at once would lose some */
		CHECK(__atomic_fetch_sub(&inside, 1, __ATOMIC_SEQ_CST) == 1);
		CHECK_RESULT(fiber_switch(root_of_thread()), 0);
	}
}

static void *rival(void *arg)
{
	int won = 0, err;

	(void)arg;
	CHECK_OK(fiber_convert(0, &my_root));
	wait_for(&begin);
	while (won < WINS) {
		err = fiber_switch(prize);
		CHECK(err == 0 || err == EBUSY);
		if (err)
			busy++;
		else
			won++;
	}
	CHECK_OK(fiber_revert());
	return NULL;
}

TEST(one_of_many_rivals_wins)
{
	pthread_t thread[RIVALS];
	int i;

	CHECK_OK(fiber_convert(0, &back));
	CHECK_OK(fiber_create(&prize, is_won, NULL, NULL));
	for (i = 0; i < RIVALS; i++)
		thread[i] = thread_start(rival, NULL);
	__atomic_store_n(&begin, 1, __ATOMIC_SEQ_CST);
	for (i = 0; i < RIVALS; i++)
		thread_join(thread[i]);
	CHECK(entries == RIVALS * WINS);
	CHECK(stat_of(prize).activations == RIVALS * WINS);
	CHECK(stat_of(prize).failed_activations == busy);
}

#define MAKERS 4

static void *makes_and_deletes(void *arg)
{
	fiber_id_t id[8];
	int round, i;

	(void)arg;
	CHECK_OK(fiber_convert(0, &my_root));
	for (round = 0; round < 50; round++) {
		for (i = 0; i < 8; i++) {
			CHECK_OK(fiber_create(&id[i], is_won, NULL, NULL));
			CHECK(id[i] != my_root);
		}
		for (i = 0; i < 8; i++)
			CHECK_OK(fiber_delete(id[i]));
	}
	return NULL;
}

TEST(many_threads_create_and_delete)
{
	pthread_t thread[MAKERS];
	int i;

	for (i = 0; i < MAKERS; i++)
		thread[i] = thread_start(makes_and_deletes, NULL);
	for (i = 0; i < MAKERS; i++)
		thread_join(thread[i]);
}

/*
 * Threads take fibers from a queue and put them back:
 *
 *	queue -> thread -> fiber works, yields -> thread -> queue
 *
 * All that they share is guarded by a mutex, so that a checker of threads finds it correct.
 */
#define QUEUE 8
#define WORDS 20

static struct {
	pthread_mutex_t lock;
	fiber_id_t ids[QUEUE];
	int count, alive;
	fiber_key_t key;
} queue = { .lock = PTHREAD_MUTEX_INITIALIZER, .alive = QUEUE };

static void worker(void *ended)
{
	long *block = malloc(WORDS * sizeof(*block));
	int round, i;

	for (round = 0; round < 20; round++) {
		long here[WORDS];

		for (i = 0; i < WORDS; i++)
			here[i] = block[i] = round + i;
		CHECK_RESULT(fiber_key_set(queue.key, block), 0);
		CHECK_RESULT(fiber_yield(NULL), 0);
		for (i = 0; i < WORDS; i++)
			CHECK(here[i] == block[i]);
	}
	CHECK_RESULT(fiber_key_set(queue.key, NULL), 0);
	free(block);
	*(int *)ended = 1;
	CHECK_RESULT(fiber_yield(NULL), 0);
}

static void unused(void *arg)
{
	(void)arg;
}

static void *works_off_the_queue(void *arg)
{
	fiber_id_t id, other;
	void *ended;
	int left;

	CHECK_OK(fiber_convert(0, NULL));
	do {
		pthread_mutex_lock(&queue.lock);
		id = queue.count ? queue.ids[--queue.count] : 0;
		left = queue.alive;
		pthread_mutex_unlock(&queue.lock);
		if (!id)
			continue;
		CHECK_OK(fiber_switch(id));
		CHECK_OK(fiber_get_data(id, &ended));
		left = !*(int *)ended;
		if (!left)
			CHECK_OK(fiber_delete(id));
		pthread_mutex_lock(&queue.lock);
		if (left)
			queue.ids[queue.count++] = id;
		else
			queue.alive--;
		left = queue.alive;
		pthread_mutex_unlock(&queue.lock);
		CHECK_OK(fiber_create(&other, unused, NULL, NULL));
		CHECK_OK(fiber_delete(other));
	} while (left);
	CHECK_OK(fiber_revert());
	return arg;
}

TEST(threads_share_a_queue_of_fibers)
{
	static int ended[QUEUE];
	pthread_t threads[3];
	int i;

	CHECK_OK(fiber_key_create(&queue.key, free));
	for (i = 0; i < QUEUE; i++)
		CHECK_OK(fiber_create(&queue.ids[queue.count++], worker, &ended[i], NULL));
	for (i = 0; i < 3; i++)
		threads[i] = thread_start(works_off_the_queue, NULL);
	for (i = 0; i < 3; i++)
		thread_join(threads[i]);
	CHECK_OK(fiber_key_delete(queue.key));
}
