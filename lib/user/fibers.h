/* SPDX-License-Identifier: MIT */
/* Created fibers: made, deleted, and kept with their stacks for the next ones. */
#ifndef LIBFIBER_USER_FIBERS_H
#define LIBFIBER_USER_FIBERS_H

#include "fiber_cb.h"
#include "engine.h"
#include "thread.h"

int user_create(const struct engine_fiber *order, fiber_id_t *id);
int user_delete(fiber_id_t id, struct detached *detached);
void user_free(const struct detached *detached);

/* Frees what the calling thread keeps, down to that many. */
void free_list_trim(struct thread *self, unsigned int keep);

/* Nobody finds it any more: what is left of it. By its owner, who made it OWNER_DELETED. */
void fiber_detach(struct fiber_cb *cb, struct detached *detached);

#endif /* LIBFIBER_USER_FIBERS_H */
