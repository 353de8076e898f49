/* SPDX-License-Identifier: MIT */
/*
 * For a tool outside the process that wants every switch (`kfiber record --exact`). The tool finds
 * kfiber_trace by its exported name, and it writes to the process's memory, as a debugger may: first
 * `until`, then 0 to the words at `routes`, so that each switch takes the path in C. That path
 * writes events into a ring, which the tool reads. When `until` has passed, the next switch
 * restores the routes; so nothing is left of a tool that dies.
 */
#ifndef LIBFIBER_TRACE_H
#define LIBFIBER_TRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "include/fiber.h"

#define TRACE_ROOM (1u << 20)	/* events */

struct trace_event {
	/* From 1, stored last; a smaller one: not written yet, a larger one: overwritten. */
	_Atomic uint64_t number;
	uint64_t time;
	/* As in fiber_observer.switched. */
	fiber_id_t from, to;
	uint64_t thread;
};

/* Only grows at its end. */
struct trace {
	char magic[8];
	uint32_t version, size;
	/* CLOCK_MONOTONIC, in ns; 0: nobody wants events. */
	_Atomic uint64_t until;
	_Atomic uint32_t *routes[2];
	/* NULL before the first event. */
	struct trace_event *_Atomic ring;
	uint32_t room, event_size;
	/* How many events there were, ever. */
	_Atomic uint64_t count;
};

/* In fiber_cb.c, since the route of a switch depends on it. */
extern struct trace kfiber_trace __attribute__((visibility("default")));

static inline bool trace_wanted(void)
{
	return atomic_load_explicit(&kfiber_trace.until, memory_order_relaxed);
}

/* By a busy thread, where trace_wanted(). */
void trace_switched(fiber_id_t from, fiber_id_t to);

#endif /* LIBFIBER_TRACE_H */
