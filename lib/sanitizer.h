/* SPDX-License-Identifier: MIT */
/*
 * Tells AddressSanitizer, LeakSanitizer and ThreadSanitizer which stack is running if the
 * program brings their runtime, and Valgrind if the process runs on it. With a runtime, and on
 * Helgrind, each switch takes the way in C (user/switch.c), where the caller already owns the
 * fiber that it switches to.
 */
#ifndef LIBFIBER_SANITIZER_H
#define LIBFIBER_SANITIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "checker.h"

struct fiber_cb;

/* Of the runtimes; weak: mostly there is none. */
__attribute__((weak)) void __sanitizer_start_switch_fiber(void **save, const void *bottom,
							  size_t size);
__attribute__((weak)) void __tsan_switch_to_fiber(void *fiber, unsigned int flags);
__attribute__((weak)) void __lsan_register_root_region(const void *start, size_t size);

static inline bool sanitizer_watches(void)
{
	return __sanitizer_start_switch_fiber || __tsan_switch_to_fiber || checker_helgrind;
}

/* Pointers in that memory are looked at: the library's own, which is mapped. */
static inline void sanitizer_root(const void *start, size_t size)
{
	if (__lsan_register_root_region)
		__lsan_register_root_region(start, size);
}

/* By the fiber's owner: a thread becomes a fiber; a fiber is created, begins again, and is no more. */
void sanitizer_convert(struct fiber_cb *own);
void sanitizer_create(struct fiber_cb *cb);
void sanitizer_reset(struct fiber_cb *cb);
void sanitizer_forget(struct fiber_cb *cb);

/* In the child of a fork(): another thread ran the fiber. */
void sanitizer_lost(struct fiber_cb *cb);

/*
 * Around a switch: what leave() returns is of the fiber that is left, and for its
 * arrive(); a fiber that begins calls arrive(NULL). The thread is busy from one to
 * the other, so that no handler switches in between.
 */
void *sanitizer_leave(struct fiber_cb *from, struct fiber_cb *to);
void sanitizer_arrive(void *left);

/* All frames of the calling fiber are left without unwinding. */
void sanitizer_unwound(void);

/* A thread that ends on a created fiber comes to its own stack without a switch. */
void sanitizer_end(void);

#endif /* LIBFIBER_SANITIZER_H */
