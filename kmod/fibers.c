// SPDX-License-Identifier: GPL-2.0-only
/* Fibers: creation, look-up, names, deletion. Slots are slots of a process. */
#include <linux/pid.h>
#include <linux/sched/clock.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

static struct kmem_cache *fiber_cache;

atomic_long_t fiber_fibers;

int __init fiber_cache_init(void)
{
	fiber_cache = kmem_cache_create("fiber", sizeof(struct fiber), 0, SLAB_ACCOUNT, NULL);
	return fiber_cache ? 0 : -ENOMEM;
}

void fiber_cache_exit(void)
{
	kmem_cache_destroy(fiber_cache);
}

/* Returns a fiber of the calling thread's making, owned by nobody, or an error. */
struct fiber *fiber_alloc(struct fiber_process *process, u32 flags)
{
	struct fiber *fiber;
	int err;

	fiber = kmem_cache_zalloc(fiber_cache, GFP_KERNEL);
	if (!fiber)
		return ERR_PTR(-ENOMEM);
	err = fiber_context_init(flags & FIBER_FLAG_FPU, &fiber->context);
	if (err) {
		kmem_cache_free(fiber_cache, fiber);
		return ERR_PTR(err);
	}
	fiber->flags = flags;
	fiber->parent = get_pid(task_pid(current));
	fiber->first_mask = current->blocked;
	fiber->last_switch = local_clock();
	atomic_long_inc(&fiber_fibers);
	return fiber;
}

/* Nobody else can reach the fiber any more. In any context. */
void fiber_free(struct fiber *fiber)
{
	fiber_context_destroy(&fiber->context);
	kfree(fiber->fls);
	put_pid(fiber->parent);
	kmem_cache_free(fiber_cache, fiber);
	atomic_long_dec(&fiber_fibers);
}

static void fiber_free_rcu(struct rcu_head *rcu)
{
	fiber_free(container_of(rcu, struct fiber, rcu));
}

/* Returns the id of the fiber in that slot, 0 if there is none or the process has ended. */
u64 fiber_slot_id(struct fiber_process *process, u32 slot)
{
	struct fiber __rcu **place;
	struct fiber *fiber;
	u64 id = 0;

	if (slot > process->max)
		return 0;
	slot = array_index_nospec(slot, process->max + 1);
	rcu_read_lock();
	place = READ_ONCE(process->dead) ? NULL : fiber_slot(process, slot);
	if (place) {
		fiber = rcu_dereference(*place);
		if (fiber)
			id = fiber->id;
	}
	rcu_read_unlock();
	return id;
}

/*
 * Gives the fiber an id that nobody can use before fiber_publish(). -EAGAIN:
 * the process has its maximum. -ENOMEM.
 */
int fiber_reserve(struct fiber_process *process, struct fiber *fiber)
{
	struct fiber_chunk *chunk;
	int slot, err = 0;

	mutex_lock(&process->lock);
	slot = ida_alloc_range(&process->ids, 1, process->max, GFP_KERNEL_ACCOUNT);
	if (slot < 0) {
		err = slot == -ENOSPC ? -EAGAIN : slot;
		goto unlock;
	}
	if (!fiber_slot(process, slot)) {
		chunk = kzalloc(sizeof(*chunk), GFP_KERNEL_ACCOUNT);
		if (!chunk) {
			ida_free(&process->ids, slot);
			err = -ENOMEM;
			goto unlock;
		}
		rcu_assign_pointer(process->chunks[slot >> FIBER_CHUNK_SHIFT], chunk);
	}
	if (slot >= process->end)
		WRITE_ONCE(process->end, slot + 1);
	fiber->id = process->generation << FIBER_SLOT_BITS | slot;
unlock:
	mutex_unlock(&process->lock);
	return err;
}

/* From here on everybody can find the fiber. The slot is its own, so no lock is needed. */
void fiber_publish(struct fiber_process *process, struct fiber *fiber)
{
	rcu_read_lock();
	rcu_assign_pointer(*fiber_slot(process, fiber->id & FIBER_SLOT_MASK), fiber);
	rcu_read_unlock();
	fiber_tables_add_fiber(process, fiber);
}

/* Gives a reserved id back, which nobody has seen. */
void fiber_unreserve(struct fiber_process *process, struct fiber *fiber)
{
	mutex_lock(&process->lock);
	ida_free(&process->ids, fiber->id & FIBER_SLOT_MASK);
	mutex_unlock(&process->lock);
}

/* The caller has set the owner to FIBER_DELETED, so nobody else does the same. */
void fiber_remove(struct fiber_process *process, struct fiber *fiber)
{
	u32 slot = fiber->id & FIBER_SLOT_MASK;

	mutex_lock(&process->lock);
	fiber_tables_remove_fiber(process, fiber);
	RCU_INIT_POINTER(*fiber_slot(process, slot), NULL);
	process->generation++;
	ida_free(&process->ids, slot);
	mutex_unlock(&process->lock);
	call_rcu(&fiber->rcu, fiber_free_rcu);
}

/* Back to before the first instruction. By the owner of a created fiber. In any context. */
void fiber_reset(struct fiber *fiber)
{
	unsigned long top = fiber->stack_start + fiber->stack_size;

	fiber_context_reset(&fiber->context, fiber->entry, fiber->arg, (top & ~15UL) - 8);
	fiber->mask = fiber->first_mask;
	WRITE_ONCE(fiber->started, false);
	kfree(fiber->fls);
	fiber->fls = NULL;
}

static int fiber_create_check(const struct fiber_create *args)
{
	if ((args->flags & ~FIBER_FLAG_FPU) || args->pad)
		return -EINVAL;
	if (strnlen(args->name, FIBER_NAME_SIZE) == FIBER_NAME_SIZE)
		return -EINVAL;
	if (!args->entry || args->entry >= TASK_SIZE_MAX)
		return -EFAULT;
	if (args->stack_size < FIBER_STACK_MIN ||
	    args->stack_start + args->stack_size < args->stack_start)
		return -EINVAL;
	if (!args->stack_start || args->stack_start + args->stack_size > TASK_SIZE_MAX)
		return -EFAULT;
	return 0;
}

/* FIBER_IOC_CREATE */
long fiber_create(struct fiber_process *process, struct fiber_create __user *user)
{
	struct fiber_create args;
	struct fiber *fiber;
	long err;

	if (!fiber_caller(process))
		return -EPERM;
	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	err = fiber_create_check(&args);
	if (err)
		return err;

	fiber = fiber_alloc(process, args.flags);
	if (IS_ERR(fiber))
		return PTR_ERR(fiber);
	fiber->entry = args.entry;
	fiber->arg = args.arg;
	fiber->stack_start = args.stack_start;
	fiber->stack_size = args.stack_size;
	strscpy(fiber->name, args.name, sizeof(fiber->name));
	fiber_reset(fiber);

	err = fiber_reserve(process, fiber);
	if (err)
		goto free;
	if (put_user(fiber->id, &user->id)) {
		err = -EFAULT;
		goto unreserve;
	}
	fiber_publish(process, fiber);
	return 0;

unreserve:
	fiber_unreserve(process, fiber);
free:
	fiber_free(fiber);
	return err;
}

/* FIBER_IOC_DELETE */
long fiber_delete(struct fiber_process *process, u64 id)
{
	struct fiber *fiber;
	long owner, from;

	rcu_read_lock();
	fiber = fiber_find(process, id);
	if (!fiber) {
		rcu_read_unlock();
		return -ESRCH;
	}
	/* A thread's own fiber must wait for the thread to be done with it. */
	from = fiber->home ? FIBER_FINISHED : FIBER_FREE;
	owner = atomic_long_cmpxchg_acquire(&fiber->owner, from, FIBER_DELETED);
	rcu_read_unlock();
	if (owner == from) {
		fiber_remove(process, fiber);
		return 0;
	}

	switch (owner) {
	case FIBER_FREE:
		return -EPERM;
	case FIBER_DELETED:
		return -ESRCH;
	default:
		return -EBUSY;
	}
}

/* FIBER_IOC_SET_NAME */
long fiber_set_name(struct fiber_process *process, const struct fiber_name __user *user)
{
	struct fiber_name args;
	struct fiber *fiber;
	long err = 0;

	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	if (strnlen(args.name, FIBER_NAME_SIZE) == FIBER_NAME_SIZE)
		return -EINVAL;
	if (!args.id) {
		struct fiber_thread *thread = fiber_caller(process);

		if (!thread)
			return -EPERM;
		args.id = thread->running->id;
	}

	mutex_lock(&process->lock);
	fiber = fiber_find(process, args.id);
	if (fiber)
		strscpy_pad(fiber->name, args.name, sizeof(fiber->name));
	else
		err = -ESRCH;
	mutex_unlock(&process->lock);
	return err;
}
