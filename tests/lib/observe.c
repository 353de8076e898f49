/* SPDX-License-Identifier: MIT */
/* fiber_set_observer(): what is told, when, and to whom. */
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

static fiber_id_t home, other;

/* What was told, as one line. */
static char told[1024];

static __attribute__((format(printf, 1, 2))) void tell(const char *format, ...)
{
	size_t used = strlen(told);
	va_list list;

	va_start(list, format);
	vsnprintf(told + used, sizeof(told) - used, format, list);
	va_end(list);
	errno = 0;	/* which must not show */
}

static void created(fiber_id_t id, void *data)
{
	CHECK(data == told);
	tell("created %d; ", (int)id);
	if (id == other)
		CHECK(fiber_switch(other) == EAGAIN);
}

static void switched(fiber_id_t from, fiber_id_t to, void *data)
{
	CHECK(data == told);
	tell("%d to %d; ", (int)from, (int)to);
	CHECK(fiber_switch(1) == EAGAIN);
}

static void ended(fiber_id_t id, void *data)
{
	CHECK(data == told);
	tell("ended %d; ", (int)id);
}

static void named(fiber_id_t id, const char *name, void *data)
{
	CHECK(data == told);
	tell("named %d %s; ", (int)id, name);
}

static const struct fiber_observer observer = {
	sizeof(observer), told, created, switched, ended, named,
};

static void goes_home(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_RESULT(fiber_switch(home), 0);
}

TEST(all_that_happens_in_order)
{
	struct fiber_attr attr = FIBER_ATTR_INIT;

	CHECK_OK(fiber_set_observer(&observer, NULL));
	CHECK_OK(fiber_convert(0, &home));
	CHECK_ERR(fiber_convert(0, NULL), EEXIST);
	attr.name = "two";
	CHECK_OK(fiber_create(&other, goes_home, NULL, &attr));
	CHECK_OK(fiber_switch(other));
	CHECK_ERR(fiber_switch(99), ESRCH);
	CHECK_ERR(fiber_switch(home), EINVAL);
	CHECK_OK(fiber_set_name(0, "one"));
	CHECK_OK(fiber_switch(other));
	CHECK_OK(fiber_delete(other));
	CHECK_OK(fiber_revert());
	CHECK_ERR(fiber_revert(), EPERM);
	if (strcmp(told, "created 1; 0 to 1; created 2; named 2 two; 1 to 2; 2 to 1; named 1 one; "
			 "1 to 2; 2 to 1; ended 2; 1 to 0; ended 1; "))
		check_failed(__FILE__, __LINE__, told);
}

TEST(another_one_takes_its_place)
{
	static const struct fiber_observer nothing = FIBER_OBSERVER_INIT;
	const struct fiber_observer *before;

	CHECK_OK(fiber_set_observer(&observer, &before));
	CHECK(!before);
	CHECK_OK(fiber_set_observer(&nothing, &before));
	CHECK(before == &observer);
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&other, goes_home, NULL, NULL));
	CHECK_OK(fiber_switch(other));
	CHECK_OK(fiber_set_observer(NULL, &before));
	CHECK(before == &nothing);
	CHECK_OK(fiber_switch(other));
	CHECK(!*told);
}

TEST(no_pointer_of_opentelemetry)
{
	CHECK_ERR(fiber_otel_enable(), ENOENT);
	CHECK_OK(fiber_convert(0, &home));
}

TEST(bad_sizes)
{
	struct fiber_observer bad[2] = { FIBER_OBSERVER_INIT, { .size = 1 } };

	bad[0].size = 2 * sizeof(bad[0]);
	CHECK_ERR(fiber_set_observer(&bad[0], NULL), E2BIG);
	CHECK_ERR(fiber_set_observer(&bad[1], NULL), EINVAL);
}

/*
 * Threads that switch among the same fibers, fork and end on them: each thread is told what
 * it left and what it runs, without a gap.
 */
#define THREADS	4
#define FIBERS	8
#define ROUNDS	2000

static _Thread_local fiber_id_t running;
static _Atomic int alive, switches;
static fiber_id_t fibers[FIBERS];
static _Atomic int rounds;

static void counts_created(fiber_id_t id, void *data)
{
	(void)id;
	(void)data;
	alive++;
}

/* Not inlined: a fiber asks it on one thread and then on another one. */
static __attribute__((noinline)) void counts_switch(fiber_id_t from, fiber_id_t to, void *data)
{
	(void)data;
	CHECK(running == from);
	running = to;
	switches++;
}

static void counts_end(fiber_id_t id, void *data)
{
	(void)id;
	(void)data;
	alive--;
}

static void roams(void *arg)
{
	uintptr_t next = (uintptr_t)arg;

	while (rounds++ < ROUNDS)
		fiber_switch(fibers[next++ % FIBERS]);
	/* Each returns, and so ends its thread. */
}

static void *enters(void *arg)
{
	fiber_id_t own;

	(void)arg;
	CHECK_OK(fiber_convert(0, &own));
	while (rounds < 2 * ROUNDS && fiber_switch(fibers[rounds++ % FIBERS]))
		;
	return NULL;
}

TEST(each_thread_without_a_gap)
{
	static const struct fiber_observer counter = {
		sizeof(counter), NULL, counts_created, counts_switch, counts_end, NULL,
	};
	pthread_t threads[THREADS];
	uintptr_t i;

	CHECK_OK(fiber_set_observer(&counter, NULL));
	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < FIBERS; i++)
		CHECK_OK(fiber_create(&fibers[i], roams, (void *)i, NULL));
	for (i = 0; i < THREADS; i++)
		threads[i] = thread_start(enters, NULL);
	for (i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	CHECK(switches > FIBERS);
	for (i = 0; i < FIBERS; i++)
		CHECK_RESULT(delete_when_free(fibers[i]), 0);
	CHECK_OK(fiber_revert());
	CHECK(running == 0);
}

static void sets(int number)
{
	(void)number;
	CHECK_OK(fiber_set_observer(&observer, NULL));
}

TEST(from_a_signal_handler)
{
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&other, goes_home, NULL, NULL));
	CHECK(signal(SIGUSR1, sets) != SIG_ERR);
	CHECK(!raise(SIGUSR1));
	CHECK_OK(fiber_switch(other));
	CHECK(!strcmp(told, "1 to 2; 2 to 1; "));
}
