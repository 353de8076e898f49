/* SPDX-License-Identifier: MIT */
/* Time of engines `local` and `mapped`: cycles, and how long one takes. */
#ifndef LIBFIBER_USER_CLOCK_H
#define LIBFIBER_USER_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

static inline uint64_t cycles(void)
{
	return __builtin_ia32_rdtsc();
}

/*
 * Stores in the status table's head what both clocks say, and how long a cycle takes: once,
 * so that a time that was told does not become less. `given`: the kernel has stored that.
 */
void clock_open(bool given);

uint64_t nanoseconds(uint64_t count);

#endif /* LIBFIBER_USER_CLOCK_H */
