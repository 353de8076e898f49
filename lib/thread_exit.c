/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#ifndef __GLIBC__
#error "libfiber needs glibc: other C libraries end a thread on the stack that it happens to be on"
#endif

#include "lock.h"
#include "switch.h"
#include "thread_exit.h"

/* Set once each. */
static const struct thread_exit *_Atomic layers[THREAD_EXIT_LAYERS];

/* Its value on a thread only says that the thread's end is watched. Made once, under the lock. */
static pthread_key_t watch;
static bool watching;

void thread_exit_leave(void)
{
	const struct thread_exit *layer;
	sigset_t all;
	size_t i;

	/*
	 * For good: a handler that switched away from here would leave the end of
	 * this thread to whichever thread resumes the fiber.
	 */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	for (i = 0; i < THREAD_EXIT_LAYERS; i++) {
		layer = atomic_load(&layers[i]);
		if (layer && layer->leave)
			layer->leave();
	}
}

void thread_exit_returned(void)
{
	const struct thread_exit *layer;
	size_t i;

	for (i = 0; i < THREAD_EXIT_LAYERS; i++) {
		layer = atomic_load(&layers[i]);
		if (layer && layer->returned)
			layer->returned();
	}
	thread_exit_leave();
	pthread_exit(NULL);
}

_Unwind_Reason_Code thread_exit_unwound(int version, _Unwind_Action actions,
					_Unwind_Exception_Class exception_class,
					struct _Unwind_Exception *exception,
					struct _Unwind_Context *context)
{
	(void)version;
	(void)exception_class;
	(void)exception;
	(void)context;

	/* An exception that nobody catches passes here too, to end in terminate(). */
	if ((actions & _UA_FORCE_UNWIND) && (actions & _UA_CLEANUP_PHASE))
		thread_exit_leave();
	return _URC_CONTINUE_UNWIND;
}

/* A thread-specific destructor, on the stack that the thread began on. */
static void end_thread(void *unused)
{
	const struct thread_exit *layer;
	size_t i;

	(void)unused;
	for (i = 0; i < THREAD_EXIT_LAYERS; i++) {
		layer = atomic_load(&layers[i]);
		if (layer && layer->end)
			layer->end();
	}
}

int thread_exit_watch(enum thread_exit_layer layer, const struct thread_exit *operations)
{
	struct lock_state state;
	int err = 0;

	atomic_store(&layers[layer], operations);
	lock_take(&state);
	if (!watching)
		err = pthread_key_create(&watch, end_thread);
	watching |= !err;
	lock_drop(&state);
	return err ? err : pthread_setspecific(watch, &watch);
}
