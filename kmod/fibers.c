// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fibers that the module switches: creation, slots, names, deletion. A slot is
 * the low part of an id; slots belong to a process and are kept in chunks.
 */
#include <linux/nospec.h>
#include <linux/pid.h>
#include <linux/sched/clock.h>
#include <linux/slab.h>

#include "args.h"
#include "fibers.h"
#include "find.h"
#include "fls.h"
#include "owner.h"
#include "user.h"

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

/* Returns a fiber without an owner, whose parent is the calling thread, or an error. */
struct fiber *fiber_alloc(struct fiber_process *process, u32 flags)
{
	size_t bytes = sizeof(struct fiber) + fiber_context_bytes(flags & FIBER_FLAG_FPU);
	struct fiber *fiber;
	int err;

	err = fiber_user_charge(process->user, bytes);
	if (err)
		return ERR_PTR(err);
	fiber = kmem_cache_zalloc(fiber_cache, GFP_KERNEL);
	if (!fiber) {
		err = -ENOMEM;
		goto uncharge;
	}
	err = fiber_context_init(flags & FIBER_FLAG_FPU, &fiber->context);
	if (err)
		goto free;
	fiber->user = process->user;
	fiber->parent = get_pid(task_pid(current));
	fiber->first_mask = current->blocked;
	fiber->last_switch = local_clock();
	atomic_long_inc(&fiber_fibers);
	return fiber;

free:
	kmem_cache_free(fiber_cache, fiber);
uncharge:
	fiber_user_uncharge(process->user, bytes);
	return ERR_PTR(err);
}

/* Frees what only an owner of the fiber looks at. Not in atomic context. */
static void fiber_free_parts(struct fiber *fiber)
{
	fiber_fls_destroy(fiber);
	if (fiber->context.xstate) {
		fiber_context_destroy(&fiber->context);
		fiber_user_uncharge(fiber->user, fiber_context_bytes(true));
	}
}

static void fiber_free_shell(struct fiber *fiber)
{
	put_pid(fiber->parent);
	kmem_cache_free(fiber_cache, fiber);
	atomic_long_dec(&fiber_fibers);
}

/* Frees a fiber that nothing else can reach any more. Not in atomic context. */
void fiber_free(struct fiber *fiber)
{
	struct fiber_user *user = fiber->user;

	fiber_free_parts(fiber);
	fiber_free_shell(fiber);
	fiber_user_uncharge(user, sizeof(*fiber));
}

static void fiber_free_rcu(struct rcu_head *rcu)
{
	struct fiber *fiber = container_of(rcu, struct fiber, rcu);
	struct fiber_user *user = fiber->user;

	fiber_free_shell(fiber);
	fiber_user_uncharge_deferred(user, sizeof(*fiber));
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

/* Slots at and above this one are empty. */
u32 fiber_slots(const struct fiber_process *process)
{
	return atomic_read(&process->end);
}

/* The chunk of that slot is there from now on. -EDQUOT, -ENOMEM. */
static int chunk_add(struct fiber_process *process, u32 slot)
{
	struct fiber_chunk __rcu **place = &process->chunks[slot >> FIBER_CHUNK_SHIFT];
	struct fiber_chunk *chunk;
	int err;

	if (rcu_access_pointer(*place))
		return 0;
	err = fiber_user_charge(process->user, sizeof(*chunk));
	if (err)
		return err;
	chunk = kzalloc(sizeof(*chunk), GFP_KERNEL_ACCOUNT);
	if (!chunk)
		err = -ENOMEM;
	/* A full barrier, so that readers see the chunk zeroed. */
	if (err || cmpxchg((struct fiber_chunk __force **)place, NULL, chunk)) {
		kfree(chunk);
		fiber_user_uncharge(process->user, sizeof(*chunk));
	}
	return err;
}

/*
 * Gives the fiber an id that nobody can use before fiber_publish(). -EAGAIN:
 * the process has its maximum. -EDQUOT, -ENOMEM.
 */
int fiber_reserve(struct fiber_process *process, struct fiber *fiber)
{
	int slot, end, err;

	slot = ida_alloc_range(&process->ids, 1, process->max, GFP_KERNEL_ACCOUNT);
	if (slot < 0)
		return slot == -ENOSPC ? -EAGAIN : slot;
	err = chunk_add(process, slot);
	if (err) {
		ida_free(&process->ids, slot);
		return err;
	}
	end = atomic_read(&process->end);
	while (end <= slot && !atomic_try_cmpxchg(&process->end, &end, slot + 1))
		;
	/* The slot was freed after its last fiber had raised the generation. */
	fiber->id = (u64)atomic64_read(&process->generation) << FIBER_SLOT_BITS | slot;
	return 0;
}

/* From here on everybody can find the fiber. The slot is its own, so no lock is needed. */
void fiber_publish(struct fiber_process *process, struct fiber *fiber)
{
	rcu_read_lock();
	rcu_assign_pointer(*fiber_slot(process, fiber->id & FIBER_SLOT_MASK), fiber);
	rcu_read_unlock();
	fiber_tables_add_fiber(process, fiber);
}

/* Gives back a reserved id that was not published. */
void fiber_unreserve(struct fiber_process *process, struct fiber *fiber)
{
	ida_free(&process->ids, fiber->id & FIBER_SLOT_MASK);
}

/* Called by the thread that has set the owner to OWNER_DELETED, which only one can do. */
void fiber_remove(struct fiber_process *process, struct fiber *fiber)
{
	u32 slot = fiber->id & FIBER_SLOT_MASK;

	WARN_ON_ONCE(atomic_long_read(&fiber->owner) != OWNER_DELETED);

	fiber_tables_remove_fiber(process, fiber);
	rcu_read_lock();
	RCU_INIT_POINTER(*fiber_slot(process, slot), NULL);
	rcu_read_unlock();
	/* Before the slot is free, so that its next fiber gets another id. */
	atomic64_inc(&process->generation);
	ida_free(&process->ids, slot);
	fiber_free_parts(fiber);
	fiber_user_defer(fiber->user, sizeof(*fiber));
	call_rcu(&fiber->rcu, fiber_free_rcu);
}

/* The image has ended, its threads are through and readers are done. May sleep. */
void fiber_free_all(struct fiber_process *process)
{
	u32 i, slot;

	for (i = 0; i <= process->max >> FIBER_CHUNK_SHIFT; i++) {
		struct fiber_chunk *chunk = rcu_replace_pointer(process->chunks[i], NULL, true);

		if (!chunk)
			continue;
		for (slot = 0; slot < FIBER_CHUNK_SIZE; slot++) {
			struct fiber *fiber = rcu_dereference_protected(chunk->fibers[slot], true);

			if (fiber)
				fiber_free(fiber);
		}
		kfree(chunk);
		fiber_user_uncharge(process->user, sizeof(*chunk));
		cond_resched();
	}
}

/* Back to before the first instruction. By the owner of a created fiber. In any context. */
void fiber_reset(struct fiber *fiber)
{
	unsigned long top = fiber->stack_start + fiber->stack_size;

	fiber_context_reset(&fiber->context, fiber->start, fiber->arg, (top & ~15UL) - 8);
	fiber->mask = fiber->first_mask;
	WRITE_ONCE(fiber->started, false);
	fiber_fls_reset(fiber);
}

static int fiber_create_check(const struct fiber_create *args)
{
	if (args->flags & ~FIBER_FLAG_FPU)
		return -EINVAL;
	if (!fiber_name_is_terminated(args->name))
		return -EINVAL;
	if (!args->entry || args->entry >= TASK_SIZE_MAX || args->start >= TASK_SIZE_MAX)
		return -EFAULT;
	if (args->stack_size < FIBER_STACK_MIN ||
	    args->stack_start + args->stack_size < args->stack_start)
		return -EINVAL;
	if (!args->stack_start || args->stack_start + args->stack_size > TASK_SIZE_MAX)
		return -EFAULT;
	return 0;
}

/* FIBER_IOC_CREATE; the report: CreateFiber() */
long fiber_create(struct fiber_process *process, struct fiber_create __user *user)
{
	struct fiber_create args;
	struct fiber *fiber;
	long err;

	if (!fiber_caller(process))
		return -EPERM;
	err = fiber_args_copy(&args, sizeof(args), user, sizeof(args));
	if (err)
		return err;
	err = fiber_create_check(&args);
	if (err)
		return err;

	fiber = fiber_alloc(process, args.flags);
	if (IS_ERR(fiber))
		return PTR_ERR(fiber);
	fiber->entry = args.entry;
	fiber->start = args.start ?: args.entry;
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
	long err = -ESRCH;

	rcu_read_lock();
	fiber = fiber_find(process, id);
	if (fiber)
		err = owner_delete(fiber);
	rcu_read_unlock();
	if (!err)
		fiber_remove(process, fiber);
	return err;
}

/* FIBER_IOC_SET_NAME */
long fiber_set_name(struct fiber_process *process, const struct fiber_name __user *user)
{
	struct fiber_name args;
	struct fiber *fiber;
	long err;

	err = fiber_args_copy(&args, sizeof(args), user, sizeof(args));
	if (err)
		return err;
	if (args.pad || !fiber_name_is_terminated(args.name))
		return -EINVAL;
	if (!args.id) {
		struct fiber_thread *thread = fiber_caller(process);

		if (!thread)
			return -EPERM;
		args.id = thread->running->id;
	}

	rcu_read_lock();
	fiber = fiber_find(process, args.id);
	if (fiber) {
		write_seqlock(&process->names);
		strscpy_pad(fiber->name, args.name, sizeof(fiber->name));
		write_sequnlock(&process->names);
	} else {
		err = -ESRCH;
	}
	rcu_read_unlock();
	return err;
}
