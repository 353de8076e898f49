/* SPDX-License-Identifier: MIT */
/*
 * Handles: the structure that a fiber's handle points to, and how it is found.
 *
 * The thread or fiber that creates a fiber also creates its handle. Native fibers of libfiber
 * get one when they ask for it. DeleteFiber() and ConvertFiberToThread() free it; a
 * thread's own one, if nobody did, is freed when its fiber ends.
 */
#ifndef LIBFIBER_WINDOWS_HANDLE_H
#define LIBFIBER_WINDOWS_HANDLE_H

/* For switch_x86_64.S, asserted in fiber.c. */
#define HANDLE_ID	40

#ifndef __ASSEMBLER__

#include <fiber.h>
#include <stdbool.h>

#include "fls.h"

struct windows_fiber {
	/* What Windows' programs know, at Windows' offsets. */
	void *param;
	void *exception_list;	/* never used; what Windows has for "none" */
	char *stack_base;	/* the highest address */
	char *stack_limit;
	void *stack_allocation;

	fiber_id_t id;
	struct fls fls;
	/* Freed with its fiber; it is not created by CreateFiber(). */
	bool own;
	/* Set by whoever frees it: DeleteFiber(), or the end of the thread that runs the fiber. */
	atomic_bool dying;
};

/* NULL: no memory. It is found from now on. */
struct windows_fiber *handle_new(fiber_id_t id, void *param, bool own);

/* Notes where the stack of a created fiber lies; nothing for a thread's own one. */
void handle_measure(struct windows_fiber *handle);

/* Whether that is a handle, as far as can be told of memory that may have been freed. */
bool handle_exists(const struct windows_fiber *handle);

/* Whether the caller has to free it. False: another thread, or a caller further up, does. */
bool handle_claim(struct windows_fiber *handle);

/* Runs no callbacks; `fls` must be empty. */
void handle_free(struct windows_fiber *handle);

/* The running fiber's, if it has one. NULL: it has none, or the caller is no fiber. */
struct windows_fiber *handle_find(void);

/* The same, and one is made if it has none, unless its thread is ending. Aborts if there is no memory. */
struct windows_fiber *handle_current(void);

/*
 * Has the end of the calling fiber, which is `handle`'s, noticed. NULL: not any more. Returns an error
 * number; EPERM: the thread is ending, and only its own end is noticed.
 */
int handle_watch(struct windows_fiber *handle);

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_WINDOWS_HANDLE_H */
