/* SPDX-License-Identifier: GPL-2.0-only */
/* The file /proc/fiber. */
#ifndef FIBER_FALLBACK_H
#define FIBER_FALLBACK_H

int fiber_fallback_init(void);
void fiber_fallback_exit(void);

#endif /* FIBER_FALLBACK_H */
