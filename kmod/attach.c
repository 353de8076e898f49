// SPDX-License-Identifier: GPL-2.0-only
/*
 * Engine `mapped`: threads that run fibers of the status table, each in a thread
 * area of its own, to which the module adds the thread's time off the CPU.
 */
#include <linux/nospec.h>
#include <linux/pid.h>
#include <asm/tsc.h>

#include "attach.h"
#include "compat.h"
#include "find.h"
#include "process.h"
#include "table.h"
#include "thread.h"

void fiber_attach_sched_in(struct preempt_notifier *notifier, int cpu)
{
	struct fiber_thread *thread = container_of(notifier, struct fiber_thread, notifier);
	u64 now = rdtsc();

	/* Counters of two CPUs may differ a little. */
	if (now > thread->off_at)
		WRITE_ONCE(thread->off, thread->off + (now - thread->off_at));
	WRITE_ONCE(thread->off_at, 0);
	WRITE_ONCE(thread->area->off, thread->off);
}

void fiber_attach_sched_out(struct preempt_notifier *notifier, struct task_struct *next)
{
	struct fiber_thread *thread = container_of(notifier, struct fiber_thread, notifier);

	WRITE_ONCE(thread->off_at, rdtsc());
}

static void detach(struct fiber_thread *thread, bool dead)
{
	struct status_table *table = thread->process->table;
	unsigned long flags;

	fiber_thread_unhook(thread);
	raw_spin_lock_irqsave(&table->places, flags);
	rcu_assign_pointer(*thread->place, NULL);
	/* The process may want the area for another thread as soon as it reads this. */
	if (dead)
		WRITE_ONCE(thread->area->dead, 1);
	raw_spin_unlock_irqrestore(&table->places, flags);
	fiber_thread_free(thread);
}

/* fiber_engine.end: the next owner sees that it may take the fiber that the thread ran. */
void fiber_attach_end(struct fiber_thread *thread)
{
	detach(thread, true);
}

/* FIBER_IOC_DETACH */
long fiber_detach(struct fiber_process *process)
{
	struct fiber_thread *thread = fiber_thread_of(&fiber_engine_mapped);

	if (!thread || thread->process != process)
		return -EPERM;
	detach(thread, false);
	return 0;
}

/* Makes the calling thread known as that area's. */
static int attach(struct status_table *table, struct fiber_thread *thread, u32 number)
{
	struct table_block *block = fiber_table_block(table, number);
	struct fiber_thread __rcu **place;
	int err = 0;

	lockdep_assert_held(&table->lock);

	if (IS_ERR(block))
		return PTR_ERR(block);
	place = &block->threads[number % TABLE_BLOCK_AREAS];
	thread->place = place;
	thread->area = fiber_table_address(table, FIBER_TABLE_AREAS_AT + number * TABLE_AREA_SIZE);
	raw_spin_lock_irq(&table->places);
	if (rcu_access_pointer(*place)) {
		err = -EBUSY;
	} else {
		memset(thread->area, 0, TABLE_AREA_SIZE);
		WRITE_ONCE(thread->area->tid, task_pid_vnr(current));
		rcu_assign_pointer(*place, thread);
	}
	raw_spin_unlock_irq(&table->places);
	return err;
}

/* FIBER_IOC_ATTACH */
long fiber_attach(struct fiber_process *process, unsigned long number)
{
	struct status_table *table = READ_ONCE(process->table);
	struct fiber_thread *thread;
	long err;

	if (!table || !number || number >= FIBER_THREAD_AREAS)
		return -EINVAL;
	number = array_index_nospec(number, FIBER_THREAD_AREAS);
	if (fiber_thread_current())
		return -EEXIST;
	if (fiber_has_shadow_stack())
		return -EOPNOTSUPP;
	thread = fiber_thread_alloc(process, &fiber_engine_mapped);
	if (IS_ERR(thread))
		return PTR_ERR(thread);

	err = -EINTR;
	if (mutex_lock_killable(&table->lock))
		goto free;
	err = attach(table, thread, number);
	mutex_unlock(&table->lock);
	if (err)
		goto free;
	preempt_disable();
	fiber_thread_hook(thread);
	preempt_enable();
	return 0;

free:
	fiber_thread_free(thread);
	return err;
}

/* The thread of area @number, which comes from shared memory, or NULL. Under RCU. */
struct fiber_thread *fiber_attach_find(struct status_table *table, u32 number)
{
	struct table_block *block;

	if (!number || number >= FIBER_THREAD_AREAS)
		return NULL;
	number = array_index_nospec(number, FIBER_THREAD_AREAS);
	/* Pairs with fiber_table_block(). */
	block = smp_load_acquire(&table->blocks[number / TABLE_BLOCK_AREAS]);
	return block ? rcu_dereference(block->threads[number % TABLE_BLOCK_AREAS]) : NULL;
}

/*
 * Cycles that the thread has been running that fiber, as far as its area says so. Nothing
 * if the run has begun at another moment than the fiber was last switched to: it ends just now,
 * and may have been added to the fiber's time.
 */
u64 fiber_attach_run(const struct fiber_thread *thread, u64 id, u64 last_switch)
{
	const struct fiber_thread_area *area = thread->area;
	u64 since, off, off_at;
	s64 run;

	/* The thread may come onto the CPU or leave it meanwhile. */
	do {
		off = READ_ONCE(thread->off);
		off_at = READ_ONCE(thread->off_at);
		since = READ_ONCE(area->since);
		run = (off_at ?: rdtsc()) - since - (off - READ_ONCE(area->off_since));
	} while (off_at != READ_ONCE(thread->off_at) || off != READ_ONCE(thread->off));
	return READ_ONCE(area->fiber) == id && since == last_switch && run > 0 ? run : 0;
}
