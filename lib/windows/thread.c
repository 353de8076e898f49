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
	if (handle)
		fls_end(&handle->fls);
}

/*
 * A thread-specific destructor. A created fiber that the thread still runs ends with it, as
 * on Windows, where its stack is freed.
 */
static void thread_ended(void *unused)
{
	struct windows_fiber *handle = handle_find();
	fiber_id_t id;
	bool claimed;

	(void)unused;
	thread_fls_end();
	if (!handle || handle->own)
		return;
	id = handle->id;
	claimed = handle_claim(handle);
	fls_end(&handle->fls);
	if (claimed)
		handle_free(handle);
	fiber_delete(id);
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
