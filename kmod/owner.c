// SPDX-License-Identifier: GPL-2.0-only
/* The rare transitions of fiber.owner; owner.h has the protocol. */
#include <linux/errno.h>
#include <linux/irq_work.h>

#include "owner.h"

/* Threads in FIBER_IOC_RETIRE look again. Waking takes a lock that sleeps on PREEMPT_RT. */
static void owner_wake(struct fiber_process *process)
{
	irq_work_queue(&process->wake);
}

/* owner_release() of another thread's root fiber, whose thread may have ended meanwhile. */
void owner_release_root(struct fiber *fiber, struct fiber_thread *thread)
{
	long owner = atomic_long_cmpxchg_release(&fiber->owner, (long)thread, OWNER_FREE);

	if (owner != (long)thread) {
		WARN_ON_ONCE(owner != ((long)thread | OWNER_EXIT_PENDING));
		owner_finish(fiber, thread);
	}
}

/* Finishes a fiber that the thread owns. */
void owner_finish(struct fiber *fiber, struct fiber_thread *thread)
{
	atomic_long_set_release(&fiber->owner, OWNER_FINISHED);
	owner_wake(thread->process);
}

/*
 * Finishes the root fiber of the calling thread, which does not run it, or makes
 * its exit pending while another thread does. Returns whether it is finished, or
 * deleted since. Under RCU.
 */
bool owner_finish_root(struct fiber *root)
{
	long owner = atomic_long_read(&root->owner);
	bool free;

	do {
		if (owner == OWNER_FINISHED || owner == OWNER_DELETED)
			return true;
		free = owner == OWNER_FREE;
	} while (!atomic_long_try_cmpxchg(&root->owner, &owner,
					  free ? OWNER_FINISHED : owner | OWNER_EXIT_PENDING));
	return free;
}

/*
 * Claims a fiber for deletion; no thread can own it afterwards. -EBUSY: it is
 * running. -EPERM: it is the root fiber of a living thread. -ESRCH: it has been
 * claimed. Under RCU.
 */
long owner_delete(struct fiber *fiber)
{
	/* The thread of a root fiber must be done with it. */
	long from = fiber->root_of ? OWNER_FINISHED : OWNER_FREE;
	long owner = atomic_long_cmpxchg_acquire(&fiber->owner, from, OWNER_DELETED);

	if (owner == from)
		return 0;
	switch (owner) {
	case OWNER_FREE:
		return -EPERM;
	case OWNER_DELETED:
		return -ESRCH;
	default:
		return -EBUSY;
	}
}
