/* SPDX-License-Identifier: MIT */
/*
 * Stacks of created fibers: committed by the page as they are touched, above a guard
 * gap that is never left out, or memory of the program. Functions are called with the
 * lock held unless they say something else.
 */
#ifndef LIBFIBER_STACK_H
#define LIBFIBER_STACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STACK_DEFAULT	((size_t)1 << 20)
/* Room for a signal frame with AVX-512 state (about 3 KiB) and the handler's own calls. */
#define STACK_MIN	((size_t)16 << 10)
/* More than fits in any case; keeps sums from wrapping. */
#define STACK_MAX	((size_t)1 << 43)
#define STACK_PAGE	((size_t)4096)

/* A frame that is larger than the gap may step over it. */
#define GUARD_DEFAULT	((size_t)64 << 10)
/* fiber_cb.guard_pages has 16 bits. */
#define GUARD_MAX	((size_t)255 << 20)

/*
 * In place of a gap: memory of the program, which stays, or to which a struct
 * stack_return belongs that lies above the stack.
 */
#define GUARD_OWN	((size_t)0)
#define GUARD_RETURN	((size_t)UINT16_MAX * STACK_PAGE)

struct stack {
	char *start;		/* what the fiber may use; NULL: none */
	size_t size;		/* whole pages; start + size is 64-byte aligned */
	size_t guard;		/* whole pages */
};

/* How memory of the program is returned. */
struct stack_return {
	void (*free)(void *memory, size_t size, void *data);
	void *data, *memory;
	size_t size;
};

/*
 * A stack in memory of the program; `free` may be NULL. Its size is 0 if there is not
 * enough. Without the lock, as the next one.
 */
struct stack stack_adopt(const struct stack_return *memory);

/* Calls the program. Nothing for a stack that stays. */
void stack_return(const struct stack *stack);

static inline bool stack_is_own(const struct stack *stack)
{
	return stack->guard == GUARD_OWN || stack->guard == GUARD_RETURN;
}

/*
 * `size` and `guard` are whole pages, at most STACK_MAX and from one to GUARD_MAX.
 * EAGAIN: the process has as many mappings as vm.max_map_count allows. ENOMEM: no
 * memory or address space.
 */
int stack_alloc(struct stack *stack, size_t size, size_t guard);
void stack_free(const struct stack *stack);

/* Bytes of the stack down to its lowest page that is in memory. */
size_t stack_used(const struct stack *stack);

/*
 * The lowest byte of the gap below a stack that no fiber may touch. The gap ends within a
 * page's length below `start`.
 */
static inline char *stack_guard(const struct stack *stack)
{
	return (char *)(((uintptr_t)stack->start - 1) & ~(STACK_PAGE - 1)) - stack->guard;
}

#endif /* LIBFIBER_STACK_H */
