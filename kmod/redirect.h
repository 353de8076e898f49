/* SPDX-License-Identifier: GPL-2.0-only */
/* Look-ups in /proc/PID, redirected. */
#ifndef FIBER_REDIRECT_H
#define FIBER_REDIRECT_H

int fiber_redirect_init(void);
void fiber_redirect_exit(void);

#endif /* FIBER_REDIRECT_H */
