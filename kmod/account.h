/* SPDX-License-Identifier: GPL-2.0-only */
/* CPU time of the fibers that the module switches. */
#ifndef FIBER_ACCOUNT_H
#define FIBER_ACCOUNT_H

#include "types.h"

void fiber_account_sched_in(struct preempt_notifier *notifier, int cpu);
void fiber_account_sched_out(struct preempt_notifier *notifier, struct task_struct *next);
void fiber_account_start(struct fiber_thread *thread, struct fiber *fiber);
void fiber_account_switch(struct fiber_thread *thread, struct fiber *to);
void fiber_account_read(const struct fiber *fiber, struct fiber_thread *thread,
			struct fiber_times *times);

#endif /* FIBER_ACCOUNT_H */
