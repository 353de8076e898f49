/* SPDX-License-Identifier: MIT */
/*
 * The library's one lock. It is taken to make and free what pools do not hold,
 * and to look at other fibers than the calling one; never to switch.
 *
 * Its holder is busy (thread.h): a fiber that was parked while it holds the lock,
 * or is inside malloc(), would stop all others. errno is kept, since the API
 * promises so.
 *
 * Who holds the lock keeps each fiber that it finds, although fibers are deleted
 * without it: who deletes one first makes it impossible to find, and then waits
 * for a holder by lock_wait().
 */
#ifndef LIBFIBER_LOCK_H
#define LIBFIBER_LOCK_H

#include <stdint.h>

struct lock_state {
	uint64_t busy;
	int saved_errno;
};

void lock_take(struct lock_state *state);
void lock_drop(const struct lock_state *state);

/* Returns when whoever held it has dropped it; at once, mostly. After a locked instruction. */
void lock_wait(void);

#endif /* LIBFIBER_LOCK_H */
