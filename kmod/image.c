// SPDX-License-Identifier: GPL-2.0-only
/*
 * The entry of a process image is created when the process first opens the device.
 * Its fibers are freed when the image has ended and its last thread has left the
 * module; the entry itself is freed with the last reference.
 */
#include <linux/irq_work.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "fibers.h"
#include "image.h"
#include "process.h"
#include "report_lookup.h"
#include "table.h"
#include "user.h"

atomic_long_t fiber_processes;

static u32 chunks_of(u32 max)
{
	return (max >> FIBER_CHUNK_SHIFT) + 1;
}

static size_t process_bytes(u32 max)
{
	return sizeof(struct fiber_process) + fiber_user_size() +
	       chunks_of(max) * sizeof(struct fiber_chunk *) + fiber_tables_size();
}

static void process_wake(struct irq_work *work)
{
	wake_up_all(&container_of(work, struct fiber_process, wake)->left);
}

/* Frees all but the shell, which has no fibers any more. */
static void process_strip(struct fiber_process *process)
{
	fiber_tables_destroy(process);
	kvfree(process->chunks);
	ida_destroy(&process->ids);
	/* From now on the address may mean another one: see fiber_process_is_current(). */
	mmdrop(process->mm);
	fiber_user_uncharge(process->user, process_bytes(process->max));
}

/* The image has ended, its last thread is through, and readers of its fibers are done. */
static void process_end_work(struct work_struct *work)
{
	struct fiber_process *process = container_of(to_rcu_work(work), struct fiber_process,
						     end_work);

	fiber_free_all(process);
	if (process->table)
		fiber_table_free(process->table);
	process->table = NULL;
	fiber_user_ended(process->user);
	process_strip(process);
	fiber_process_put(process);
}

/* The last reference was dropped. */
static void process_free_work(struct work_struct *work)
{
	struct fiber_process *process = container_of(to_rcu_work(work), struct fiber_process,
						     free_work);

	/* It touches the process until it returns. */
	irq_work_sync(&process->wake);
	put_pid(process->pid);
	kfree(process);
	atomic_long_dec(&fiber_processes);
}

/* An entry for the calling process, with one reference, or an error. */
static struct fiber_process *process_alloc(void)
{
	u32 max = READ_ONCE(fiber_max_fibers);
	struct fiber_process *process;
	struct fiber_user *user;

	user = fiber_user_open(process_bytes(max));
	if (IS_ERR(user))
		return ERR_CAST(user);
	process = kzalloc(sizeof(*process), GFP_KERNEL_ACCOUNT);
	if (!process)
		goto uncharge;
	process->chunks = kvcalloc(chunks_of(max), sizeof(*process->chunks), GFP_KERNEL_ACCOUNT);
	if (!process->chunks)
		goto free;
	if (fiber_tables_create(process))
		goto free_chunks;
	refcount_set(&process->refs, 1);
	refcount_set(&process->users, 1);
	process->user = user;
	process->mm = current->mm;
	mmgrab(process->mm);
	process->signal = current->signal;
	process->pid = get_pid(task_tgid(current));
	seqlock_init(&process->names);
	ida_init(&process->ids);
	atomic_set(&process->end, 1);
	process->max = max;
	init_waitqueue_head(&process->left);
	init_irq_work(&process->wake, process_wake);
	INIT_RCU_WORK(&process->end_work, process_end_work);
	INIT_RCU_WORK(&process->free_work, process_free_work);
	atomic_long_inc(&fiber_processes);
	return process;

free_chunks:
	kvfree(process->chunks);
free:
	kfree(process);
uncharge:
	fiber_user_uncharge(user, process_bytes(max));
	return ERR_PTR(-ENOMEM);
}

/* Returns the calling process's entry, made if need be, with a reference, or an error. */
struct fiber_process *fiber_process_open(void)
{
	struct fiber_process *process, *entry;

	if (!current->mm)
		return ERR_PTR(-EPERM);
	process = fiber_process_find(current->signal);
	if (process)
		return process;

	process = process_alloc();
	if (IS_ERR(process))
		return process;
	entry = fiber_process_add(process);
	if (entry != process) {
		process_strip(process);
		fiber_process_put(process);
	}
	return entry;
}
