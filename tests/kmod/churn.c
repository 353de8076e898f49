/* SPDX-License-Identifier: MIT */
/*
 * Lives of processes with fibers; many of them for test_soak.py, by CHURN_SEED and CHURN_LIVES.
 *
 *	life	a child, whose threads and fibers all run the same loop:
 *		create into, delete from and switch to random places of one table
 *	end	by its last thread's exit, exit_group(), SIGKILL or execve(), in turn,
 *		with fibers suspended, running, and threads parked on each other's
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define THREADS 4
#define PLACES 24
#define STEPS 2000

enum end { LAST_EXIT, EXIT_GROUP, KILL, EXEC, ENDS };

/* A place's fiber, 0 if none; its stack is taken out while one is being made on it. */
static struct place {
	atomic_ullong id;
	atomic_uintptr_t stack;
} places[PLACES];

/* For all threads: the loop may go on on another one after each switch. */
static atomic_ullong state;
static atomic_int steps = STEPS;
static enum end end;
static pthread_barrier_t begin;

static unsigned int random_below(unsigned int bound)
{
	/* Weyl's sequence, mixed as splitmix64 does. */
	uint64_t x = atomic_fetch_add(&state, UINT64_C(0x9e3779b97f4a7c15));

	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (unsigned int)((x ^ (x >> 31)) % bound);
}

static void churn(void *arg);

static void create_in(struct place *place)
{
	uintptr_t stack = atomic_exchange(&place->stack, 0);
	struct fiber_create args = {
		.size = sizeof(args),
		.entry = (uintptr_t)churn,
		.stack_start = stack,
		.stack_size = STACK_SIZE,
		.flags = random_below(2) ? FIBER_FLAG_FPU : 0,
		.name = "churn",
	};
	uint64_t id;

	if (!stack)
		return;
	CHECK_OK(try_create(&args, &id));
	atomic_store(&place->id, id);
}

static void delete_from(struct place *place)
{
	uint64_t id = atomic_load(&place->id);
	long err;

	if (!id)
		return;
	err = fiber_delete(id);
	CHECK(err == 0 || err == -EBUSY || err == -ESRCH || err == -EPERM);
	/* Only one deletion of an id succeeds, and its stack is free from then on. */
	if (!err) {
		atomic_store(&place->id, 0);
		atomic_store(&place->stack, (uintptr_t)stack_new(STACK_SIZE));
	}
}

static void switch_to(uint64_t id)
{
	long err = fiber_switch(id);

	CHECK(err == 0 || err == -EBUSY || err == -ESRCH || err == -EINVAL || err == -EOWNERDEAD);
}

static _Noreturn void end_life(void)
{
	switch (end) {
	case EXIT_GROUP:
		_exit(0);
	case KILL:
		kill(getpid(), SIGKILL);
		break;
	case EXEC:
		execl("/proc/self/exe", "kmod_churn", "no_fibers_to_begin_with",
		      NULL);
		break;
	default:
		break;
	}
	thread_exit_raw();
}

static void churn(void *arg)
{
	(void)arg;
	while (atomic_fetch_sub(&steps, 1) > 0) {
		struct place *place = &places[random_below(PLACES)];

		switch (random_below(8)) {
		case 0:
			delete_from(place);
			break;
		case 1:
		case 2:
			create_in(place);
			break;
		case 3:
			/* A thread's own fiber: the first ones are. */
			switch_to(1 + random_below(THREADS));
			break;
		default:
			switch_to(atomic_load(&place->id));
			break;
		}
	}
	end_life();
}

static void *run(void *arg)
{
	/* No life ends before it has all its threads. */
	pthread_barrier_wait(&begin);
	convert(random_below(2) ? FIBER_FLAG_FPU : 0);
	churn(arg);
	return NULL;
}

static void live(void)
{
	device = device_open();
	CHECK(pthread_barrier_init(&begin, NULL, THREADS) == 0);
	for (int i = 0; i < PLACES; i++)
		atomic_init(&places[i].stack, (uintptr_t)stack_new(STACK_SIZE));
	for (int i = 1; i < THREADS; i++)
		thread_start_on_lasting_stack(run, NULL);
	run(NULL);
}

/* Also what a life's execve() leads to. */
TEST(no_fibers_to_begin_with)
{
	CHECK(access("/proc/self/fiber", F_OK) != 0);
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value ? strtoull(value, NULL, 0) : otherwise;
}

TEST(lives)
{
	uint64_t seed = setting("CHURN_SEED", 1), lives = setting("CHURN_LIVES", 8);

	for (uint64_t i = 0; i < lives; i++) {
		int status;
		pid_t child;

		end = (enum end)(i % ENDS);
		atomic_store(&state, seed * UINT64_C(0x10001) + i);
		child = fork();
		CHECK(child >= 0);
		if (!child)
			live();
		CHECK(waitpid(child, &status, 0) == child);
		CHECK(end == KILL ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL :
				    WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
}
