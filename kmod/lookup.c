// SPDX-License-Identifier: GPL-2.0-only
/*
 * How the calling thread's fiber and the target of a switch are found: parameter
 * `lookup`, for comparing the report's two versions with ours.
 *
 *		process			calling thread		fiber
 *	direct	the descriptor's	the task's notifier	slot
 *	hash	table of processes	table of threads	table of fibers
 *	scan	table of processes	all fibers, in turn	table of fibers
 *
 * What a look-up finds is the same, so are all semantics. The tables exist for
 * `hash` and `scan` only, beside the slots.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/hashtable.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>

#include "internal.h"

#define TABLE_BITS 10	/* as in the report */

static char *lookup = "direct";
module_param(lookup, charp, 0444);
MODULE_PARM_DESC(lookup, "How the running fiber is found: direct, hash (the report's version 1) or scan (its version 2) (default direct)");

enum fiber_lookup fiber_lookup __ro_after_init;

/**
 * struct fiber_tables - the report's tables of one process
 * @lock: for changes, with interrupts off; readers use RCU
 * @fibers: by id
 * @threads: by task; with `hash` only
 */
struct fiber_tables {
	raw_spinlock_t lock;	/* see above */
	DECLARE_HASHTABLE(fibers, TABLE_BITS);
	DECLARE_HASHTABLE(threads, TABLE_BITS);
};

int __init fiber_lookup_init(void)
{
	static const char * const names[] = { "direct", "hash", "scan" };
	int i = match_string(names, ARRAY_SIZE(names), lookup);

	if (i < 0) {
		pr_err("lookup=%s: not one of direct, hash, scan\n", lookup);
		return -EINVAL;
	}
	fiber_lookup = i;
	return 0;
}

/* -ENOMEM. */
int fiber_tables_create(struct fiber_process *process)
{
	struct fiber_tables *tables;

	if (fiber_lookup == FIBER_LOOKUP_DIRECT)
		return 0;
	tables = kvzalloc(sizeof(*tables), GFP_KERNEL_ACCOUNT);
	if (!tables)
		return -ENOMEM;
	raw_spin_lock_init(&tables->lock);
	process->tables = tables;
	return 0;
}

void fiber_tables_destroy(struct fiber_process *process)
{
	kvfree(process->tables);
}

void fiber_tables_add_fiber(struct fiber_process *process, struct fiber *fiber)
{
	struct fiber_tables *tables = process->tables;

	if (!tables)
		return;
	raw_spin_lock_irq(&tables->lock);
	hash_add_rcu(tables->fibers, &fiber->node, fiber->id);
	raw_spin_unlock_irq(&tables->lock);
}

void fiber_tables_remove_fiber(struct fiber_process *process, struct fiber *fiber)
{
	struct fiber_tables *tables = process->tables;

	if (!tables)
		return;
	raw_spin_lock_irq(&tables->lock);
	hash_del_rcu(&fiber->node);
	raw_spin_unlock_irq(&tables->lock);
}

/* The calling thread. */
void fiber_tables_add_thread(struct fiber_process *process, struct fiber_thread *thread)
{
	struct fiber_tables *tables = process->tables;

	if (fiber_lookup != FIBER_LOOKUP_HASH)
		return;
	raw_spin_lock_irq(&tables->lock);
	hash_add_rcu(tables->threads, &thread->node, (unsigned long)thread->pid);
	raw_spin_unlock_irq(&tables->lock);
}

/* In any context. */
void fiber_tables_remove_thread(struct fiber_process *process, struct fiber_thread *thread)
{
	struct fiber_tables *tables = process->tables;
	unsigned long flags;

	if (fiber_lookup != FIBER_LOOKUP_HASH)
		return;
	raw_spin_lock_irqsave(&tables->lock, flags);
	hash_del_rcu(&thread->node);
	raw_spin_unlock_irqrestore(&tables->lock, flags);
}

/* The calling thread by its pid, in the table of threads. */
static struct fiber_thread *hash_caller(struct fiber_tables *tables)
{
	struct pid *pid = task_pid(current);
	struct fiber_thread *thread;

	hash_for_each_possible_rcu(tables->threads, thread, node, (unsigned long)pid)
		if (thread->pid == pid)
			return thread;
	return NULL;
}

/* The calling thread by its pid, in each fiber that some thread runs. */
static struct fiber_thread *scan_caller(struct fiber_tables *tables)
{
	struct pid *pid = task_pid(current);
	struct fiber *fiber;
	int bucket;

	hash_for_each_rcu(tables->fibers, bucket, fiber, node) {
		struct fiber_thread *thread = fiber_owner_thread(atomic_long_read(&fiber->owner));

		if (thread && thread->pid == pid)
			return thread;
	}
	return NULL;
}

/* fiber_caller() in the report's ways. */
struct fiber_thread *fiber_tables_caller(struct fiber_process *process)
{
	struct fiber_thread *thread = NULL;

	rcu_read_lock();
	if (fiber_process_lookup(current->signal) == process)
		thread = fiber_lookup == FIBER_LOOKUP_HASH ? hash_caller(process->tables) :
							     scan_caller(process->tables);
	rcu_read_unlock();
	return thread;
}

/* fiber_find() in the report's way. */
struct fiber *fiber_tables_find(struct fiber_process *process, u64 id)
{
	struct fiber *fiber;

	hash_for_each_possible_rcu(process->tables->fibers, fiber, node, id,
				   fiber_slots_held(process))
		if (fiber->id == id)
			return fiber;
	return NULL;
}
