/* SPDX-License-Identifier: MIT */
/* /dev/fiber, the module's device. */
#ifndef LIBFIBER_DEVICE_H
#define LIBFIBER_DEVICE_H

/* This process's own descriptor. ENODEV: there is no module. EPROTO: the file is not the module's device. */
int device_open(int *device);

#endif /* LIBFIBER_DEVICE_H */
