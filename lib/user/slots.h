/* SPDX-License-Identifier: MIT */
/* Slots: a cb block, and what the status table shows of it. */
#ifndef LIBFIBER_USER_SLOTS_H
#define LIBFIBER_USER_SLOTS_H

#include <stdint.h>
#include <string.h>

#include "fiber_cb.h"
#include "table.h"

/* How the engine's table is made and grows; set by its open(), and changed by a fork(). */
extern const struct table_ops *backing __attribute__((visibility("hidden")));

static inline struct fiber_slot *slot_of(const struct fiber_cb *cb)
{
	return &table.slots[cb - fiber_cbs];
}

/* A free slot. EAGAIN, ENOMEM. With the lock held. */
int fiber_cb_take(struct fiber_cb **cb);
void fiber_cb_give(struct fiber_cb *cb);

/* All else is there: from now on others see it. */
static inline void slot_show(fiber_id_t id, struct fiber_slot *slot)
{
	__atomic_store_n(&slot->id, id, __ATOMIC_RELEASE);
}

/* As a new fiber's is: not yet shown, FIBER_STATE_NEW. */
static inline void slot_clear(struct fiber_slot *slot)
{
	__atomic_store_n(&slot->id, 0, __ATOMIC_RELEASE);
	/* By cache lines: the compiler makes the slow string instruction of all at once. */
	memset(slot, 0, 64);
	memset(&slot->failed, 0, 64);
	if (*slot->name)
		memset(slot->name, 0, sizeof(slot->name));
}

#endif /* LIBFIBER_USER_SLOTS_H */
