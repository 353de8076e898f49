/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>

#include "end.h"
#include "engine.h"
#include "fls.h"
#include "control.h"
#include "lock.h"
#include "overflow.h"
#include "sanitizer.h"
#include "switch.h"

/* Its value on a thread only says that the thread's end is watched. Made once, under the lock. */
static pthread_key_t watch;
static bool watching;

/* The last that a thread does on a created fiber. May be called again on the way out. */
static void end_created(void)
{
	const struct engine *engine = engine_current();
	struct values *values = NULL;
	struct lock_state state;
	sigset_t all;
	fiber_id_t id;

	/*
	 * For good: a handler that switched away from here would leave the end of
	 * this thread to whichever thread resumes the fiber.
	 */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);

	if (!engine || engine->self(&id))
		return;		/* a forked child, where this is only a stack */
	lock_take(&state);
	values = atomic_exchange(&control_at(id)->values, NULL);
	values_close(values);
	lock_drop(&state);
	values_destroy(values);
	while (engine->retire() == EINTR)
		;
	sanitizer_end();
}

void end_returned(void)
{
	end_created();
	pthread_exit(NULL);
}

_Unwind_Reason_Code end_unwound(int version, _Unwind_Action actions,
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
		end_created();
	return _URC_CONTINUE_UNWIND;
}

/* A thread-specific destructor, on the stack that the thread began on. */
static void end_thread(void *unused)
{
	const struct engine *engine = engine_current();

	(void)unused;

	/* EINVAL: on another fiber, which may have been left without unwinding its frames. */
	if (fiber_revert() == EINVAL) {
		end_created();
		if (engine->leave)
			engine->leave();
	}
	/* Also of a thread that is no fiber. */
	overflow_detach();
}

int end_watch(void)
{
	struct lock_state state;
	int err = 0;

	lock_take(&state);
	if (!watching)
		err = pthread_key_create(&watch, end_thread);
	watching |= !err;
	lock_drop(&state);
	return err ? err : pthread_setspecific(watch, &watch);
}
