/* SPDX-License-Identifier: MIT */
/*
 * Stacks of created fibers: committed by the page as they are touched, above a guard
 * page that is never left out. All functions are called with the lock held.
 */
#ifndef LIBFIBER_STACK_H
#define LIBFIBER_STACK_H

#include <stddef.h>
#include <stdint.h>

#define STACK_DEFAULT	((size_t)1 << 20)
/* Room for a signal frame with AVX-512 state (about 3 KiB) and the handler's own calls. */
#define STACK_MIN	((size_t)16 << 10)
/* More than fits in any case; keeps sums from wrapping. */
#define STACK_MAX	((size_t)1 << 43)
#define STACK_PAGE	((size_t)4096)

struct stack {
	char *start;		/* what the fiber may use; NULL: none */
	size_t size;		/* whole pages; start + size is 64-byte aligned */
};

/*
 * `size` is whole pages, at most STACK_MAX. EAGAIN: the process has as many mappings
 * as vm.max_map_count allows. ENOMEM: no memory or address space.
 */
int stack_alloc(struct stack *stack, size_t size);
void stack_free(const struct stack *stack);

/* The page below a stack that no fiber may touch: within a page's length below `start`. */
static inline char *stack_guard(const struct stack *stack)
{
	return (char *)(((uintptr_t)stack->start - 1) & ~(STACK_PAGE - 1)) - STACK_PAGE;
}

#endif /* LIBFIBER_STACK_H */
