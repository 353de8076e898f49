/* SPDX-License-Identifier: MIT */
/*
 * Engines `local` and `mapped`: user mode switches the stacks. Control blocks are
 * in fiber_cb.h, what others may see of it is the status table in uapi/fiber.h, and
 * where that lies is all that the two differ in (table.h).
 */
#include <stdint.h>
#include <string.h>

#include "clock.h"
#include "fiber_cb.h"
#include "engine.h"
#include "fibers.h"
#include "fls.h"
#include "fork.h"
#include "slots.h"
#include "stat.h"
#include "threads.h"

_Static_assert(FIBER_STATE_NEW == FIBER_NEW && FIBER_STATE_RUNNING == FIBER_RUNNING &&
	       FIBER_STATE_SUSPENDED == FIBER_SUSPENDED && FIBER_STATE_FINISHED == FIBER_FINISHED,
	       "states go through as they are");

static int user_open(const struct table_ops *ops)
{
	int err;

	if (table.head)
		return 0;
	err = fiber_cb_init();
	if (err)
		return err;
	err = ops->open();
	if (err)
		return err;
	*table.head = (struct fiber_table) {
		.version = FIBER_TABLE_VERSION,
		.slots = CB_SLOTS,
		.slots_used = 1,
		.areas = FIBER_THREAD_AREAS,
		.areas_used = 1,
		.mult = table.head->mult,
		.shift = table.head->shift,
		.slots_at = (uintptr_t)table.slots,
		.areas_at = (uintptr_t)table.areas,
		.slot_size = sizeof(struct fiber_slot),
		.area_size = sizeof(struct fiber_thread_area),
	};
	strncpy(table.head->engine, ops->name, sizeof(table.head->engine) - 1);
	/* The module has stored how long a cycle takes, if the table is its own. */
	clock_open(table.head->mult);
	__atomic_store_n(&table.head->magic, FIBER_TABLE_MAGIC, __ATOMIC_RELEASE);
	backing = ops;
	return 0;
}

static int local_open(void)
{
	return user_open(&table_local);
}

static int mapped_open(void)
{
	return user_open(&table_mapped);
}

/* The child of a fork() may have to go on with memory of its own. */
static const struct engine *user_keep(void)
{
	user_child();
	return backing == &table_local ? &engine_local : &engine_mapped;
}

#define ENGINE_USER				\
	.prepare = user_prepare,		\
	.parent = user_parent,			\
	.keep = user_keep,			\
	.convert = user_convert,		\
	.revert = user_revert,			\
	.create = user_create,			\
	.delete = user_delete,			\
	.free = user_free,			\
	.retire = user_retire,			\
	.leave = user_leave,			\
	.set_name = user_set_name,		\
	.get_stat = user_get_stat,		\
	.get_name = user_get_name,		\
	.fls_alloc = user_fls_alloc,		\
	.fls_free = user_fls_free,		\
	.fls_set = user_fls_set,		\
	.fls_get = user_fls_get

const struct engine engine_local = { .name = "local", .open = local_open, ENGINE_USER };
const struct engine engine_mapped = { .name = "mapped", .open = mapped_open, ENGINE_USER };
