/* SPDX-License-Identifier: MIT */
/* Threads that are fibers, from their conversion to their end. */
#ifndef LIBFIBER_USER_THREADS_H
#define LIBFIBER_USER_THREADS_H

#include "engine.h"

int user_convert(unsigned int flags, fiber_id_t *id);
int user_revert(struct detached *detached);
int user_retire(void);
void user_leave(void);

#endif /* LIBFIBER_USER_THREADS_H */
