/* SPDX-License-Identifier: MIT */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

#define DEADLINE_MS 20000

void check_failed(const char *file, int line, const char *what)
{
	dprintf(STDERR_FILENO, "%s:%d: failed: %s\n", file, line, what);
	_exit(1);
}

void check_skip(const char *reason)
{
	dprintf(STDOUT_FILENO, "%s\n", reason);
	_exit(77);
}

static const char *error_name(int err)
{
	const char *name = err ? strerrorname_np(err) : "0";

	return name ? name : "?";
}

void check_error(const char *file, int line, const char *what, int got, int wanted)
{
	if (got == wanted)
		return;
	dprintf(STDERR_FILENO, "%s:%d: %s: %s (%d) instead of %s\n", file, line, what,
		error_name(got), got, error_name(wanted));
	_exit(1);
}

void check_errno(const char *file, int line, const char *what)
{
	if (errno == ERRNO_MARK)
		return;
	dprintf(STDERR_FILENO, "%s:%d: %s touched errno\n", file, line, what);
	_exit(1);
}

pthread_t thread_start(void *(*run)(void *), void *arg)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, run, arg) == 0);
	return thread;
}

void thread_join(pthread_t thread)
{
	CHECK(pthread_join(thread, NULL) == 0);
}

void sleep_ms(unsigned int ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&time, &time) && errno == EINTR)
		;
}

void wait_for(const volatile int *flag)
{
	unsigned int waited;

	for (waited = 0; !__atomic_load_n(flag, __ATOMIC_SEQ_CST); waited++) {
		CHECK(waited < DEADLINE_MS);
		sleep_ms(1);
	}
}

int in_child(void (*run)(void))
{
	int status;
	pid_t child = fork();

	CHECK(child >= 0);
	if (!child) {
		run();
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	return status;
}

static void skip_engine(const char *engine, bool wanted, const char *reason)
{
	const char *ours = fiber_engine();

	CHECK(ours);
	if (!strcmp(ours, engine) != wanted) {
		printf("not with engine %s: %s\n", ours, reason);
		fflush(stdout);
		_exit(77);
	}
}

void only_on(const char *engine, const char *reason)
{
	skip_engine(engine, true, reason);
}

void not_on(const char *engine, const char *reason)
{
	skip_engine(engine, false, reason);
}

struct fiber_stat stat_of(fiber_id_t id)
{
	struct fiber_stat stat = FIBER_STAT_INIT;

	CHECK_OK(fiber_get_stat(id, &stat));
	return stat;
}

static int when_free(int (*call)(fiber_id_t), fiber_id_t id)
{
	unsigned int waited;
	int err = EBUSY;

	for (waited = 0; err == EBUSY && waited < DEADLINE_MS; waited++) {
		err = call(id);
		if (err == EBUSY)
			sleep_ms(1);
	}
	return err;
}

int switch_when_free(fiber_id_t id)
{
	return when_free(fiber_switch, id);
}

int delete_when_free(fiber_id_t id)
{
	return when_free(fiber_delete, id);
}

int main(int argc, char **argv)
{
	return test_main(argc, argv);
}
