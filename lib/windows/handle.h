/* SPDX-License-Identifier: MIT */
/*
 * Handles: the structure that a fiber's handle points to, and how it is found.
 *
 * The thread or fiber that creates a fiber also creates its handle. Native fibers of libfiber
 * get one when they ask for it. It lives as long as somebody has a reference: the first one ends
 * with handle_drop(), in DeleteFiber(), in ConvertFiberToThread(), and where the thread ends that
 * runs the fiber; another one is the fiber's, while its end is noticed.
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
	/* Not created by CreateFiber(): dropped with its fiber. */
	bool own;
	/* By ConvertThreadToFiber(): it stays until DeleteFiber() if the thread ends on another fiber. */
	atomic_bool stays;
	/* The end of the fiber is noticed. Written by who runs it, or ends it. */
	bool watched;
	/* By handle_drop(), under the lock. */
	bool dropped;
	atomic_uint references;
	/* Of the same slot, whose fiber has ended; handle.c. */
	struct windows_fiber *older;
};

/* With one reference. NULL: no memory. It is found from now on. */
struct windows_fiber *handle_new(fiber_id_t id, void *param, bool own);

/* Notes where the stack of a created fiber lies; nothing for a thread's own one. */
void handle_measure(struct windows_fiber *handle);

/* Whether that is a handle, as far as can be told of memory that may have been freed. */
bool handle_exists(const struct windows_fiber *handle);

void handle_hold(struct windows_fiber *handle);

/* Frees it with the last reference; `fls` must be empty then. Runs no callbacks. */
void handle_put(struct windows_fiber *handle);

/* It is not found any more, and its first reference goes, once. */
void handle_drop(struct windows_fiber *handle);

/* The running fiber's, if it has one, with a reference. NULL: it has none, or the caller is no fiber. */
struct windows_fiber *handle_find(void);

/*
 * The running fiber's, which exists as long as it runs; one is made if it has none. NULL: the caller
 * is no fiber, or its thread is ending. Aborts if there is no memory.
 */
struct windows_fiber *handle_current(void);

/*
 * Has the end of the calling fiber, which is `handle`'s, noticed. Returns an error number; EPERM: the
 * thread is ending, and only its own end is noticed.
 */
int handle_watch(struct windows_fiber *handle);

/* Not any more. */
void handle_unwatch(struct windows_fiber *handle);

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_WINDOWS_HANDLE_H */
