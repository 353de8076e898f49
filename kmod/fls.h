/* SPDX-License-Identifier: GPL-2.0-only */
/* Fiber-local storage. */
#ifndef FIBER_FLS_H
#define FIBER_FLS_H

#include "types.h"

long fiber_fls_alloc(struct fiber *fiber, u64 __user *user);
long fiber_fls_free(struct fiber *fiber, u64 index);
long fiber_fls_set(struct fiber *fiber, const struct fiber_fls __user *user);
long fiber_fls_get(struct fiber *fiber, struct fiber_fls __user *user);
void fiber_fls_reset(struct fiber *fiber);
void fiber_fls_destroy(struct fiber *fiber);

#endif /* FIBER_FLS_H */
