/* SPDX-License-Identifier: MIT */
#include <string.h>
#include <unistd.h>

#include "areas.h"
#include "clock.h"
#include "fork.h"
#include "key.h"
#include "owner.h"
#include "sanitizer.h"
#include "slots.h"
#include "sole.h"
#include "thread.h"

void user_child(void)
{
	struct thread *self = thread_self();
	struct fiber_cb *current = self->ending ? self->ending : self->current;
	uint32_t slot;

	if (backing->fork_child)
		backing = backing->fork_child((uint32_t)self->number);
	sole_child(self->number != 0);
	self->free_list = NULL;
	self->free_count = 0;
	self->free_pages = 0;
	for (slot = 1; slot < table.head->slots_used; slot++) {
		struct fiber_cb *cb = &fiber_cbs[slot];
		uint64_t owner = atomic_load(&cb->owner), word = owner & OWNER_MASK;

		/* Free, and as fiber_cb_give() left it: writing to it would copy its page. */
		if (word == OWNER_NONE && !cb->stack_start && !cb->root_of)
			continue;
		if (word == OWNER_NONE || word == OWNER_DELETED) {
			atomic_store(&cb->owner, word == OWNER_NONE ? owner :
				     GENERATION(owner) + CB_SLOTS);
			if (fiber_extra_used(cb))
				*fiber_extra(cb) = (struct fiber_extra) { .storage = NULL };
			slot_clear(&table.slots[slot]);
			fiber_cb_give(cb);
			continue;
		}
		if (word == OWNER_FINISHED)
			continue;
		if (cb->root_of == CB_LEFT)
			cb->root_of = 0;
		if (word == OWNER_FREE ? !cb->root_of || cb->root_of == self->number :
					 (word & ~(uint64_t)OWNER_EXIT_PENDING) == self->number)
			continue;
		/* No destructors, as for the thread-specific values of threads that are not here. */
		if (fiber_extra_used(cb))
			values_free(atomic_exchange(&fiber_extra(cb)->values, NULL));
		sanitizer_lost(cb);
		table.slots[slot].state = FIBER_STATE_FINISHED;
		table.slots[slot].area = 0;
		own(cb, OWNER_FINISHED);
	}
	for (slot = 1; slot < table.head->areas_used; slot++)
		if (slot != self->number)
			memset(&table.areas[slot], 0, sizeof(table.areas[slot]));
	if (self->number) {
		self->slot = slot_of(current);
		self->area = &table.areas[self->number];
		self->area->tid = (uint32_t)gettid();
		self->area->fiber = self->current_id;
		self->slot->last_switch = cycles();
		area_begin(self->area, self->slot->last_switch);
	}
}

void user_prepare(void)
{
	if (backing->fork_prepare)
		backing->fork_prepare();
}

void user_parent(void)
{
	if (backing->fork_parent)
		backing->fork_parent();
}
