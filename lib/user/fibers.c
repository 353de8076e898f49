/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "fibers.h"
#include "fls.h"
#include "key.h"
#include "lock.h"
#include "observer.h"
#include "owner.h"
#include "sanitizer.h"
#include "slots.h"

/*
 * So many free fibers with their stacks a thread keeps to itself, whose stacks count as
 * in stack.c; half of them go at a time.
 */
#define FREE_MAX		64
#define FREE_PAGES_MAX	(((size_t)16 << 20) / STACK_PAGE)

void free_list_trim(struct thread *self, unsigned int keep)
{
	struct lock_state state;

	lock_take(&state);
	while (self->free_count > keep) {
		struct fiber_cb *cb = self->free_list;

		self->free_list = cb->sp;
		self->free_count--;
		self->free_pages -= cb->stack_pages;
		fiber_cb_give(cb);
	}
	lock_drop(&state);
}

void fiber_detach(struct fiber_cb *cb, struct detached *detached)
{
	struct fiber_extra *extra = fiber_extra_used(cb);
	struct values *values = extra ? atomic_load(&extra->values) : NULL;
	struct lock_state state;

	if (values) {
		/* A key may be deleted just now, which looks at all fibers. */
		lock_take(&state);
		atomic_store(&extra->values, NULL);
		values_close(values);
		lock_drop(&state);
	} else {
		lock_wait();
	}
	detached->values = values;
	detached->cb = cb;
	detached->owner = atomic_load_explicit(&cb->owner, memory_order_relaxed);
}

/* A free fiber with such a stack. */
static int fiber_take(struct thread *self, const struct engine_fiber *order,
		      struct fiber_cb **taken)
{
	struct fiber_cb *cb = self->free_list;
	struct lock_state state;
	struct stack stack;
	int err;

	if (cb && !order->stack.start && cb->stack_pages == order->stack_size / STACK_PAGE &&
	    cb->guard_pages == order->guard_size / STACK_PAGE) {
		self->free_list = cb->sp;
		self->free_count--;
		self->free_pages -= cb->stack_pages;
		*taken = cb;
		return 0;
	}
	lock_take(&state);
	err = fiber_cb_take(&cb);
	if (err)
		goto unlock;
	stack = order->stack;
	if (!stack.start)
		err = stack_alloc(&stack, order->stack_size, order->guard_size);
	if (err) {
		fiber_cb_give(cb);
		goto unlock;
	}
	cb->root_of = 0;
	fiber_cb_set_stack(cb, &stack);
	*taken = cb;
unlock:
	lock_drop(&state);
	return err;
}

int user_create(const struct engine_fiber *order, fiber_id_t *id)
{
	uint64_t busy = thread_busy();
	struct thread *self = thread_self();
	struct fiber_cb *cb;
	struct fiber_slot *slot;
	int err;

	err = fiber_take(self, order, &cb);
	if (err)
		goto idle;
	cb->sp = cb;
	fiber_cb_begin(cb, order->entry, order->arg, order->flags);
	*id = id_of(cb);
	slot = slot_of(cb);
	slot->entry = (uintptr_t)order->entry;
	slot->stack_start = (uintptr_t)cb->stack_start;
	slot->stack_size = (uint64_t)cb->stack_pages * STACK_PAGE;
	slot->parent = self->number ? self->area->tid : (uint32_t)gettid();
	if (*order->name)
		strncpy(slot->name, order->name, sizeof(slot->name) - 1);
	slot_show(*id, slot);
	sanitizer_create(cb);
	observer_created(*id, order->name);
	own(cb, OWNER_FREE);
idle:
	thread_idle(busy);
	return err;
}

int user_delete(fiber_id_t id, struct detached *detached)
{
	struct fiber_cb *cb;
	uint64_t owner, busy;

	if (!fiber_cb_exists(id))
		return ESRCH;
	cb = fiber_cb_at(id);
	owner = atomic_load(&cb->owner);
	/* From the fiber's end to user_free() there is nobody else to clear up. */
	busy = thread_busy();
	for (;;) {
		uint64_t word = owner & OWNER_MASK;
		int err = 0;

		if (!owner_lives(owner, id) || (word != OWNER_FREE && word != OWNER_FINISHED)) {
			if (owner_gone(owner)) {
				owner = atomic_load(&cb->owner);
				continue;
			}
			err = owner_refusal(id, owner);
		} else if (word == OWNER_FREE && cb->root_of) {
			uint64_t before = owner;
			bool gone = thread_gone(cb->root_of);

			/* The fiber's own home only if it has been there all the time. */
			owner = atomic_load(&cb->owner);
			if (gone || owner != before)
				continue;
			err = EPERM;
		}
		if (err) {
			thread_idle(busy);
			return err;
		}
		if (owner_change(cb, &owner, GENERATION(id) | OWNER_DELETED))
			break;
	}
	fiber_detach(cb, detached);
	thread_idle(busy);
	return 0;
}

void user_free(const struct detached *detached)
{
	struct fiber_cb *cb = detached->cb;
	uint64_t busy = thread_busy();
	struct thread *self = thread_self();
	struct lock_state state;
	struct stack stack;
	bool own_stack;

	/* A destructor forked, and in the child all that was on its way out is free already. */
	if (atomic_load(&cb->owner) != detached->owner) {
		thread_idle(busy);
		return;
	}
	if (fiber_extra_used(cb))
		storage_drop(cb);
	if (sanitizer_watches() || checker_valgrind)
		sanitizer_forget(cb);
	slot_clear(slot_of(cb));
	/* The next one's generation. */
	atomic_store_explicit(&cb->owner, GENERATION(id_of(cb)) + CB_SLOTS,
			      memory_order_release);
	stack = fiber_cb_stack(cb);
	own_stack = stack.start && !cb->root_of && stack_is_own(&stack);
	if (self->number && !cb->root_of && !own_stack && cb->stack_pages <= FREE_PAGES_MAX / 2) {
		while (self->free_count == FREE_MAX ||
		       self->free_pages + cb->stack_pages > FREE_PAGES_MAX)
			free_list_trim(self, self->free_count / 2);
		cb->sp = self->free_list;
		self->free_list = cb;
		self->free_count++;
		self->free_pages += cb->stack_pages;
	} else {
		lock_take(&state);
		fiber_cb_give(cb);
		lock_drop(&state);
	}
	thread_idle(busy);
	if (own_stack)
		stack_return(&stack);
}
