/* SPDX-License-Identifier: MIT */
/*
 * The seam between the API and what switches fibers.
 *
 * An engine knows which fibers exist, who runs them and how one is left for
 * another. It knows nothing of stacks' memory, of keys or of records: those are
 * the library's. All functions return 0 or an error number, touch no errno and
 * give the errors that include/fiber.h promises for the function they serve.
 */
#ifndef LIBFIBER_ENGINE_H
#define LIBFIBER_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "include/fiber.h"

/* A checked order for a new fiber. The top of the stack holds its return address. */
struct engine_fiber {
	uintptr_t entry;
	uintptr_t arg;
	uintptr_t stack_start;
	size_t stack_size;
	unsigned int flags;
	const char *name;	/* at most FIBER_NAME_MAX bytes, never NULL */
};

struct engine {
	const char *name;

	/* Called with the lock held; again after close(), and after a failure. */
	int (*open)(void);
	/*
	 * In the child of a fork(), alone, with the lock held. Either the fibers stay
	 * the parent's: gives up what they need. Or the child keeps them: finishes
	 * those that other threads ran. The other one is NULL.
	 */
	void (*close)(void);
	void (*keep)(void);

	/* Called with the lock held, so that an id and its record appear and go as one. */
	int (*convert)(unsigned int flags, fiber_id_t *id);
	int (*revert)(void);
	int (*delete)(fiber_id_t id);

	/* Called without the lock: the fiber begins with the caller's signal mask. */
	int (*create)(const struct engine_fiber *order, fiber_id_t *id);
	/* Finishes the calling thread's own fiber; may wait, and may give EINTR. */
	int (*retire)(void);
	/*
	 * The thread has retired and left the fiber's stack for good. NULL: the engine
	 * notices itself.
	 */
	void (*leave)(void);
	int (*set_name)(fiber_id_t id, const char *name);
	int (*get_stat)(fiber_id_t id, struct fiber_stat *stat);

	/* Async-signal-safe. */
	int (*switch_to)(fiber_id_t id);
	int (*self)(fiber_id_t *id);
	int (*fls_alloc)(uint64_t *index);
	int (*fls_free)(uint64_t index);
	int (*fls_set)(uint64_t index, uint64_t value);
	int (*fls_get)(uint64_t index, uint64_t *value);
};

extern const struct engine engine_kernel, engine_local;

/*
 * The open engine; NULL before engine_open() succeeded, and in a forked child
 * until it did so again. Async-signal-safe.
 */
const struct engine *engine_current(void);

/*
 * Opens the engine that was asked for; 0 if it is open. With the lock held.
 * EINVAL: KFIBER_ENGINE names none. Else what its open() gives.
 */
int engine_open(void);

/* With the lock held. EBUSY: engine_open() was called. EINVAL: no such engine. */
int engine_choose(const char *name);

/* In the child of a fork(), with the lock held. Returns whether the child keeps the fibers. */
bool engine_fork(void);

#endif /* LIBFIBER_ENGINE_H */
