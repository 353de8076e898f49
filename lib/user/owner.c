/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fls.h"
#include "lock.h"
#include "owner.h"
#include "sanitizer.h"
#include "sole.h"
#include "slots.h"

int owner_futex(_Atomic uint64_t *word, int operation, uint32_t value,
		const struct timespec *timeout)
{
	/* The low half: x86-64 is little-endian. */
	return (int)syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, timeout,
			    NULL, 0);
}

/* As owner_change(), by a thread that is no fiber. */
static __attribute__((noinline)) bool change_locked(struct fiber_cb *cb, uint64_t *owner,
						     uint64_t word)
{
	struct lock_state state;
	bool done;

	lock_take(&state);
	done = atomic_compare_exchange_strong(&cb->owner, owner, word);
	lock_drop(&state);
	return done;
}

bool owner_change(struct fiber_cb *cb, uint64_t *owner, uint64_t word)
{
	struct thread *self = thread_self();
	bool done;

	if (!self->number)
		return change_locked(cb, owner, word);
	__atomic_store_n(&self->area->target, GENERATION(*owner) | fiber_cb_slot(cb),
			 __ATOMIC_RELAXED);
	atomic_signal_fence(memory_order_seq_cst);
	/* As sole.h says, which is about free ones. */
	if ((*owner & OWNER_MASK) == OWNER_FREE &&
	    atomic_load_explicit(&sole, memory_order_acquire)) {
		uint64_t is = atomic_load_explicit(&cb->owner, memory_order_relaxed);

		done = is == *owner;
		if (done)
			atomic_store_explicit(&cb->owner, word, memory_order_release);
		*owner = is;
	} else {
		done = atomic_compare_exchange_strong(&cb->owner, owner, word);
	}
	owner_settle(self);
	atomic_signal_fence(memory_order_seq_cst);
	return done;
}

int owner_refusal(fiber_id_t id, uint64_t owner)
{
	if (!owner_lives(owner, id))
		return ESRCH;
	return (owner & OWNER_MASK) == OWNER_FINISHED ? EOWNERDEAD : EBUSY;
}

void root_release(struct fiber_cb *cb)
{
	uint64_t owner = atomic_load_explicit(&cb->owner, memory_order_relaxed);

	if (!(owner & OWNER_EXIT_PENDING) &&
	    atomic_compare_exchange_strong(&cb->owner, &owner,
					   GENERATION(owner) | OWNER_FREE))
		return;
	slot_of(cb)->state = FIBER_STATE_FINISHED;
	own(cb, OWNER_FINISHED);
	owner_futex(&cb->owner, FUTEX_WAKE, INT_MAX, NULL);
}

void fiber_reset(struct fiber_cb *cb)
{
	struct fiber_slot *slot = slot_of(cb);

	storage_drop(cb);
	sanitizer_reset(cb);
	cb->sp = cb;
	slot->state = FIBER_STATE_NEW;
	slot->area = 0;
}

void fiber_finish(struct fiber_cb *cb)
{
	struct fiber_slot *slot = slot_of(cb);

	slot->state = FIBER_STATE_FINISHED;
	slot->area = 0;
	own(cb, OWNER_FINISHED);
	owner_futex(&cb->owner, FUTEX_WAKE, INT_MAX, NULL);
}

void thread_reap(uint32_t number)
{
	struct fiber_cb *cb;
	uint32_t slot = 1;

	while ((cb = fiber_cb_next(&slot))) {
		uint64_t owner = atomic_load(&cb->owner), word = owner & OWNER_MASK;

		if ((word & ~(uint64_t)OWNER_EXIT_PENDING) == number) {
			if (cb->root_of) {
				fiber_finish(cb);
			} else {
				fiber_reset(cb);
				own(cb, OWNER_FREE);
			}
			continue;
		}
		/* Finished, or its exit is pending with whoever has it: never both alive and forgotten. */
		while (cb->root_of == number && (word == OWNER_FREE || word < FIBER_THREAD_AREAS) &&
		       word != OWNER_NONE) {
			uint64_t next = word == OWNER_FREE ? GENERATION(owner) | OWNER_FINISHED :
							     owner | OWNER_EXIT_PENDING;

			if (atomic_compare_exchange_strong(&cb->owner, &owner, next)) {
				if (word == OWNER_FREE)
					slot_of(cb)->state = FIBER_STATE_FINISHED;
				break;
			}
			word = owner & OWNER_MASK;
		}
	}
	sole_count(-1);
	memset(&table.areas[number], 0, sizeof(table.areas[number]));
}

bool thread_gone(uint32_t number)
{
	struct lock_state state;

	if (!number || number >= FIBER_THREAD_AREAS || !table_thread_is_dead(number))
		return false;
	lock_take(&state);
	if (table_thread_is_dead(number))
		thread_reap(number);
	lock_drop(&state);
	return true;
}

bool owner_gone(uint64_t owner)
{
	uint64_t word = owner & OWNER_MASK;

	return word < OWNER_DELETED && thread_gone(word & ~(uint64_t)OWNER_EXIT_PENDING);
}
