/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The protocol of fiber.owner, the one word that says who may touch a fiber's
 * context. Its values:
 *
 *	address of a thread	that thread runs the fiber
 *	the same, with
 *	OWNER_EXIT_PENDING	likewise, and the thread whose root fiber this is
 *				has ended or waits to end: the thread that
 *				suspends the fiber finishes it
 *	OWNER_FREE		no thread: the fiber is new or suspended
 *	OWNER_FINISHED		no thread, for ever: its thread has ended
 *	OWNER_DELETED		the thread that deletes it
 *
 * A thread that changes the word from OWNER_FREE owns the context until it
 * releases it. Taking ownership is an acquire, giving it back a release. A fiber
 * that is owned stays allocated.
 */
#ifndef FIBER_OWNER_H
#define FIBER_OWNER_H

#include "types.h"

#define OWNER_FREE		0L
#define OWNER_EXIT_PENDING	1L
#define OWNER_FINISHED		2L
#define OWNER_DELETED		4L

/* The thread that runs the fiber, or NULL. Under RCU where that is not the caller. */
static inline struct fiber_thread *owner_thread(long owner)
{
	if (owner == OWNER_FREE || owner == OWNER_FINISHED || owner == OWNER_DELETED)
		return NULL;
	return (struct fiber_thread *)(owner & ~OWNER_EXIT_PENDING);
}

/* Acquires a free fiber. Returns OWNER_FREE, or the owner that the fiber has instead. */
static inline long owner_acquire(struct fiber *fiber, struct fiber_thread *thread)
{
	return atomic_long_cmpxchg_acquire(&fiber->owner, OWNER_FREE, (long)thread);
}

void owner_release_root(struct fiber *fiber, struct fiber_thread *thread);

/* Releases a fiber whose context the thread has saved. In any context. */
static inline void owner_release(struct fiber *fiber, struct fiber_thread *thread)
{
	/* Exit is pending for other threads' root fibers only. */
	if (likely(!fiber->root_of || fiber->root_of == thread))
		atomic_long_set_release(&fiber->owner, OWNER_FREE);
	else
		owner_release_root(fiber, thread);
}

bool owner_finish_root(struct fiber *root);
void owner_finish(struct fiber *fiber, struct fiber_thread *thread);
long owner_delete(struct fiber *fiber);

#endif /* FIBER_OWNER_H */
