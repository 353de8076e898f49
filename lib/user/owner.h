/* SPDX-License-Identifier: MIT */
/* The owner protocol (fiber_cb.h): who may touch a fiber, and what its end does. */
#ifndef LIBFIBER_USER_OWNER_H
#define LIBFIBER_USER_OWNER_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "fiber_cb.h"
#include "thread.h"

/*
 * Changes the owner word of a fiber that is free or finished: from *owner to `word`, or says what it
 * is. By anybody; a fiber thread is busy. What follows does not come before it.
 */
bool owner_change(struct fiber_cb *cb, uint64_t *owner, uint64_t word);

/* The fiber thread is not about to take what it wanted last: a signal came in between, or nothing. */
static inline void owner_settle(struct thread *self)
{
	__atomic_store_n(&self->area->target, 0, __ATOMIC_RELEASE);
}

int owner_futex(_Atomic uint64_t *word, int operation, uint32_t value,
		const struct timespec *timeout);

/* Why a fiber cannot be taken, by the word that was found. */
int owner_refusal(fiber_id_t id, uint64_t owner);

/* Gives back somebody else's root fiber, whose thread's exit may be pending. By its owner. */
void root_release(struct fiber_cb *cb);

/* The created fiber begins again. By its owner. */
void fiber_reset(struct fiber_cb *cb);

/* The root fiber is finished, by its owner: its stack is gone. */
void fiber_finish(struct fiber_cb *cb);

/*
 * That thread has vanished without a word (the exit system call): what it ran and
 * what it was. Its root fiber may be run by another thread, which finishes it then.
 * With the lock held.
 */
void thread_reap(uint32_t number);

/* Whether that thread has vanished; then what it left is in order again. */
bool thread_gone(uint32_t number);

/* Whether whoever has that owner word has vanished; then the word is another one now. */
bool owner_gone(uint64_t owner);

#endif /* LIBFIBER_USER_OWNER_H */
