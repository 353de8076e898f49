/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stddef.h>

#include "slots.h"
#include "stack.h"

struct table table;
const struct table_ops *backing;

/* Under the lock. */
static struct fiber_cb *free_cbs;

int fiber_cb_take(struct fiber_cb **cb)
{
	uint32_t slot = table.head->slots_used;
	int err;

	*cb = free_cbs;
	if (free_cbs) {
		free_cbs = free_cbs->sp;
		return 0;
	}
	if (slot == CB_SLOTS)
		return EAGAIN;
	err = fiber_cb_reserve(slot);
	if (err)
		return err;
	if (slot >= table.committed) {
		err = backing->commit(slot);
		if (err)
			return err;
	}
	table.head->slots_used = slot + 1;
	fiber_cb_used(slot + 1);
	*cb = &fiber_cbs[slot];
	return 0;
}

void fiber_cb_give(struct fiber_cb *cb)
{
	const struct stack stack = fiber_cb_stack(cb);

	if (stack.start && !cb->root_of && !stack_is_own(&stack))
		stack_free(&stack);
	/* So that a forked child can tell it from those that a thread keeps. */
	fiber_cb_set_stack(cb, NULL);
	cb->root_of = 0;
	cb->sp = free_cbs;
	free_cbs = cb;
}
