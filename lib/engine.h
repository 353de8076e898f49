/* SPDX-License-Identifier: MIT */
/*
 * The seam between the API and what switches fibers.
 *
 * An engine makes, frees and switches fibers; their control blocks (fiber_cb.h)
 * are there for each engine. It knows nothing of keys, threads' ends and
 * exceptions: those are the library's. All functions return 0 or an error number,
 * touch no errno and give the errors that include/fiber.h promises for the
 * function they serve.
 */
#ifndef LIBFIBER_ENGINE_H
#define LIBFIBER_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "include/fiber.h"
#include "stack.h"

struct fiber_cb;
struct values;

/* A checked order for a new fiber. */
struct engine_fiber {
	void (*entry)(void *);
	void *arg;
	size_t stack_size, guard_size;
	struct stack stack;	/* the program's memory; `start` NULL: the engine's */
	unsigned int flags;
	const char *name;	/* at most FIBER_NAME_MAX bytes, never NULL */
};

/* What is left of a fiber that cannot be found any more. */
struct detached {
	/* Closed (fls.h), to be destroyed before the rest is freed, which they may point into. */
	struct values *values;
	/* The engine's. */
	struct fiber_cb *cb;
	uint64_t owner;
	struct stack stack;
};

struct engine {
	const char *name;

	/* Called with the lock held; again after close(), and after a failure. */
	int (*open)(void);
	/*
	 * Around fork(), with the lock held. Either the fibers stay the parent's, and the
	 * child gives up what they need by close(). Or it keeps them, all but those that
	 * other threads ran, maybe with another engine, by keep(). What is not needed is
	 * NULL.
	 */
	void (*prepare)(void);
	void (*parent)(void);
	void (*close)(void);
	const struct engine *(*keep)(void);

	/* Without the lock, as all that follow. */
	int (*convert)(unsigned int flags, fiber_id_t *id);
	int (*revert)(struct detached *detached);
	int (*create)(const struct engine_fiber *order, fiber_id_t *id);
	int (*delete)(fiber_id_t id, struct detached *detached);
	/* After revert() or delete(): the memory. */
	void (*free)(const struct detached *detached);

	/* Finishes the calling thread's root fiber; may wait, and may give EINTR. */
	int (*retire)(void);
	/* The thread has retired and left the stack of the fiber `thread.ending` for good. */
	void (*leave)(void);
	int (*set_name)(fiber_id_t id, const char *name);
	int (*get_stat)(fiber_id_t id, struct fiber_stat *stat);

	/* All that follow are async-signal-safe. The calling fiber's name; "" if that is not known. */
	void (*get_name)(fiber_id_t id, char *name);
	/* By a busy fiber, which it makes idle; the rest is in switch.h. NULL: switch_x86_64.S does it. */
	int (*switch_to)(fiber_id_t id, void *value, unsigned int kind);
	/* With switch_to(): the calling thread has left that fiber by SWITCH_ENDS. */
	void (*left)(fiber_id_t id);
	int (*fls_alloc)(uint64_t *index);
	int (*fls_free)(uint64_t index);
	int (*fls_set)(uint64_t index, uint64_t value);
	int (*fls_get)(uint64_t index, uint64_t *value);
};

extern const struct engine engine_kernel, engine_mapped, engine_local;

/* Written under the lock, read by all. */
extern const struct engine *_Atomic engine_opened __attribute__((visibility("hidden")));

/*
 * The open engine; NULL before engine_open() succeeded, and in a forked child
 * until it did so again. Async-signal-safe.
 */
static inline const struct engine *engine_current(void)
{
	return atomic_load_explicit(&engine_opened, memory_order_acquire);
}

/* With the lock held, or in the child of a fork(). */
void engine_set(const struct engine *engine);

#endif /* LIBFIBER_ENGINE_H */
