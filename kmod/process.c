// SPDX-License-Identifier: GPL-2.0-only
/*
 * The table of processes: an entry for each process image that opened
 * /dev/fiber, from then until its last thread exits or it calls execve().
 * Fibers therefore outlive the threads that made and ran them.
 */
#include <linux/hashtable.h>
#include <linux/pid.h>
#include <linux/sched/signal.h>

#include "process.h"
#include "table.h"

static DEFINE_HASHTABLE(processes, 10);
static DEFINE_RAW_SPINLOCK(processes_lock);

/* The entry of a thread group or NULL. Under RCU or processes_lock. */
struct fiber_process *fiber_process_lookup(struct signal_struct *signal)
{
	struct fiber_process *process;

	hash_for_each_possible_rcu(processes, process, node, (unsigned long)signal,
				   lockdep_is_held(&processes_lock))
		if (process->signal == signal)
			return process;
	return NULL;
}

/* Returns the entry of a thread group with a reference, or NULL. */
struct fiber_process *fiber_process_find(struct signal_struct *signal)
{
	struct fiber_process *process;

	rcu_read_lock();
	/* An entry that is found here keeps the table's reference until after this section. */
	process = fiber_process_lookup(signal);
	if (process)
		fiber_process_get(process);
	rcu_read_unlock();
	return process;
}

/*
 * Returns the first entry at or behind that bucket and pid, with a reference, and
 * where it was; NULL at the end. Within a bucket the order is that of the pids.
 */
struct fiber_process *fiber_process_next(u32 *bucket, pid_t *nr)
{
	struct fiber_process *process, *next = NULL;

	for (; *bucket < HASH_SIZE(processes); ++*bucket, *nr = 0) {
		rcu_read_lock();
		hlist_for_each_entry_rcu(process, &processes[*bucket], node)
			if (pid_nr(process->pid) >= *nr &&
			    (!next || pid_nr(process->pid) < pid_nr(next->pid)))
				next = process;
		if (next)
			fiber_process_get(next);
		rcu_read_unlock();
		if (next) {
			*nr = pid_nr(next->pid);
			return next;
		}
	}
	return NULL;
}

/*
 * Adds the calling process's entry, whose one reference becomes the caller's.
 * Returns it, or the one that another thread has added before, with a reference.
 */
struct fiber_process *fiber_process_add(struct fiber_process *process)
{
	struct fiber_process *rival;

	raw_spin_lock_irq(&processes_lock);
	rival = fiber_process_lookup(current->signal);
	if (rival) {
		fiber_process_get(rival);
	} else {
		fiber_process_get(process);
		hash_add_rcu(processes, &process->node, (unsigned long)process->signal);
	}
	raw_spin_unlock_irq(&processes_lock);
	return rival ?: process;
}

/* The image has ended: takes the entry out of the table. */
static void process_unhash(struct fiber_process *process)
{
	lockdep_assert_held(&processes_lock);

	hash_del_rcu(&process->node);
	WRITE_ONCE(process->dead, true);
	if (process->table)
		fiber_table_end(process->table);
	fiber_process_unuse(process);
}

/*
 * The process image is gone. May be called more than once: two threads of a
 * dying group can both see that no thread is alive.
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

	raw_spin_lock_irqsave(&processes_lock, flags);
	process = fiber_process_lookup(signal);
	if (process)
		process_unhash(process);
	raw_spin_unlock_irqrestore(&processes_lock, flags);
}

/* On unload, when no thread is a fiber and no descriptor is open. */
void fiber_process_end_all(void)
{
	struct fiber_process *process;
	struct hlist_node *next;
	unsigned int bucket;

	raw_spin_lock_irq(&processes_lock);
	hash_for_each_safe(processes, bucket, next, process, node)
		process_unhash(process);
	raw_spin_unlock_irq(&processes_lock);
}
