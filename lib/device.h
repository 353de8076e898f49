/* SPDX-License-Identifier: MIT */
/*
 * /dev/fiber, the module's device, by a descriptor of this process's own. A program may close
 * descriptors that it did not open, and the number be another file's then. So it is
 * looked at before it is used for anything but requests, which other files refuse, and opened
 * again if it is not the device any more: all descriptors of a process lead to the same fibers.
 */
#ifndef LIBFIBER_DEVICE_H
#define LIBFIBER_DEVICE_H

#include <stdint.h>

/* ENODEV: there is no module. EPROTO: the file is not the module's device. */
int device_open(void);

/* Nothing if it is not the device any more. */
void device_close(void);

/* The descriptor. Errors as of device_open(). */
int device_file(int *file);

/* One request: 0 or an error number. Async-signal-safe. */
int device_request(unsigned long number, uintptr_t argument);

#endif /* LIBFIBER_DEVICE_H */
