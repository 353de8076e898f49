// SPDX-License-Identifier: GPL-2.0-only
/* SwitchToFiber(), the hot path: no allocation, no lock, nothing that sleeps. */
#include <linux/ptrace.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>

#include "account.h"
#include "compat.h"
#include "find.h"
#include "owner.h"
#include "switch.h"

/* Why the fiber could not be taken; counts where the ABI says so. Interrupts are off. */
static noinline long switch_refuse(struct fiber *to, struct fiber_thread *thread, long owner)
{
	switch (owner) {
	case OWNER_DELETED:
		return -ESRCH;
	case OWNER_FINISHED:
		return -EOWNERDEAD;
	default:
		atomic64_inc(&to->failed);
		return owner_thread(owner) == thread ? -EINVAL : -EBUSY;
	}
}

/* FIBER_IOC_SWITCH; the report: SwitchToFiber() */
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
	 * section, and keeps scheduler and FPU away from a half-done switch.
	 */
	local_irq_disable();
	to = fiber_find(process, id);
	if (unlikely(!to)) {
		err = -ESRCH;
		goto enable;
	}
	owner = owner_acquire(to, thread);
	if (unlikely(owner != OWNER_FREE)) {
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
	owner_release(from, thread);
	err = 0;
enable:
	local_irq_enable();
	return err;
}
