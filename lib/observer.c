/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdint.h>

#include "observer.h"
#include "thread.h"
#include "trace.h"

/* Calls one of the observer's functions with these arguments, the observer's data behind them. */
#define TELL(function, ...)								\
	do {										\
		const struct fiber_observer *told = atomic_load(&observer);		\
		int saved_errno;							\
		uint64_t busy;								\
											\
		if (!told || !told->function)						\
			break;								\
		busy = thread_busy();							\
		saved_errno = errno;							\
		told->function(__VA_ARGS__, told->data);				\
		errno = saved_errno;							\
		thread_idle(busy);							\
	} while (0)

void observer_tell_created(fiber_id_t id, const char *name)
{
	TELL(created, id);
	if (*name)
		observer_named(id, name);
}

void observer_switched(fiber_id_t from, fiber_id_t to)
{
	if (trace_wanted())
		trace_switched(from, to);
	TELL(switched, from, to);
}

void observer_tell_ended(fiber_id_t id)
{
	TELL(ended, id);
}

void observer_named(fiber_id_t id, const char *name)
{
	TELL(named, id, name);
}
