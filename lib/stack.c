/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "stack.h"

/*
 * Freed stacks wait here for the next fiber of the same size: mapping and
 * guarding one costs two system calls and a page fault for every page that it
 * uses again. Few, because their pages stay with the process. Under the lock.
 */
#define POOL_SIZE 32
static struct stack pool[POOL_SIZE];
static unsigned int pooled;

/*
 * Tops of stacks that all lie at the same offset of a page fight over the same
 * cache sets, so each stack's top is moved down by a number of cache lines
 * of its own, within one page that is added for that. Under the lock.
 */
#define COLOURS 16
#define COLOUR_SIZE 64
static unsigned int colour;

/*
 * The kernel says ENOMEM for too many mappings and for too little memory. The
 * count is checked before all else, so one page that needs no memory tells.
 */
static int map_error(size_t page)
{
	void *probe = mmap(NULL, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			   -1, 0);

	if (probe == MAP_FAILED)
		return EAGAIN;
	munmap(probe, page);
	return ENOMEM;
}

static int stack_map(struct stack *stack, size_t size, size_t page)
{
	size_t map_size = size + 2 * page;
	char *map = mmap(NULL, map_size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (map == MAP_FAILED)
		return map_error(page);
	if (mprotect(map, page, PROT_NONE)) {
		/* Splitting a mapping in two fails for their number only, or for want of memory. */
		int err = map_error(page);

		munmap(map, map_size);
		return err;
	}
	stack->size = size;
	stack->start = map + 2 * page - colour * COLOUR_SIZE;
	colour = (colour + 1) % COLOURS;
	return 0;
}

int stack_alloc(struct stack *stack, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	unsigned int i;

	/* More than fits in any case; keeps the sums below from wrapping. */
	if (size > (size_t)1 << 46)
		return ENOMEM;
	size = (size + page - 1) & ~(page - 1);
	for (i = pooled; i-- > 0; ) {
		if (pool[i].size == size) {
			*stack = pool[i];
			pool[i] = pool[--pooled];
			return 0;
		}
	}
	return stack_map(stack, size, page);
}

void stack_free(const struct stack *stack)
{
	uintptr_t page = 4096;
	char *map = (char *)(((uintptr_t)stack->start - 1) & ~(page - 1)) - page;

	if (pooled < POOL_SIZE)
		pool[pooled++] = *stack;
	else
		munmap(map, stack->size + 2 * page);
}
