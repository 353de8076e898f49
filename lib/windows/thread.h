/* SPDX-License-Identifier: MIT */
/* What the library keeps for each thread. */
#ifndef LIBFIBER_WINDOWS_THREAD_H
#define LIBFIBER_WINDOWS_THREAD_H

#include "handle.h"

struct windows_thread {
	/*
	 * Used while it is no fiber. NULL until the first value. Not in here, since nothing may
	 * point to a thread that vanished by the exit system call.
	 */
	struct fls *fls;
	/* What GetCurrentFiber() gives meanwhile. */
	void *no_fiber;
};

/* Ask again after a switch: the fiber may be on another thread. Kept from the optimizer for that. */
struct windows_thread *thread_self(void);

/* Has the end of the calling thread noticed. An error number. */
int thread_watch(void);

#endif /* LIBFIBER_WINDOWS_THREAD_H */
