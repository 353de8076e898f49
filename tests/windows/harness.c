/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <pthread.h>
#include <time.h>
#include <unistd.h>
#endif

#define DEADLINE_MS 50000

struct thread {
	void (*run)(void *);
	void *arg;
#ifdef _WIN32
	HANDLE handle;
#else
	pthread_t handle;
#endif
};

void check_failed(const char *file, int line, const char *what, uint64_t got)
{
	fprintf(stderr, "%s:%d: failed: %s (last error %lld)\n", file, line, what, (long long)got);
	fflush(stderr);
	_exit(1);
}

void check_skip(const char *reason)
{
	printf("%s\n", reason);
	fflush(stdout);
	_exit(77);
}

#ifdef _WIN32

static DWORD WINAPI begin(LPVOID pointer)
{
	struct thread *thread = pointer;

	thread->run(thread->arg);
	return 0;
}

static void start(struct thread *thread)
{
	thread->handle = CreateThread(NULL, 0, begin, thread, 0, NULL);
	CHECK(thread->handle);
}

static void join(struct thread *thread)
{
	CHECK(WaitForSingleObject(thread->handle, DEADLINE_MS) == WAIT_OBJECT_0);
	CloseHandle(thread->handle);
}

void sleep_ms(unsigned int ms)
{
	Sleep(ms);
}

#else

static void *begin(void *pointer)
{
	struct thread *thread = pointer;

	thread->run(thread->arg);
	return NULL;
}

static void start(struct thread *thread)
{
	CHECK(pthread_create(&thread->handle, NULL, begin, thread) == 0);
}

static void join(struct thread *thread)
{
	CHECK(pthread_join(thread->handle, NULL) == 0);
}

void sleep_ms(unsigned int ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000L };

	nanosleep(&time, NULL);
}

#endif

struct thread *thread_start(void (*run)(void *), void *arg)
{
	struct thread *thread = calloc(1, sizeof(*thread));

	CHECK(thread);
	thread->run = run;
	thread->arg = arg;
	start(thread);
	return thread;
}

void thread_join(struct thread *thread)
{
	join(thread);
	free(thread);
}

void wait_for(const volatile int *flag)
{
	unsigned int waited;

	for (waited = 0; !__atomic_load_n(flag, __ATOMIC_SEQ_CST); waited++) {
		CHECK(waited < DEADLINE_MS);
		sleep_ms(1);
	}
}

int main(int argc, char **argv)
{
	return test_main(argc, argv);
}
