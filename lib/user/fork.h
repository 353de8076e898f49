/* SPDX-License-Identifier: MIT */
/* Over a fork(): the child keeps what was suspended. With the lock held. */
#ifndef LIBFIBER_USER_FORK_H
#define LIBFIBER_USER_FORK_H

void user_prepare(void);
void user_parent(void);

/*
 * In a forked child: what other threads ran is finished, and so are those
 * threads' root fibers. What they were making or freeing is free.
 */
void user_child(void);

#endif /* LIBFIBER_USER_FORK_H */
