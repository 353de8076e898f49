/* SPDX-License-Identifier: MIT */
/*
 * OpenTelemetry's thread context (OTEP 4947). A profiler of the whole machine stops a thread and reads
 * its thread-local pointer otel_thread_ctx_v1: it is NULL, or leads to a record of what the thread
 * does. An SDK sets it to a span's record.
 *
 * If an object of the process exports that symbol, the pointer is the fiber's and not the thread's:
 * each switch stores it for the fiber that is suspended and gives the thread the other one's. After
 * fiber_otel_enable() each fiber has a record of its own, with its id and name, which its
 * pointer leads to where it would be NULL.
 *
 * fiber_switch() does both in assembly, in a copy of its second half that only such processes run
 * (fiber_cb_otel in fiber_cb.h). The library has no such symbol itself: a second one would
 * mislead readers who find an SDK's.
 */
#ifndef LIBFIBER_OTEL_H
#define LIBFIBER_OTEL_H

/* Log2 of a record's bytes, for switch_x86_64.S, asserted in otel.c. */
#define OTEL_SHIFT	7

#ifndef __ASSEMBLER__

#include <stdatomic.h>
#include <stdbool.h>

#include "include/fiber.h"

struct otel_record;

/* By slot, the pointers of suspended fibers; their owners'. NULL: no object has the symbol. */
extern void **_Atomic otel_pointers __attribute__((visibility("hidden")));

/* By slot, each fiber's own record; NULL: not enabled. Written by whoever names the fiber. */
extern struct otel_record *_Atomic otel_records __attribute__((visibility("hidden")));

static inline bool otel_travels(void)
{
	return atomic_load_explicit(&otel_pointers, memory_order_acquire);
}

/* On each thread when it becomes a fiber, or when objects were loaded since. Not async-signal-safe. */
void otel_attach(void);

/* These are called where otel_travels() only, when an observer is told the same. */
void otel_created(fiber_id_t id, const char *name);
void otel_named(fiber_id_t id, const char *name);
void otel_ended(fiber_id_t id);

/* By the thread that owns both; 0: it is no fiber before, or afterwards. */
void otel_switched(fiber_id_t from, fiber_id_t to);

/*
 * The same with engine `kernel`, where a fiber that was suspended may be resumed elsewhere at once:
 * what the calling fiber has, and gets back when it is resumed. A fiber that begins gets NULL.
 */
void *otel_leave(void);
void otel_arrive(void *pointer, fiber_id_t id);

/* In the child of a fork(). */
void otel_child(void);

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_OTEL_H */
