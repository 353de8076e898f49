/* SPDX-License-Identifier: GPL-2.0-only */
/* Processes that have an entry: identity, references, look-up. */
#ifndef FIBER_PROCESS_H
#define FIBER_PROCESS_H

#include "types.h"
#include "user.h"

extern struct workqueue_struct *fiber_workqueue;

struct fiber_process *fiber_process_lookup(struct signal_struct *signal);
struct fiber_process *fiber_process_find(struct signal_struct *signal);
struct fiber_process *fiber_process_next(u32 *bucket, pid_t *nr);
struct fiber_process *fiber_process_add(struct fiber_process *process);
void fiber_process_end(struct signal_struct *signal);
void fiber_process_end_all(void);

static inline struct fiber_process *fiber_process_get(struct fiber_process *process)
{
	refcount_inc(&process->refs);
	return process;
}

/* In any context. */
static inline void fiber_process_put(struct fiber_process *process)
{
	/* Readers of the table of processes are done before the work begins. */
	if (refcount_dec_and_test(&process->refs))
		queue_rcu_work(fiber_workqueue, &process->free_work);
}

/* A thread that will touch the fibers. */
static inline void fiber_process_use(struct fiber_process *process)
{
	refcount_inc(&process->users);
}

/*
 * Dropping the last user queues end_work, which drops the reference that the
 * table of processes had. Readers that found the process alive are done before
 * the work begins. In any context.
 */
static inline void fiber_process_unuse(struct fiber_process *process)
{
	if (refcount_dec_and_test(&process->users)) {
		fiber_user_end(process->user);
		queue_rcu_work(fiber_workqueue, &process->end_work);
	}
}

/* Chooses the engine of a process that has none so far; false: it has another one. */
static inline bool fiber_process_choose(struct fiber_process *process,
					const struct fiber_engine *engine)
{
	const struct fiber_engine *before = cmpxchg(&process->engine, NULL, engine);

	return !before || before == engine;
}

static inline bool fiber_process_is_current(const struct fiber_process *process)
{
	if (process->mm != current->mm || process->signal != current->signal)
		return false;
	/* Both addresses can be reused, but only after it was marked dead. */
	smp_rmb();
	return !READ_ONCE(process->dead);
}

#endif /* FIBER_PROCESS_H */
