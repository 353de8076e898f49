/* SPDX-License-Identifier: GPL-2.0-only */
/* The reference report's ways to find the running fiber: parameter `lookup`. */
#ifndef FIBER_REPORT_LOOKUP_H
#define FIBER_REPORT_LOOKUP_H

#include <linux/jump_label.h>

#include "types.h"

/* Whether one of them is in use; never changes after loading. */
DECLARE_STATIC_KEY_FALSE(fiber_report_lookup);

int fiber_report_init(void);
size_t fiber_tables_size(void);
int fiber_tables_create(struct fiber_process *process);
void fiber_tables_destroy(struct fiber_process *process);
void fiber_tables_add_fiber(struct fiber_process *process, struct fiber *fiber);
void fiber_tables_remove_fiber(struct fiber_process *process, struct fiber *fiber);
void fiber_tables_add_thread(struct fiber_process *process, struct fiber_thread *thread);
void fiber_tables_remove_thread(struct fiber_process *process, struct fiber_thread *thread);
struct fiber_thread *fiber_tables_caller(struct fiber_process *process);
struct fiber *fiber_tables_find(struct fiber_process *process, u64 id);

#endif /* FIBER_REPORT_LOOKUP_H */
