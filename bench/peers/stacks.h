/* SPDX-License-Identifier: MIT */
/*
 * Stacks for peers that have none of their own, laid out as libfiber's are: so far apart, and
 * coloured by the same stride. They have no guard pages, which cost time only where stacks are
 * made, and are compared there with Boost's own.
 */
#ifndef BENCH_STACKS_H
#define BENCH_STACKS_H

#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "peer.h"

#define STACK_PAGE	4096
#define STACK_SLAB	((size_t)64 << 20)
#define STACK_COLOUR	(3 * 64)
#define STACK_COLOURS	(40 * 64)

/* What was freed last is taken first. Its highest word, which was touched anyway, leads on. */
static char *stack_free_list;
static char *stack_next, *stack_end;
static size_t stack_colour;

/* The lowest address of PEER_STACK bytes, or NULL. */
static inline char *stack_take(void)
{
	size_t length = PEER_STACK + 2 * STACK_PAGE;
	char *start = stack_free_list;

	if (start) {
		stack_free_list = *(char **)(start + PEER_STACK - 8);
		return start;
	}
	if (length > (size_t)(stack_end - stack_next)) {
		void *slab = mmap(NULL, STACK_SLAB, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);

		if (slab == MAP_FAILED)
			return NULL;
		madvise(slab, STACK_SLAB, MADV_NOHUGEPAGE);
		stack_next = (char *)slab;
		stack_end = stack_next + STACK_SLAB;
	}
	start = stack_next + 2 * STACK_PAGE - stack_colour;
	stack_colour = (stack_colour + STACK_COLOUR) % STACK_COLOURS;
	stack_next += length;
	return start;
}

static inline void stack_give(char *start)
{
	*(char **)(start + PEER_STACK - 8) = stack_free_list;
	stack_free_list = start;
}

#endif /* BENCH_STACKS_H */
