/* SPDX-License-Identifier: MIT */
/* Which engine this process uses, out of all that there are. */
#ifndef LIBFIBER_CHOICE_H
#define LIBFIBER_CHOICE_H

#include <stdbool.h>

/*
 * Opens the engine that was asked for; 0 if it is open. With the lock held.
 * EINVAL: KFIBER_ENGINE names none. Else what its open() gives.
 */
int engine_open(void);

/* With the lock held. EBUSY: an engine is open. EINVAL: no such engine. */
int engine_choose(const char *name);

/* Around fork(), with the lock held. The child's says whether it keeps the fibers. */
void engine_fork_prepare(void);
void engine_fork_parent(void);
bool engine_fork_child(void);

#endif /* LIBFIBER_CHOICE_H */
