/* SPDX-License-Identifier: GPL-2.0-only */
/* Finding the calling thread, and a fiber by its id: the start of every request. */
#ifndef FIBER_FIND_H
#define FIBER_FIND_H

#include <linux/nospec.h>

#include "report_lookup.h"
#include "types.h"

/* The calling thread as a thread of that engine, or NULL. In any context. */
static inline struct fiber_thread *fiber_thread_of(const struct fiber_engine *engine)
{
	struct preempt_notifier *notifier;

	hlist_for_each_entry(notifier, &current->preempt_notifiers, link)
		if (notifier->ops == &engine->preempt)
			return container_of(notifier, struct fiber_thread, notifier);
	return NULL;
}

static inline const struct fiber_engine *fiber_thread_engine(const struct fiber_thread *thread)
{
	return container_of(thread->notifier.ops, struct fiber_engine, preempt);
}

/* The calling thread as a thread of whichever engine, or NULL. In any context. */
static inline struct fiber_thread *fiber_thread_current(void)
{
	return fiber_thread_of(&fiber_engine_kernel) ?: fiber_thread_of(&fiber_engine_mapped);
}

/* The calling thread, if it is a fiber that the module switches for that process, else NULL. */
static inline struct fiber_thread *fiber_caller(struct fiber_process *process)
{
	struct fiber_thread *thread;

	if (static_branch_unlikely(&fiber_report_lookup))
		return fiber_tables_caller(process);
	thread = fiber_thread_of(&fiber_engine_kernel);
	return likely(thread && thread->process == process) ? thread : NULL;
}

/* The place of a fiber in the slots, or NULL. Under RCU, which interrupts off include. */
static inline struct fiber __rcu **fiber_slot(struct fiber_process *process, u32 slot)
{
	struct fiber_chunk *chunk;

	chunk = rcu_dereference_check(process->chunks[slot >> FIBER_CHUNK_SHIFT],
				      rcu_read_lock_any_held());
	return chunk ? &chunk->fibers[slot & (FIBER_CHUNK_SIZE - 1)] : NULL;
}

/*
 * Returns the fiber of that id or NULL. Under RCU, which is how long the fiber
 * stays unless the caller comes to own it.
 */
static inline struct fiber *fiber_find(struct fiber_process *process, u64 id)
{
	u32 slot = id & FIBER_SLOT_MASK;
	struct fiber __rcu **place;
	struct fiber *fiber;

	if (static_branch_unlikely(&fiber_report_lookup))
		return fiber_tables_find(process, id);
	if (unlikely(slot > process->max))
		return NULL;
	place = fiber_slot(process, array_index_nospec(slot, process->max + 1));
	if (unlikely(!place))
		return NULL;
	fiber = rcu_dereference_check(*place, rcu_read_lock_any_held());
	return likely(fiber && fiber->id == id) ? fiber : NULL;
}

#endif /* FIBER_FIND_H */
