/* SPDX-License-Identifier: GPL-2.0-only */
/* The probes of exit and exec. */
#ifndef FIBER_EXIT_H
#define FIBER_EXIT_H

int fiber_hooks_init(void);
void fiber_hooks_exit(void);

#endif /* FIBER_EXIT_H */
