/* SPDX-License-Identifier: GPL-2.0-only */
/* The entry of a process image, from its first open() of the device to its end. */
#ifndef FIBER_IMAGE_H
#define FIBER_IMAGE_H

#include "types.h"

extern atomic_long_t fiber_processes;
/* Parameter max_fibers. */
extern unsigned int fiber_max_fibers;

struct fiber_process *fiber_process_open(void);

#endif /* FIBER_IMAGE_H */
