/* SPDX-License-Identifier: GPL-2.0-only */
/* One consistent copy of a fiber's public state. */
#ifndef FIBER_SNAPSHOT_H
#define FIBER_SNAPSHOT_H

#include "types.h"

bool fiber_snapshot_kernel(struct fiber_process *process, u64 id, struct pid_namespace *pid_ns,
			   struct fiber_snapshot *snapshot);
bool fiber_snapshot_mapped(struct fiber_process *process, u64 id, struct pid_namespace *pid_ns,
			   struct fiber_snapshot *snapshot);
bool fiber_snapshot_take(struct fiber_process *process, u64 id, struct pid_namespace *pid_ns,
			 struct fiber_snapshot *snapshot);
u64 fiber_snapshot_id(struct fiber_process *process, u32 slot);
u32 fiber_snapshot_slots(const struct fiber_process *process);
long fiber_stat(struct fiber_process *process, struct fiber_snapshot __user *user);

#endif /* FIBER_SNAPSHOT_H */
