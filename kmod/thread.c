// SPDX-License-Identifier: GPL-2.0-only
/* Threads: conversion to a fiber and back, and what becomes of fibers when one ends. */
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/ptrace.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "internal.h"

atomic_long_t fiber_threads;

static struct fiber_thread *thread_alloc(struct fiber_process *process)
{
	struct fiber_thread *thread = kzalloc(sizeof(*thread), GFP_KERNEL_ACCOUNT);

	if (!thread)
		return NULL;
	preempt_notifier_init(&thread->notifier, &fiber_preempt_ops);
	fiber_process_get(process);
	refcount_inc(&process->users);
	thread->process = process;
	thread->pid = get_pid(task_pid(current));
	seqcount_init(&thread->seq);
	atomic_long_inc(&fiber_threads);
	return thread;
}

static void thread_free_rcu(struct rcu_head *rcu)
{
	struct fiber_thread *thread = container_of(rcu, struct fiber_thread, rcu);

	put_pid(thread->pid);
	kfree(thread);
}

/* In any context. Readers may still look at the thread and its pid. */
static void thread_free(struct fiber_thread *thread)
{
	fiber_process_unuse(thread->process);
	fiber_process_put(thread->process);
	call_rcu(&thread->rcu, thread_free_rcu);
	atomic_long_dec(&fiber_threads);
}

/* FIBER_IOC_CONVERT */
long fiber_thread_convert(struct fiber_process *process, struct fiber_convert __user *user)
{
	struct fiber_thread *thread;
	struct fiber_convert args;
	struct fiber *fiber;
	long err;

	if (fiber_thread_current() || fiber_watch_current())
		return -EEXIST;
	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	if ((args.flags & ~FIBER_FLAG_FPU) || args.pad)
		return -EINVAL;
	if (fiber_has_shadow_stack())
		return -EOPNOTSUPP;
	if (!fiber_process_choose(process, FIBER_ENGINE_KERNEL))
		return -EBUSY;

	thread = thread_alloc(process);
	if (!thread)
		return -ENOMEM;
	fiber = fiber_alloc(process, args.flags);
	if (IS_ERR(fiber)) {
		err = PTR_ERR(fiber);
		goto free_thread;
	}
	fiber->entry = instruction_pointer(current_pt_regs());
	fiber->home = thread;
	fiber->started = true;
	atomic_long_set(&fiber->owner, (long)thread);

	err = fiber_reserve(process, fiber);
	if (err)
		goto free_fiber;
	if (put_user(fiber->id, &user->id)) {
		err = -EFAULT;
		goto unreserve;
	}
	thread->own_id = fiber->id;
	fiber_account_start(thread, fiber);
	fiber_publish(process, fiber);
	fiber_tables_add_thread(process, thread);
	fiber_procfs_add(process);
	/* The hooks run module code until the thread ends or converts back. */
	__module_get(THIS_MODULE);
	return 0;

unreserve:
	fiber_unreserve(process, fiber);
free_fiber:
	fiber_free(fiber);
free_thread:
	thread_free(thread);
	return err;
}

/* FIBER_IOC_REVERT */
long fiber_thread_revert(struct fiber_process *process)
{
	struct fiber_thread *thread = fiber_caller(process);
	struct fiber *fiber;

	if (!thread)
		return -EPERM;
	fiber = thread->running;
	if (fiber->home != thread)
		return -EINVAL;

	preempt_notifier_unregister(&thread->notifier);
	fiber_tables_remove_thread(thread->process, thread);
	atomic_long_set_release(&fiber->owner, FIBER_DELETED);
	fiber_remove(process, fiber);
	thread_free(thread);
	/* The caller's descriptor holds the module. */
	module_put(THIS_MODULE);
	return 0;
}

/*
 * Finishes the thread's own fiber, which the thread does not run, or dooms it
 * while another thread does. Returns whether it is finished, or deleted since.
 */
static bool thread_finish_own(struct fiber_thread *thread)
{
	struct fiber *own;
	bool finished = true;
	long owner;

	rcu_read_lock();
	own = fiber_find(thread->process, thread->own_id);
	if (!own)
		goto unlock;
	owner = atomic_long_read(&own->owner);
	do {
		if (owner == FIBER_FINISHED || owner == FIBER_DELETED) {
			finished = true;
			goto unlock;
		}
		finished = owner == FIBER_FREE;
	} while (!atomic_long_try_cmpxchg(&own->owner, &owner,
					  finished ? FIBER_FINISHED : owner | FIBER_DOOMED));
unlock:
	rcu_read_unlock();
	return finished;
}

/* FIBER_IOC_RETIRE */
long fiber_thread_retire(struct fiber_process *process)
{
	struct fiber_thread *thread = fiber_caller(process);

	if (!thread)
		return -EPERM;
	if (thread->running->home == thread)
		return -EINVAL;
	if (wait_event_interruptible(process->left, thread_finish_own(thread)))
		return -EINTR;
	return 0;
}

/*
 * The calling thread will not return to user mode as it was: it exits, or has
 * called execve(). In a tracepoint's probe.
 */
void fiber_thread_end(struct fiber_thread *thread)
{
	struct fiber *running = thread->running;

	fiber_tables_remove_thread(thread->process, thread);
	/* In one go, so that no time off the CPU is charged in between. */
	local_irq_disable();
	preempt_notifier_unregister(&thread->notifier);
	fiber_account_switch(thread, NULL);
	local_irq_enable();

	if (running->home) {
		/* A thread's own fiber cannot start anew: its stack is a thread's. */
		if (running->home != thread)
			thread_finish_own(thread);
		atomic_long_set_release(&running->owner, FIBER_FINISHED);
		wake_up_all(&thread->process->left);
	} else {
		thread_finish_own(thread);
		fiber_reset(running);
		fiber_release(running, thread);
	}
	thread_free(thread);
	/* Unloading waits for the probe to return. */
	module_put(THIS_MODULE);
}
