// SPDX-License-Identifier: GPL-2.0-only
/*
 * How the calling thread's fiber and the target of a switch are found: parameter
 * `lookup`, which compares the reference report's two versions with ours.
 *
 *		process			calling thread		fiber
 *	direct	the descriptor's	the task's notifier	slot
 *	hash	table of processes	table of threads	table of fibers
 *	scan	table of processes	all fibers, in turn	table of fibers
 *
 * `hash` is the report's version 1, `scan` its version 2. All three find the same
 * fiber. `hash` and `scan` keep their tables in addition to the slots; a static
 * key makes sure that they cost `direct` nothing.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/pid.h>
#include <linux/random.h>
#include <linux/slab.h>

#include "find.h"
#include "owner.h"
#include "process.h"
#include "report_lookup.h"

#define TABLE_BITS 10	/* as in the report */

static char *lookup = "direct";
module_param(lookup, charp, 0444);
MODULE_PARM_DESC(lookup, "How the running fiber is found: direct, hash (the report's version 1) or scan (its version 2) (default direct)");

DEFINE_STATIC_KEY_FALSE(fiber_report_lookup);

static bool scan __ro_after_init;

/* Odd and secret, so that no program can choose ids that share a bucket. */
static u64 hash_key __ro_after_init;

/**
 * struct fiber_tables - the report's tables of one process
 * @lock: for changes, with interrupts off; readers use RCU
 * @fibers: by id
 * @threads: by pid; with `hash` only
 */
struct fiber_tables {
	raw_spinlock_t lock;	/* see above */
	struct hlist_head fibers[1 << TABLE_BITS];
	struct hlist_head threads[1 << TABLE_BITS];
};

static unsigned int bucket_of(u64 key)
{
	return key * hash_key >> (64 - TABLE_BITS);
}

int __init fiber_report_init(void)
{
	static const char * const names[] = { "direct", "hash", "scan" };
	int i = match_string(names, ARRAY_SIZE(names), lookup);

	if (i < 0) {
		pr_err("lookup=%s: not one of direct, hash, scan\n", lookup);
		return -EINVAL;
	}
	get_random_bytes(&hash_key, sizeof(hash_key));
	hash_key |= 1;
	scan = i == 2;
	if (i)
		static_branch_enable(&fiber_report_lookup);
	return 0;
}

/* Bytes that fiber_tables_create() allocates for a process. */
size_t fiber_tables_size(void)
{
	return static_branch_unlikely(&fiber_report_lookup) ? sizeof(struct fiber_tables) : 0;
}

/* -ENOMEM. */
int fiber_tables_create(struct fiber_process *process)
{
	struct fiber_tables *tables;

	if (!static_branch_unlikely(&fiber_report_lookup))
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
	process->tables = NULL;
}

void fiber_tables_add_fiber(struct fiber_process *process, struct fiber *fiber)
{
	struct fiber_tables *tables = process->tables;

	if (!tables)
		return;
	raw_spin_lock_irq(&tables->lock);
	hlist_add_head_rcu(&fiber->node, &tables->fibers[bucket_of(fiber->id)]);
	raw_spin_unlock_irq(&tables->lock);
}

void fiber_tables_remove_fiber(struct fiber_process *process, struct fiber *fiber)
{
	struct fiber_tables *tables = process->tables;

	if (!tables)
		return;
	raw_spin_lock_irq(&tables->lock);
	hlist_del_rcu(&fiber->node);
	raw_spin_unlock_irq(&tables->lock);
}

/* The calling thread. */
void fiber_tables_add_thread(struct fiber_process *process, struct fiber_thread *thread)
{
	struct fiber_tables *tables = process->tables;

	if (!tables || scan)
		return;
	raw_spin_lock_irq(&tables->lock);
	hlist_add_head_rcu(&thread->node, &tables->threads[bucket_of((unsigned long)thread->pid)]);
	raw_spin_unlock_irq(&tables->lock);
}

/* In any context. */
void fiber_tables_remove_thread(struct fiber_process *process, struct fiber_thread *thread)
{
	struct fiber_tables *tables = process->tables;
	unsigned long flags;

	if (!tables || scan)
		return;
	raw_spin_lock_irqsave(&tables->lock, flags);
	hlist_del_rcu(&thread->node);
	raw_spin_unlock_irqrestore(&tables->lock, flags);
}

/* The calling thread by its pid, in the table of threads. */
static struct fiber_thread *hash_caller(struct fiber_tables *tables)
{
	struct pid *pid = task_pid(current);
	struct fiber_thread *thread;

	hlist_for_each_entry_rcu(thread, &tables->threads[bucket_of((unsigned long)pid)], node)
		if (thread->pid == pid)
			return thread;
	return NULL;
}

/* The calling thread by its pid, in each fiber that some thread runs. */
static struct fiber_thread *scan_caller(struct fiber_tables *tables)
{
	struct pid *pid = task_pid(current);
	struct fiber *fiber;
	unsigned int bucket;

	for (bucket = 0; bucket < ARRAY_SIZE(tables->fibers); bucket++)
		hlist_for_each_entry_rcu(fiber, &tables->fibers[bucket], node) {
			long owner = atomic_long_read(&fiber->owner);
			struct fiber_thread *thread = owner_thread(owner);

			if (thread && thread->pid == pid)
				return thread;
		}
	return NULL;
}

/* fiber_caller() in the report's ways. Interrupts are on. */
struct fiber_thread *fiber_tables_caller(struct fiber_process *process)
{
	struct fiber_thread *thread = NULL;

	rcu_read_lock();
	if (fiber_process_lookup(current->signal) == process)
		thread = scan ? scan_caller(process->tables) : hash_caller(process->tables);
	rcu_read_unlock();
	return thread;
}

/* fiber_find() in the report's way. */
struct fiber *fiber_tables_find(struct fiber_process *process, u64 id)
{
	struct fiber *fiber;

	hlist_for_each_entry_rcu(fiber, &process->tables->fibers[bucket_of(id)], node)
		if (fiber->id == id)
			return fiber;
	return NULL;
}
