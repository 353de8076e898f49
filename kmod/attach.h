/* SPDX-License-Identifier: GPL-2.0-only */
/* Engine `mapped`: threads that run fibers of the status table. */
#ifndef FIBER_ATTACH_H
#define FIBER_ATTACH_H

#include "types.h"

struct status_table;

long fiber_attach(struct fiber_process *process, unsigned long number);
long fiber_detach(struct fiber_process *process);
void fiber_attach_end(struct fiber_thread *thread);
void fiber_attach_sched_in(struct preempt_notifier *notifier, int cpu);
void fiber_attach_sched_out(struct preempt_notifier *notifier, struct task_struct *next);
struct fiber_thread *fiber_attach_find(struct status_table *table, u32 number);
u64 fiber_attach_run(const struct fiber_thread *thread, u64 id, u64 last_switch);

#endif /* FIBER_ATTACH_H */
