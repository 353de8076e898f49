/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "thread.h"

static _Thread_local struct windows_thread self = { .no_fiber = (void *)0x1E00 };

static pthread_key_t end_key;
static int end_error;

struct windows_thread *__attribute__((noinline)) thread_self(void)
{
	struct windows_thread *thread = &self;

	__asm__ volatile("" : "+r"(thread));
	return thread;
}

static void thread_fls_end(void)
{
	struct fls *fls = thread_self()->fls;

	if (!fls)
		return;
	fls_end(fls);
	thread_self()->fls = NULL;
	free(fls);
}

/* Windows calls back at the end of a process for the thread that ends it, and for no other one. */
__attribute__((destructor)) static void process_ended(void)
{
	struct windows_fiber *handle = handle_find();

	thread_fls_end();
	if (!handle)
		return;
	fls_end(&handle->fls);
	handle_put(handle);
}

/*
 * A thread-specific destructor. A created fiber that the thread still runs ends with it, as
 * on Windows, where its stack is freed.
 */
static void thread_ended(void *unused)
{
	struct windows_fiber *handle;

	(void)unused;
	thread_fls_end();
	handle = handle_find();
	if (!handle)
		return;
	/* Here the thread is still a fiber, for callbacks. */
	fls_end(&handle->fls);
	if (!handle->own) {
		handle_drop(handle);
		fiber_delete(handle->id);
	}
	handle_put(handle);
}

/*
 * Before libfiber makes its own key, at the first conversion: destructors run in that order, and
 * after libfiber's nobody knows which fiber the thread ran. A program that is linked with the archive
 * may convert in an ordinary constructor.
 */
__attribute__((constructor(101))) static void end_init(void)
{
	end_error = pthread_key_create(&end_key, thread_ended);
}

int thread_watch(void)
{
	return end_error ? end_error : pthread_setspecific(end_key, &end_key);
}
