// SPDX-License-Identifier: GPL-2.0-only
/*
 * Process entries: one for a process image that opened /dev/fiber, from then
 * until its last thread exits or it calls execve(). Fibers therefore outlive
 * the threads that made and ran them.
 */
#include <linux/hashtable.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "internal.h"

static DEFINE_HASHTABLE(processes, 10);
static DEFINE_RAW_SPINLOCK(fiber_processes_lock);

atomic_long_t fiber_processes;

static void process_end_work(struct work_struct *work);
static void process_free_work(struct work_struct *work);

/* The entry of a thread group or NULL. Under RCU or fiber_processes_lock. */
struct fiber_process *fiber_process_lookup(struct signal_struct *signal)
{
	struct fiber_process *process;

	hash_for_each_possible_rcu(processes, process, node, (unsigned long)signal,
				   lockdep_is_held(&fiber_processes_lock))
		if (process->signal == signal)
			return process;
	return NULL;
}

/* Returns the entry of a thread group with a reference, or NULL. */
struct fiber_process *fiber_process_find(struct signal_struct *signal)
{
	struct fiber_process *process;

	rcu_read_lock();
	process = fiber_process_lookup(signal);
	if (process && !refcount_inc_not_zero(&process->refs))
		process = NULL;
	rcu_read_unlock();
	return process;
}

static struct fiber_process *process_alloc(void)
{
	u32 max = clamp(READ_ONCE(fiber_max_fibers), 1U, FIBER_SLOT_MASK);
	struct fiber_process *process;

	process = kvzalloc(struct_size(process, chunks, (max >> FIBER_CHUNK_SHIFT) + 1),
			   GFP_KERNEL_ACCOUNT);
	if (!process)
		return NULL;
	if (fiber_tables_create(process)) {
		kvfree(process);
		return NULL;
	}
	refcount_set(&process->refs, 1);
	refcount_set(&process->users, 1);
	process->mm = current->mm;
	mmgrab(process->mm);
	process->signal = current->signal;
	process->pid = get_pid(task_tgid(current));
	mutex_init(&process->lock);
	ida_init(&process->ids);
	process->end = 1;
	process->max = max;
	init_waitqueue_head(&process->left);
	INIT_WORK(&process->end_work, process_end_work);
	INIT_WORK(&process->free_work, process_free_work);
	atomic_long_inc(&fiber_processes);
	return process;
}

/* Returns the calling process's entry, made if need be, with a reference, or an error. */
struct fiber_process *fiber_process_open(void)
{
	struct fiber_process *process, *rival;

	if (!current->mm)
		return ERR_PTR(-EPERM);
	process = fiber_process_find(current->signal);
	if (process)
		return process;

	process = process_alloc();
	if (!process)
		return ERR_PTR(-ENOMEM);

	raw_spin_lock(&fiber_processes_lock);
	rival = fiber_process_lookup(current->signal);
	if (rival) {
		/* An entry in the table has the table's reference. */
		refcount_inc(&rival->refs);
	} else {
		refcount_inc(&process->refs);
		hash_add_rcu(processes, &process->node, (unsigned long)process->signal);
	}
	raw_spin_unlock(&fiber_processes_lock);

	if (!rival)
		return process;
	fiber_process_put(process);
	return rival;
}

void fiber_process_get(struct fiber_process *process)
{
	refcount_inc(&process->refs);
}

/* In any context. */
void fiber_process_put(struct fiber_process *process)
{
	if (refcount_dec_and_test(&process->refs))
		queue_work(fiber_workqueue, &process->free_work);
}

static void process_free_work(struct work_struct *work)
{
	struct fiber_process *process = container_of(work, struct fiber_process, free_work);

	fiber_tables_destroy(process);
	fiber_table_free(process);
	ida_destroy(&process->ids);
	mutex_destroy(&process->lock);
	put_pid(process->pid);
	mmdrop(process->mm);
	kvfree_rcu(process, rcu);
	atomic_long_dec(&fiber_processes);
}

static void process_free_fibers(struct fiber_process *process)
{
	u32 i, slot;

	for (i = 0; i <= process->max >> FIBER_CHUNK_SHIFT; i++) {
		struct fiber_chunk *chunk;

		chunk = rcu_replace_pointer(process->chunks[i], NULL,
					    lockdep_is_held(&process->lock));

		if (!chunk)
			continue;
		for (slot = 0; slot < FIBER_CHUNK_SIZE; slot++) {
			struct fiber *fiber = rcu_dereference_protected(chunk->fibers[slot], true);

			if (fiber)
				fiber_free(fiber);
		}
		kfree(chunk);
		cond_resched();
	}
}

static void process_end_work(struct work_struct *work)
{
	struct fiber_process *process = container_of(work, struct fiber_process, end_work);

	/* Readers in /proc that found it alive are done after this, or have the lock. */
	synchronize_rcu();
	mutex_lock(&process->lock);
	process_free_fibers(process);
	fiber_table_end(process);
	mutex_unlock(&process->lock);
	/* Last, since it waits for readers, who can take their time. */
	fiber_procfs_remove(process);
	fiber_process_put(process);
}

/* The last user leaves the table's reference to the work. In any context. */
void fiber_process_unuse(struct fiber_process *process)
{
	if (refcount_dec_and_test(&process->users))
		queue_work(fiber_workqueue, &process->end_work);
}

/* The image has ended: takes the entry out of the table. */
static void process_unhash(struct fiber_process *process)
{
	lockdep_assert_held(&fiber_processes_lock);

	hash_del_rcu(&process->node);
	WRITE_ONCE(process->dead, true);
	fiber_process_unuse(process);
}

/*
 * The process image is gone. May be called more than once: two threads of a
 * dying group can both see that nobody is alive.
 */
void fiber_process_end(struct signal_struct *signal)
{
	struct fiber_process *process;
	unsigned long flags;

	rcu_read_lock();
	process = fiber_process_lookup(signal);
	rcu_read_unlock();
	if (!process)
		return;

	raw_spin_lock_irqsave(&fiber_processes_lock, flags);
	process = fiber_process_lookup(signal);
	if (process)
		process_unhash(process);
	raw_spin_unlock_irqrestore(&fiber_processes_lock, flags);
}

/* On unload, when no thread is a fiber and no descriptor is open. */
void fiber_process_end_all(void)
{
	struct fiber_process *process;
	struct hlist_node *next;
	unsigned int bucket;

	raw_spin_lock_irq(&fiber_processes_lock);
	hash_for_each_safe(processes, bucket, next, process, node)
		process_unhash(process);
	raw_spin_unlock_irq(&fiber_processes_lock);
}
