/* SPDX-License-Identifier: MIT */
/*
 * The library's one lock. It is taken to create and delete fibers and keys,
 * never to switch, to look up or to read.
 *
 * Signals are blocked while it is held: a handler may switch fibers, and a
 * fiber that is parked while it holds a lock, or is inside malloc(), stops
 * all others. errno is kept, since the API promises so.
 */
#ifndef LIBFIBER_LOCK_H
#define LIBFIBER_LOCK_H

#include <signal.h>

struct lock_state {
	sigset_t mask;
	int saved_errno;
};

void lock_take(struct lock_state *state);
void lock_drop(const struct lock_state *state);

#endif /* LIBFIBER_LOCK_H */
