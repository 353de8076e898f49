// SPDX-License-Identifier: GPL-2.0-only
/*
 * Engine `kernel`: a thread becomes a fiber, its root fiber, and is only a thread
 * again; and the fate of its fibers when it ends.
 */
#include <linux/ptrace.h>
#include <linux/sched/task_stack.h>
#include <linux/wait.h>

#include "account.h"
#include "args.h"
#include "compat.h"
#include "convert.h"
#include "fibers.h"
#include "find.h"
#include "owner.h"
#include "process.h"
#include "thread.h"

/* FIBER_IOC_CONVERT; the report: ConvertThreadToFiber() */
long fiber_convert(struct fiber_process *process, struct fiber_convert __user *user)
{
	struct fiber_thread *thread;
	struct fiber_convert args;
	struct fiber *fiber;
	long err;

	if (fiber_thread_current())
		return -EEXIST;
	err = fiber_args_copy(&args, sizeof(args), user, sizeof(args));
	if (err)
		return err;
	if (args.flags & ~FIBER_FLAG_FPU)
		return -EINVAL;
	if (fiber_has_shadow_stack())
		return -EOPNOTSUPP;
	if (READ_ONCE(process->engine) == &fiber_engine_mapped)
		return -EBUSY;

	thread = fiber_thread_alloc(process, &fiber_engine_kernel);
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	seqcount_init(&thread->seq);
	fiber = fiber_alloc(process, args.flags);
	if (IS_ERR(fiber)) {
		err = PTR_ERR(fiber);
		goto free_thread;
	}
	fiber->entry = instruction_pointer(current_pt_regs());
	fiber->root_of = thread;
	fiber->started = true;
	atomic_long_set(&fiber->owner, (long)thread);

	err = fiber_reserve(process, fiber);
	if (err)
		goto free_fiber;
	if (put_user(fiber->id, &user->id)) {
		err = -EFAULT;
		goto unreserve;
	}
	/* Last: a request that fails chooses no engine. */
	if (!fiber_process_choose(process, &fiber_engine_kernel)) {
		err = -EBUSY;
		goto unreserve;
	}
	thread->root_id = fiber->id;
	local_irq_disable();
	fiber_account_start(thread, fiber);
	fiber_thread_hook(thread);
	local_irq_enable();
	fiber_publish(process, fiber);
	fiber_tables_add_thread(process, thread);
	return 0;

unreserve:
	fiber_unreserve(process, fiber);
free_fiber:
	fiber_free(fiber);
free_thread:
	fiber_thread_free(thread);
	return err;
}

/* FIBER_IOC_REVERT */
long fiber_revert(struct fiber_process *process)
{
	struct fiber_thread *thread = fiber_caller(process);
	struct fiber *fiber;

	if (!thread)
		return -EPERM;
	fiber = thread->running;
	if (fiber->root_of != thread)
		return -EINVAL;

	fiber_thread_unhook(thread);
	fiber_tables_remove_thread(process, thread);
	atomic_long_set_release(&fiber->owner, OWNER_DELETED);
	fiber_remove(process, fiber);
	fiber_thread_free(thread);
	return 0;
}

/* Finishes the thread's root fiber, which it does not run, or makes that fiber's exit pending. */
static bool finish_root(struct fiber_thread *thread)
{
	bool finished = true;
	struct fiber *root;

	rcu_read_lock();
	root = fiber_find(thread->process, thread->root_id);
	if (root)
		finished = owner_finish_root(root);
	rcu_read_unlock();
	return finished;
}

/* FIBER_IOC_RETIRE */
long fiber_retire(struct fiber_process *process)
{
	struct fiber_thread *thread = fiber_caller(process);

	if (!thread)
		return -EPERM;
	if (thread->running->root_of == thread)
		return -EINVAL;
	if (wait_event_interruptible(process->left, finish_root(thread)))
		return -EINTR;
	return 0;
}

/* fiber_engine.end */
void fiber_convert_end(struct fiber_thread *thread)
{
	struct fiber *running = thread->running;

	fiber_tables_remove_thread(thread->process, thread);
	/* In one go, so that no time off the CPU is charged in between. */
	local_irq_disable();
	fiber_thread_unhook(thread);
	fiber_account_switch(thread, NULL);
	local_irq_enable();

	if (running->root_of != thread)
		finish_root(thread);
	if (running->root_of) {
		/* A root fiber cannot start again: its stack is a thread's. */
		owner_finish(running, thread);
	} else {
		fiber_reset(running);
		owner_release(running, thread);
	}
	fiber_thread_free(thread);
}
