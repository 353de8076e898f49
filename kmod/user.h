/* SPDX-License-Identifier: GPL-2.0-only */
/* The user who pays for what the module allocates, and how much that may be. */
#ifndef FIBER_USER_H
#define FIBER_USER_H

#include <linux/types.h>

struct fiber_user;

/* Parameter max_user_kib. */
extern unsigned int fiber_max_user_kib;

struct fiber_user *fiber_user_open(size_t bytes);
size_t fiber_user_size(void);
void fiber_user_end(struct fiber_user *account);
void fiber_user_ended(struct fiber_user *account);
int fiber_user_charge(struct fiber_user *account, size_t bytes);
void fiber_user_uncharge(struct fiber_user *user, size_t bytes);
void fiber_user_defer(struct fiber_user *user, size_t bytes);
void fiber_user_uncharge_deferred(struct fiber_user *user, size_t bytes);

#endif /* FIBER_USER_H */
