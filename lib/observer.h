/* SPDX-License-Identifier: MIT */
/*
 * fiber_set_observer(): calls of a tool at what happens to fibers. The thread is busy
 * meanwhile, so that the tool's functions switch nowhere, and errno is kept.
 */
#ifndef LIBFIBER_OBSERVER_H
#define LIBFIBER_OBSERVER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "include/fiber.h"
#include "otel.h"

/* NULL: none. It stays valid when it is replaced. */
extern const struct fiber_observer *_Atomic observer __attribute__((visibility("hidden")));

static inline bool observer_watches(void)
{
	return atomic_load_explicit(&observer, memory_order_relaxed);
}

/* All are async-signal-safe, and do nothing where there is no observer. */
void observer_tell_created(fiber_id_t id, const char *name);
void observer_tell_ended(fiber_id_t id);
void observer_switched(fiber_id_t from, fiber_id_t to);
void observer_named(fiber_id_t id, const char *name);

static inline void observer_created(fiber_id_t id, const char *name)
{
	if (observer_watches())
		observer_tell_created(id, name);
	if (otel_travels())
		otel_created(id, name);
}

static inline void observer_ended(fiber_id_t id)
{
	if (observer_watches())
		observer_tell_ended(id);
	if (otel_travels())
		otel_ended(id);
}

#endif /* LIBFIBER_OBSERVER_H */
