/* SPDX-License-Identifier: MIT */
/*
 * fork(): with engine `kernel` the child has no fibers until it converts, with
 * the others it has those that were suspended and the one that forked. The
 * parent never notices.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static fiber_id_t home, created;
static int visits;

static void visited(void *arg)
{
	(void)arg;
	for (;;) {
		visits++;
		CHECK_OK(fiber_switch(home));
	}
}

static void starts_anew(void)
{
	fiber_id_t id = POISON;

	CHECK_ERR(fiber_self(&id), EPERM);
	CHECK_ERR(fiber_switch(created), EPERM);
	CHECK_ERR(fiber_delete(created), ESRCH);
	CHECK_ERR(fiber_revert(), EPERM);
	CHECK(id == POISON);
	CHECK(!fiber_data());

	CHECK_OK(fiber_convert(0, &home));
	CHECK(home == 1);
	CHECK_ERR(fiber_switch(created), ESRCH);
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	CHECK(created == 2);
	visits = 0;
	CHECK_OK(fiber_switch(created));
	CHECK_OK(fiber_switch(created));
	CHECK(visits == 2);
	CHECK_OK(fiber_delete(created));
}

static void parent_is_whole(int visits_before)
{
	CHECK_OK(fiber_switch(created));
	CHECK_OK(fiber_switch(created));
	CHECK(visits == visits_before + 2);
}

TEST(the_child_has_no_fibers)
{
	int status;

	only_on("kernel", "the child keeps its fibers");
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	CHECK_OK(fiber_switch(created));
	status = in_child(starts_anew);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	parent_is_whole(1);
}

static int child_status;

static void forks(void *arg)
{
	(void)arg;
	child_status = in_child(starts_anew);
	CHECK_OK(fiber_switch(home));
}

TEST(from_inside_a_created_fiber)
{
	fiber_id_t forker;

	only_on("kernel", "the child keeps its fibers");
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	CHECK_OK(fiber_create(&forker, forks, NULL, NULL));
	CHECK_OK(fiber_switch(forker));
	CHECK(WIFEXITED(child_status) && WEXITSTATUS(child_status) == 0);
	parent_is_whole(0);
}

static pid_t child;

static void forks_and_returns(void *arg)
{
	(void)arg;
	child = fork();
	CHECK(child >= 0);
	if (child)
		CHECK_OK(fiber_switch(home));
}

/* There the function is only a function on some stack: its end is the main thread's. */
TEST(the_child_returns_from_the_fibers_function)
{
	fiber_id_t forker;
	int status;

	only_on("kernel", "the child keeps its fibers");
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&forker, forks_and_returns, NULL, NULL));
	CHECK_OK(fiber_switch(forker));
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK_OK(fiber_delete(forker));
}

static void grandchild(void)
{
	int status;

	CHECK_OK(fiber_convert(0, NULL));
	status = in_child(starts_anew);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(grandchildren)
{
	int status;

	only_on("kernel", "the child keeps its fibers");
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	status = in_child(grandchild);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	parent_is_whole(0);
}

static void goes_on(void)
{
	int before = visits;
	fiber_id_t id, new;

	CHECK_OK(fiber_self(&id));
	home = id;
	CHECK_OK(fiber_switch(created));
	CHECK(visits == before + 1);
	CHECK_OK(fiber_create(&new, visited, NULL, NULL));
	CHECK_OK(fiber_switch(new));
	CHECK(visits == before + 2);
	CHECK_OK(fiber_delete(new));
	CHECK_OK(fiber_delete(created));
	CHECK_ERR(fiber_switch(created), ESRCH);
}

TEST(the_child_keeps_suspended_fibers)
{
	int status;

	not_on("kernel", "the child has no fibers");
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	CHECK_OK(fiber_switch(created));
	status = in_child(goes_on);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	parent_is_whole(1);
}

/* Where the table is that the child does not inherit. */
static char *table_start;
static size_t table_length;

static void table_find(void)
{
	char line[512];
	uintptr_t start, end;
	FILE *maps = fopen("/proc/self/maps", "r");

	CHECK(maps);
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "/dev/fiber") &&
		    sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &start, &end) == 2) {
			table_start = (char *)start;
			table_length = end - start;
		}
	fclose(maps);
	CHECK(table_start);
}

/* As an allocator may, whose handler was there before the library's. */
static void takes_the_tables_place(void)
{
	if (!table_start)
		return;
	CHECK(mmap(table_start, table_length, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) ==
	      table_start);
	memset(table_start, 'x', 4096);
}

/* The program's first code of all runs before the constructors of the libraries that it needs. */
static void registers_first(void)
{
	pthread_atfork(NULL, NULL, takes_the_tables_place);
}

__attribute__((section(".preinit_array"), used)) static void (*const first)(void) = registers_first;

static void goes_on_elsewhere(void)
{
	char mine[4096];

	goes_on();
	memset(mine, 'x', sizeof(mine));
	CHECK(!memcmp(table_start, mine, sizeof(mine)));
}

TEST(the_child_overwrites_nothing)
{
	int status;

	only_on("mapped", "only its child maps the table anew");
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	CHECK_OK(fiber_switch(created));
	table_find();
	status = in_child(goes_on_elsewhere);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	parent_is_whole(1);
}

static void forks_and_goes_on(void *arg)
{
	(void)arg;
	/* Home is suspended here, and in the child too. */
	child_status = in_child(goes_on);
	CHECK_OK(fiber_switch(home));
}

TEST(the_child_keeps_the_fiber_that_forked)
{
	fiber_id_t forker;

	not_on("kernel", "the child has no fibers");
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	CHECK_OK(fiber_create(&forker, forks_and_goes_on, NULL, NULL));
	CHECK_OK(fiber_switch(forker));
	CHECK(WIFEXITED(child_status) && WEXITSTATUS(child_status) == 0);
	parent_is_whole(0);
}

#define FORKS 1000

static volatile int stop;
static fiber_id_t others[2], busy_home[2];

static void turns_back(void *arg)
{
	for (;;)
		CHECK_OK(fiber_switch(*(fiber_id_t *)arg));
}

static void *switches(void *arg)
{
	int me = (int)(intptr_t)arg;

	CHECK_OK(fiber_convert(0, &busy_home[me]));
	CHECK_OK(fiber_create(&others[me], turns_back, &busy_home[me], NULL));
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		CHECK_OK(fiber_switch(others[me]));
	return NULL;
}

static void looks_at_the_others(void)
{
	int i, err;

	for (i = 0; i < 2; i++) {
		/* A thread's own one cannot be there without it. */
		if (busy_home[i]) {
			err = fiber_switch(busy_home[i]);
			CHECK(err == EOWNERDEAD || err == ESRCH);
		}
		if (others[i]) {
			err = fiber_delete(others[i]);
			CHECK(err == 0 || err == ESRCH);
		}
	}
	CHECK_OK(fiber_switch(created));
}

/* The parent's threads are in the middle of switches. */
TEST(forks_while_threads_switch)
{
	pthread_t threads[2];
	int i, status;

	not_on("kernel", "the child has no fibers");
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	for (i = 0; i < 2; i++)
		threads[i] = thread_start(switches, (void *)(intptr_t)i);
	for (i = 0; i < FORKS; i++) {
		status = in_child(looks_at_the_others);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	for (i = 0; i < 2; i++)
		thread_join(threads[i]);
	parent_is_whole(0);
}

/* A lock of the program's own, which its handlers take over a fork() as ours do ours. */
static pthread_mutex_t programs_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int forked;

static void takes_lock(void)
{
	pthread_mutex_lock(&programs_lock);
}

static void drops_lock(void)
{
	pthread_mutex_unlock(&programs_lock);
}

static void *uses_the_library_locked(void *arg)
{
	struct fiber_attr attr = FIBER_ATTR_INIT;
	fiber_id_t id;
	size_t i;

	CHECK_OK(fiber_convert(0, NULL));
	for (i = 0; !forked; i++) {
		/* Stacks of other sizes than are kept, so that it takes the library's lock. */
		attr.stack_size = (16 + 4 * (i % 9)) << 10;
		takes_lock();
		CHECK_OK(fiber_create(&id, visited, NULL, &attr));
		CHECK_OK(fiber_delete(id));
		drops_lock();
	}
	return arg;
}

static void nothing(void)
{
}

/* They are registered before the library is used, as those of libraries are. */
TEST(the_programs_handlers_take_their_locks_first)
{
	pthread_t thread;
	int i;

	CHECK(!pthread_atfork(takes_lock, drops_lock, drops_lock));
	CHECK_OK(fiber_convert(0, &home));
	thread = thread_start(uses_the_library_locked, NULL);
	for (i = 0; i < 300; i++)
		CHECK(in_child(nothing) == 0);
	forked = 1;
	thread_join(thread);
}

/* No handler of fork() runs, so the child has the parent's fibers as they are. */
static void forks_without_handlers(void *arg)
{
	pid_t pid = (pid_t)syscall(SYS_fork);
	int status;

	(void)arg;
	if (!pid) {
		execl("/proc/self/exe", "lib_fork", NULL);
		_exit(1);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	/* No test was named. */
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 2);
	CHECK_RESULT(fiber_yield(NULL), 0);
}

TEST(a_child_without_handlers_may_call_exec)
{
	fiber_id_t id;

	CHECK_OK(fiber_convert(0, NULL));
	CHECK_OK(fiber_create(&id, forks_without_handlers, NULL, NULL));
	CHECK_OK(fiber_switch(id));
	CHECK_OK(fiber_delete(id));
}
