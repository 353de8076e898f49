/* SPDX-License-Identifier: GPL-2.0-only */
/* Fibers that the module switches: creation, slots, names, deletion. */
#ifndef FIBER_FIBERS_H
#define FIBER_FIBERS_H

#include "types.h"

extern atomic_long_t fiber_fibers;

int fiber_cache_init(void);
void fiber_cache_exit(void);
struct fiber *fiber_alloc(struct fiber_process *process, u32 flags);
int fiber_reserve(struct fiber_process *process, struct fiber *fiber);
void fiber_publish(struct fiber_process *process, struct fiber *fiber);
void fiber_unreserve(struct fiber_process *process, struct fiber *fiber);
void fiber_remove(struct fiber_process *process, struct fiber *fiber);
void fiber_free(struct fiber *fiber);
void fiber_reset(struct fiber *fiber);
void fiber_free_all(struct fiber_process *process);
long fiber_create(struct fiber_process *process, struct fiber_create __user *user);
long fiber_delete(struct fiber_process *process, u64 id);
long fiber_set_name(struct fiber_process *process, const struct fiber_name __user *user);
u64 fiber_slot_id(struct fiber_process *process, u32 slot);
u32 fiber_slots(const struct fiber_process *process);

#endif /* FIBER_FIBERS_H */
