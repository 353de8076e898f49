/* SPDX-License-Identifier: MIT */
/*
 * Threads that end while they are fibers.
 *
 *	worker: root --> created --> ends here: created is set back to its entry,
 *	        root is finished
 *	main:   takes created afterwards, from its beginning
 */
#include <execinfo.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static fiber_id_t root, created, home;
static int starts, cleanups, destroyed;
static fiber_key_t key;

enum way { RETURN, PTHREAD_EXIT, CANCEL, GO_HOME };
static enum way way;

static void counts_cleanup(void *arg)
{
	(void)arg;
	cleanups++;
}

static void counts_destructor(void *value)
{
	CHECK(value == &destroyed);
	destroyed++;
}

static __attribute__((noinline)) void leaves(int depth)
{
	if (depth) {
		leaves(depth - 1);
		__asm__ volatile("");	/* no tail call: there are frames to unwind */
		return;
	}
	switch (way) {
	case RETURN:
		return;
	case PTHREAD_EXIT:
		pthread_exit(NULL);
	case CANCEL:
		pthread_cancel(pthread_self());
		for (;;)
			pause();
	case GO_HOME:
		CHECK_RESULT(fiber_switch(home), 0);
	}
}

static void body(void *arg)
{
	volatile uint64_t local = POISON;
	void *value;

	CHECK(arg == &starts);
	CHECK(fiber_data() == arg);
	starts++;
	CHECK_OK(fiber_key_get(key, &value));
	CHECK(!value);
	if (way != GO_HOME)
		CHECK_OK(fiber_key_set(key, &destroyed));
	pthread_cleanup_push(counts_cleanup, NULL);
	leaves(10);
	pthread_cleanup_pop(0);
	CHECK(local == POISON);
}

static void *enters(void *arg)
{
	(void)arg;
	CHECK_OK(fiber_convert(0, &root));
	CHECK_RESULT(fiber_switch(created), 0);
	check_failed(__FILE__, __LINE__, "a fiber's end came back");
}

/* A worker ends in the fiber twice, then this thread runs it from its start. */
static void ends_by(enum way how)
{
	int i;

	way = how;
	CHECK_OK(fiber_key_create(&key, counts_destructor));
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, body, &starts, NULL));
	for (i = 1; i <= 2; i++) {
		/* The fiber of the worker before is on its way to be free. */
		thread_join(thread_start(enters, NULL));
		CHECK(starts == i);
		while (stat_of(created).thread)
			sleep_ms(1);
		CHECK_ERR(fiber_switch(root), ESRCH);
	}
	CHECK(destroyed == 2);
	way = GO_HOME;
}

TEST(by_returning_from_the_function)
{
	ends_by(RETURN);
	CHECK_RESULT(switch_when_free(created), 0);
	CHECK(starts == 3);
	CHECK(cleanups == 0);
	CHECK_OK(fiber_delete(created));
}

TEST(by_pthread_exit)
{
	ends_by(PTHREAD_EXIT);
	CHECK_RESULT(switch_when_free(created), 0);
	CHECK(starts == 3);
	CHECK(cleanups == 2);
	CHECK_OK(fiber_delete(created));
}

TEST(by_cancellation)
{
	ends_by(CANCEL);
	CHECK_RESULT(switch_when_free(created), 0);
	CHECK(starts == 3);
	CHECK(cleanups == 2);
	CHECK_OK(fiber_delete(created));
}

static void *enters_and_ends(void *arg)
{
	way = RETURN;
	CHECK_OK(fiber_convert(0, &root));
	CHECK_OK(fiber_key_set(key, &destroyed));
	CHECK_RESULT(fiber_switch(*(fiber_id_t *)arg), 0);
	return NULL;
}

/* Each leaves nothing behind: root fibers have the same few slots, the low bits of their ids. */
TEST(thousands_of_threads_by_returning)
{
	const char *words = getenv("KFIBER_THREADS");
	int i, threads = words ? atoi(words) : 3000;

	CHECK_OK(fiber_key_create(&key, counts_destructor));
	CHECK_OK(fiber_convert(0, &home));
	for (i = 1; i <= threads; i++) {
		CHECK_OK(fiber_create(&created, body, &starts, NULL));
		thread_join(thread_start(enters_and_ends, &created));
		CHECK((root & 0xfffff) < 16);
		/* The root fiber's value, and the created one's. */
		CHECK(destroyed == 2 * i);
		CHECK_OK(delete_when_free(created));
	}
}

static pthread_key_t before_the_library;

/* On the stack that the thread began on, although it ended on the fiber. */
static void switches_late(void *value)
{
	fiber_id_t id;

	(void)value;
	cleanups++;
	CHECK_RESULT(fiber_switch(home), EPERM);
	CHECK_RESULT(fiber_transfer(home, NULL), EPERM);
	CHECK_RESULT(fiber_yield(NULL), EPERM);
	CHECK_RESULT(fiber_key_set(key, &destroyed), EPERM);
	if (way == PTHREAD_EXIT)
		CHECK_RESULT(fiber_delete(created), 0);
	CHECK_RESULT(fiber_convert(0, &id), EEXIST);
}

static void *enters_with_a_destructor(void *arg)
{
	CHECK(!pthread_setspecific(before_the_library, &starts));
	return enters(arg);
}

TEST(destructors_switch_nowhere)
{
	CHECK(!pthread_key_create(&before_the_library, switches_late));
	CHECK_OK(fiber_key_create(&key, counts_destructor));
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, body, &starts, NULL));
	thread_join(thread_start(enters_with_a_destructor, NULL));
	CHECK(cleanups == 1 && destroyed == 1);
	/* Once more, and the fiber goes with its thread. */
	while (stat_of(created).thread)
		sleep_ms(1);
	way = PTHREAD_EXIT;
	thread_join(thread_start(enters_with_a_destructor, NULL));
	CHECK(cleanups == 3 && destroyed == 2);
	CHECK_ERR(fiber_switch(created), ESRCH);
}

static int raw_runs;

static void raw_body(void *arg)
{
	(void)arg;
	if (raw_runs++ == 0)
		syscall(SYS_exit, 0);
	CHECK_RESULT(fiber_switch(home), 0);
}

TEST(by_the_exit_system_call)
{
	not_on("local", "nobody notices the end of such a thread");
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, raw_body, NULL, NULL));
	thread_join(thread_start(enters, NULL));
	CHECK_RESULT(switch_when_free(created), 0);
	CHECK(raw_runs == 2);
	CHECK_ERR(fiber_switch(root), EOWNERDEAD);
	CHECK_OK(fiber_delete(root));
}

static sigset_t seen_mask;

static void mask_body(void *arg)
{
	sigset_t all;

	pthread_sigmask(SIG_SETMASK, NULL, &seen_mask);
	if (arg && !starts++) {
		/* It ends with another mask than it began with. */
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, NULL);
		return;
	}
	CHECK_RESULT(fiber_switch(home), 0);
}

TEST(the_fiber_begins_again_with_its_creators_mask)
{
	sigset_t mask, before;

	only_on("kernel", "signal masks are the threads'");
	CHECK_OK(fiber_convert(0, &home));
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &mask, &before);
	CHECK_OK(fiber_create(&created, mask_body, &starts, NULL));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	thread_join(thread_start(enters, NULL));
	CHECK(sigismember(&seen_mask, SIGUSR1) == 1 && sigismember(&seen_mask, SIGUSR2) == 0);
	sigfillset(&seen_mask);
	CHECK_RESULT(switch_when_free(created), 0);
	CHECK(sigismember(&seen_mask, SIGUSR1) == 1 && sigismember(&seen_mask, SIGUSR2) == 0);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	CHECK(sigismember(&mask, SIGUSR1) == 0);
}

static void *ends_on_its_own(void *exits)
{
	CHECK_OK(fiber_convert(0, &root));
	CHECK_OK(fiber_key_set(key, &destroyed));
	if (exits)
		pthread_exit(NULL);
	return NULL;
}

TEST(on_its_own_fiber)
{
	int i;

	CHECK_OK(fiber_key_create(&key, counts_destructor));
	CHECK_OK(fiber_convert(0, NULL));
	for (i = 0; i < 2; i++) {
		thread_join(thread_start(ends_on_its_own, i ? &root : NULL));
		CHECK_ERR(fiber_switch(root), ESRCH);
		CHECK(destroyed == i + 1);
	}
}

static int inside, go_on, ended;
static fiber_id_t back;

static void holds_until_told(void *arg)
{
	(void)arg;
	__atomic_store_n(&inside, 1, __ATOMIC_SEQ_CST);
	wait_for(&go_on);
	leaves(3);
}

static void *root_goes_elsewhere(void *arg)
{
	volatile uint64_t local[64];
	int i;

	(void)arg;
	for (i = 0; i < 64; i++)
		local[i] = POISON;
	CHECK_OK(fiber_convert(0, &root));
	CHECK_RESULT(fiber_switch(created), 0);

	/* On the main thread. The worker ends, but has to wait for this stack. */
	__atomic_store_n(&go_on, 1, __ATOMIC_SEQ_CST);
	sleep_ms(300);
	CHECK(!__atomic_load_n(&ended, __ATOMIC_SEQ_CST));
	for (i = 0; i < 64; i++)
		CHECK(local[i] == POISON);
	CHECK_RESULT(fiber_switch(back), 0);
	check_failed(__FILE__, __LINE__, "a finished fiber came back");
}

static void *joins(void *arg)
{
	pthread_t *thread = arg;

	thread_join(*thread);
	__atomic_store_n(&ended, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void waits_to_end_by(enum way how)
{
	pthread_t worker, joiner;

	way = how;
	CHECK_OK(fiber_convert(0, &back));
	CHECK_OK(fiber_create(&created, holds_until_told, NULL, NULL));
	worker = thread_start(root_goes_elsewhere, NULL);
	joiner = thread_start(joins, &worker);
	wait_for(&inside);
	CHECK_RESULT(fiber_switch(root), 0);
	thread_join(joiner);
	CHECK_ERR(fiber_switch(root), ESRCH);
	CHECK_OK(delete_when_free(created));
}

TEST(waits_while_another_thread_runs_its_own_fiber)
{
	waits_to_end_by(RETURN);
}

TEST(pthread_exit_waits_as_well)
{
	waits_to_end_by(PTHREAD_EXIT);
}

static void main_ends(void)
{
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_OK(fiber_create(&created, way == RETURN ? holds_until_told : body, &starts, NULL));
	go_on = 1;
	fiber_switch(created);
}

static void *outlives_main(void *arg)
{
	(void)arg;
	sleep_ms(200);
	CHECK_OK(fiber_convert(0, &home));
	way = GO_HOME;
	CHECK_RESULT(switch_when_free(created), 0);
	_exit(starts == 2 ? 5 : 6);
}

static void main_ends_before_others(void)
{
	thread_start(outlives_main, NULL);
	main_ends();
}

TEST(the_main_thread_alone)
{
	int status;

	CHECK_OK(fiber_key_create(&key, NULL));
	for (way = RETURN; way <= PTHREAD_EXIT; way++) {
		status = in_child(main_ends);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
}

TEST(the_main_thread_before_others)
{
	int status;

	CHECK_OK(fiber_key_create(&key, NULL));
	way = PTHREAD_EXIT;
	status = in_child(main_ends_before_others);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
}

static int frames;

static void counts_frames(void *arg)
{
	void *address[64];

	(void)arg;
	frames = backtrace(address, 64);
	CHECK_RESULT(fiber_switch(home), 0);
}

TEST(backtraces_end_at_the_bottom)
{
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, counts_frames, NULL, NULL));
	CHECK_OK(fiber_switch(created));
	/* The function and what called it. */
	CHECK(frames == 2);
}
