/* SPDX-License-Identifier: GPL-2.0-only */
/* The module's part of /proc. */
#ifndef FIBER_PROC_H
#define FIBER_PROC_H

#include <linux/types.h>

/* Parameter proc_pid. */
extern bool fiber_proc_pid;

void fiber_proc_init(void);
void fiber_proc_exit(void);

#endif /* FIBER_PROC_H */
