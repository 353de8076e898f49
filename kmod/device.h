/* SPDX-License-Identifier: GPL-2.0-only */
/* /dev/fiber. */
#ifndef FIBER_DEVICE_H
#define FIBER_DEVICE_H

int fiber_device_init(void);
void fiber_device_exit(void);

#endif /* FIBER_DEVICE_H */
