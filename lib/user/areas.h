/* SPDX-License-Identifier: MIT */
/* Thread areas: the record of a thread in the status table. */
#ifndef LIBFIBER_USER_AREAS_H
#define LIBFIBER_USER_AREAS_H

#include <stdint.h>

#include "uapi/fiber.h"

/* A number for the calling thread. EAGAIN. With the lock held. */
int area_take(uint32_t *number);
void area_give(uint32_t number);

/* A run begins. */
void area_begin(struct fiber_thread_area *area, uint64_t now);

#endif /* LIBFIBER_USER_AREAS_H */
