// SPDX-License-Identifier: GPL-2.0-only
/* SwitchToFiber, the hot path: no allocation, no lock, nothing that sleeps. */
#include <linux/ptrace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>

#include "compat.h"
#include "internal.h"

/* Why the fiber could not be taken; counts where the ABI says so. Interrupts are off. */
static noinline long switch_refuse(struct fiber *to, struct fiber_thread *thread, long owner)
{
	switch (owner) {
	case FIBER_DELETED:
		return -ESRCH;
	case FIBER_FINISHED:
		return -EOWNERDEAD;
	default:
		atomic64_inc(&to->failed);
		return fiber_owner_thread(owner) == thread ? -EINVAL : -EBUSY;
	}
}

/*
 * Gives back a fiber that the thread has saved. Somebody else's own fiber may
 * have been doomed meanwhile; a thread's own cannot be while it runs it.
 */
void fiber_release(struct fiber *fiber, struct fiber_thread *thread)
{
	struct fiber_thread *home = fiber->home;

	if (likely(!home || home == thread)) {
		atomic_long_set_release(&fiber->owner, FIBER_FREE);
		return;
	}
	if (atomic_long_cmpxchg_release(&fiber->owner, (long)thread, FIBER_FREE) != (long)thread) {
		struct fiber_process *process = thread->process;

		atomic_long_set_release(&fiber->owner, FIBER_FINISHED);
		wake_up_all(&process->left);
	}
}

/* FIBER_IOC_SWITCH */
long fiber_switch(struct fiber_process *process, u64 id)
{
	struct fiber_thread *thread = fiber_caller(process);
	struct fiber *from, *to;
	long owner, err;

	if (unlikely(!thread))
		return -EPERM;
	if (unlikely(fiber_has_shadow_stack()))
		return -EOPNOTSUPP;
	if (unlikely(__on_sig_stack(current_user_stack_pointer())))
		return -EINVAL;

	/*
	 * Interrupts are off from the look-up to the release: that is an RCU
	 * section, and keeps scheduler and FPU away from what is half-done.
	 */
	local_irq_disable();
	to = fiber_find(process, id);
	if (unlikely(!to)) {
		err = -ESRCH;
		goto enable;
	}
	owner = atomic_long_cmpxchg_acquire(&to->owner, FIBER_FREE, (long)thread);
	if (unlikely(owner != FIBER_FREE)) {
		err = switch_refuse(to, thread, owner);
		goto enable;
	}

	/* Owned, so it stays. Only the thread itself changes its signal mask. */
	from = thread->running;
	from->mask = current->blocked;
	if (unlikely(!sigequalsets(&from->mask, &to->mask))) {
		local_irq_enable();
		sigprocmask(SIG_SETMASK, &to->mask, NULL);
		local_irq_disable();
	}

	fiber_account_switch(thread, to);
	fiber_context_switch(&from->context, &to->context);
	fiber_release(from, thread);
	err = 0;
enable:
	local_irq_enable();
	return err;
}
