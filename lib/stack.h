/* SPDX-License-Identifier: MIT */
/*
 * Stacks of created fibers: mapped on demand by the page, above a guard page
 * that is never left out. All functions are called with the lock held.
 */
#ifndef LIBFIBER_STACK_H
#define LIBFIBER_STACK_H

#include <stddef.h>

#define STACK_DEFAULT	((size_t)1 << 20)
/* Room for a signal frame with AVX-512 state (about 3 KiB) and the handler's own calls. */
#define STACK_MIN	((size_t)16 << 10)

#define STACK_PAGE 4096
/* More than fits in any case; keeps sums from wrapping. */
#define STACK_MAX ((size_t)1 << 43)

struct stack {
	char *start;		/* what the fiber may use; NULL: none */
	size_t size;		/* whole pages; start + size is 64-byte aligned */
};

/*
 * EAGAIN: the process has as many mappings as vm.max_map_count allows.
 * ENOMEM: no memory or address space.
 */
int stack_alloc(struct stack *stack, size_t size);
void stack_free(const struct stack *stack);

#endif /* LIBFIBER_STACK_H */
