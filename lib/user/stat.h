/* SPDX-License-Identifier: MIT */
/* Names and snapshots. */
#ifndef LIBFIBER_USER_STAT_H
#define LIBFIBER_USER_STAT_H

#include "include/fiber.h"

int user_set_name(fiber_id_t id, const char *name);
void user_get_name(fiber_id_t id, char *name);
int user_get_stat(fiber_id_t id, struct fiber_stat *stat);

#endif /* LIBFIBER_USER_STAT_H */
