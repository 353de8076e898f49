// SPDX-License-Identifier: GPL-2.0-only
/* The two engines of the module: all that differs between them. */
#include "account.h"
#include "attach.h"
#include "convert.h"
#include "fibers.h"
#include "snapshot.h"
#include "table.h"

/* The module switches fibers on request. */
const struct fiber_engine fiber_engine_kernel = {
	.preempt = {
		.sched_in = fiber_account_sched_in,
		.sched_out = fiber_account_sched_out,
	},
	.end = fiber_convert_end,
	.snapshot = fiber_snapshot_kernel,
	.slot_id = fiber_slot_id,
	.slots = fiber_slots,
};

/* The process switches fibers in user mode, and publishes them in the status table. */
const struct fiber_engine fiber_engine_mapped = {
	.preempt = {
		.sched_in = fiber_attach_sched_in,
		.sched_out = fiber_attach_sched_out,
	},
	.end = fiber_attach_end,
	.snapshot = fiber_snapshot_mapped,
	.slot_id = fiber_table_slot_id,
	.slots = fiber_table_slots,
};
