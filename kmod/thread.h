/* SPDX-License-Identifier: GPL-2.0-only */
/* The object of a thread that runs fibers, with either engine. */
#ifndef FIBER_THREAD_H
#define FIBER_THREAD_H

#include "types.h"

extern atomic_long_t fiber_threads;

struct fiber_thread *fiber_thread_alloc(struct fiber_process *process,
					const struct fiber_engine *engine);
void fiber_thread_hook(struct fiber_thread *thread);
void fiber_thread_unhook(struct fiber_thread *thread);
void fiber_thread_free(struct fiber_thread *thread);

#endif /* FIBER_THREAD_H */
