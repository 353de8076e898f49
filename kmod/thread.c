// SPDX-License-Identifier: GPL-2.0-only
/* The object of a thread that runs fibers: its life, and its hook into the scheduler. */
#include <linux/lockdep.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/slab.h>

#include "process.h"
#include "thread.h"
#include "user.h"

atomic_long_t fiber_threads;

/* Returns a new object for the calling thread, which no list has yet, or an error. */
struct fiber_thread *fiber_thread_alloc(struct fiber_process *process,
					const struct fiber_engine *engine)
{
	struct fiber_thread *thread;
	int err;

	err = fiber_user_charge(process->user, sizeof(*thread));
	if (err)
		return ERR_PTR(err);
	thread = kzalloc(sizeof(*thread), GFP_KERNEL_ACCOUNT);
	if (!thread) {
		fiber_user_uncharge(process->user, sizeof(*thread));
		return ERR_PTR(-ENOMEM);
	}
	preempt_notifier_init(&thread->notifier, (struct preempt_ops *)&engine->preempt);
	thread->user = process->user;
	thread->process = fiber_process_get(process);
	fiber_process_use(process);
	thread->pid = get_pid(task_pid(current));
	atomic_long_inc(&fiber_threads);
	return thread;
}

/*
 * The calling thread runs fibers from now on: until it is unhooked, the scheduler
 * calls into the module. Preemption is off.
 */
void fiber_thread_hook(struct fiber_thread *thread)
{
	lockdep_assert_preemption_disabled();

	__module_get(THIS_MODULE);
	preempt_notifier_register(&thread->notifier);
	/* From now on /proc has something to show. */
	WRITE_ONCE(thread->process->shown, true);
}

/*
 * The reverse, in any context of the thread itself. The caller's descriptor holds
 * the module, or unloading waits for the caller's tracepoint probe.
 */
void fiber_thread_unhook(struct fiber_thread *thread)
{
	/* The scheduler walks the list when it preempts the thread. */
	preempt_disable();
	preempt_notifier_unregister(&thread->notifier);
	preempt_enable();
	module_put(THIS_MODULE);
}

static void thread_free_rcu(struct rcu_head *rcu)
{
	struct fiber_thread *thread = container_of(rcu, struct fiber_thread, rcu);
	struct fiber_user *user = thread->user;

	put_pid(thread->pid);
	kfree(thread);
	fiber_user_uncharge_deferred(user, sizeof(*thread));
}

/* The thread runs no fibers any more; readers may still look at the object. In any context. */
void fiber_thread_free(struct fiber_thread *thread)
{
	struct fiber_process *process = thread->process;

	atomic_long_dec(&fiber_threads);
	fiber_user_defer(thread->user, sizeof(*thread));
	call_rcu(&thread->rcu, thread_free_rcu);
	fiber_process_unuse(process);
	fiber_process_put(process);
}
