/* SPDX-License-Identifier: MIT */
/*
 * The library's one lock. It is taken to make and free what pools do not hold,
 * and to look at other fibers than the calling one; never to switch.
 *
 * Its holder is busy (thread.h): a fiber that was parked while it holds the lock,
 * or is inside malloc(), would stop all others. Nor is it cancelled, since nobody else would
 * drop the lock. errno is kept, since the API promises so.
 *
 * Who holds the lock keeps each fiber that it finds, although fibers are deleted
 * without it: who deletes one first makes it impossible to find, and then waits
 * for a holder by lock_wait().
 */
#ifndef LIBFIBER_LOCK_H
#define LIBFIBER_LOCK_H

#include <stdatomic.h>
#include <stdint.h>

/* A word of its own, and not a mutex, because lock_wait() must see it. */
enum lock_word {
	LOCK_FREE,
	LOCK_TAKEN,
	LOCK_AWAITED,	/* taken, and somebody sleeps */
};

extern _Atomic uint32_t lock_word __attribute__((visibility("hidden")));

struct lock_state {
	uint64_t busy;
	int saved_errno, cancel;
};

void lock_take(struct lock_state *state);
void lock_drop(const struct lock_state *state);

/*
 * Returns when whoever held it has dropped it; at once, mostly. After a locked instruction, or what
 * the sole fiber thread does in its place (sole.h).
 */
static inline void lock_wait(void)
{
	struct lock_state state;

	if (atomic_load_explicit(&lock_word, memory_order_relaxed) == LOCK_FREE)
		return;
	lock_take(&state);
	lock_drop(&state);
}

#endif /* LIBFIBER_LOCK_H */
