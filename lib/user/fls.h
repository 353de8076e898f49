/* SPDX-License-Identifier: MIT */
/* The report's local storage: positions that a fiber allocates for itself alone. */
#ifndef LIBFIBER_USER_FLS_H
#define LIBFIBER_USER_FLS_H

#include <stdint.h>

struct fiber_cb;

/* All positions go. By the fiber's owner. */
void storage_drop(struct fiber_cb *cb);

int user_fls_alloc(uint64_t *index);
int user_fls_free(uint64_t index);
int user_fls_set(uint64_t index, uint64_t value);
int user_fls_get(uint64_t index, uint64_t *value);

#endif /* LIBFIBER_USER_FLS_H */
