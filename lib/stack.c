/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "stack.h"

/* Linux 6.13. A guard page of this kind is no mapping of its own. */
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/*
 * A stack lies in a piece of memory of its size and two pages: the guard page, and
 * one for its colour, by which its ends are moved down.
 *
 * The tops of stacks that all lie at the same offset of a page fight over the same
 * cache sets. So each is some cache lines lower than the one before, the same
 * number for each: a prefetcher follows that. Which number does not matter as
 * long as it is odd: 64 of them then go through all offsets.
 */
#define COLOUR_LINES	5
#define COLOUR_LINE	64
#define COLOURS		(STACK_PAGE / COLOUR_LINE)

/* Pieces are cut from slabs of so much address space; it costs nothing until it is touched. */
#define SLAB_SIZE	((size_t)64 << 20)

/*
 * Freed stacks wait here for the next fibers of their size: making one costs system
 * calls, and a fault for each page. Few keep their memory, as it stays with
 * the process; the memory of others is given back, and their guards stay.
 */
#define WARM_STACKS	32

struct stack_class {
	size_t size;
	/* What is left of the newest slab. */
	char *next, *end;
	unsigned int colour;
	/* Freed ones without their memory, by `start`. */
	char **cold;
	size_t colds, cold_room;
};

/* All under the lock. Programs use few sizes; those of others are mapped one by one. */
#define CLASSES	16
static struct stack_class classes[CLASSES];
static struct stack warm[WARM_STACKS];
static unsigned int warms;

enum guards {
	GUARDS_UNKNOWN,
	GUARDS_ADVISED,		/* MADV_GUARD_INSTALL */
	GUARDS_PROTECTED,	/* mprotect(), a mapping each */
};
static enum guards guards;

static char *map(size_t size)
{
	char *start = mmap(NULL, size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);

	if (start == MAP_FAILED)
		return NULL;
	/* Else the first page that is touched costs two megabytes where huge pages are the rule. */
	madvise(start, size, MADV_NOHUGEPAGE);
	return start;
}

/*
 * The kernel says ENOMEM for too many mappings and for too little memory. The
 * count is checked before all else, so one page that needs no memory tells.
 */
static int map_error(void)
{
	void *probe = mmap(NULL, STACK_PAGE, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (probe == MAP_FAILED)
		return EAGAIN;
	munmap(probe, STACK_PAGE);
	return ENOMEM;
}

/* Which kind there is shows with the first one. */
static int guard_install(char *page)
{
	if (guards != GUARDS_PROTECTED) {
		if (!madvise(page, STACK_PAGE, MADV_GUARD_INSTALL)) {
			guards = GUARDS_ADVISED;
			return 0;
		}
		if (errno != EINVAL)
			return ENOMEM;
		guards = GUARDS_PROTECTED;
	}
	/* Splitting a mapping in two fails for their number only, or for want of memory. */
	return mprotect(page, STACK_PAGE, PROT_NONE) ? map_error() : 0;
}

static size_t piece_size(size_t size)
{
	return size + 2 * STACK_PAGE;
}

/* The class of that size, NULL where there is none and no room for it. */
static struct stack_class *class_find(size_t size)
{
	struct stack_class *class;

	for (class = classes; class < classes + CLASSES; class++) {
		if (!class->size)
			class->size = size;
		if (class->size == size)
			return class;
	}
	return NULL;
}

/* A piece of memory with a guard page at its start. */
static int piece_alloc(struct stack_class *class, size_t size, char **piece)
{
	size_t length = piece_size(size);
	bool alone = !class || guards == GUARDS_PROTECTED || length > SLAB_SIZE;
	int err;

	if (alone) {
		*piece = map(length);
	} else {
		if (length > (size_t)(class->end - class->next)) {
			class->next = map(SLAB_SIZE);
			class->end = class->next ? class->next + SLAB_SIZE : NULL;
		}
		*piece = class->next;
	}
	if (!*piece)
		return map_error();
	err = guard_install(*piece);
	if (err) {
		if (alone)
			munmap(*piece, length);
		return err;
	}
	if (!alone)
		class->next += length;
	return 0;
}

int stack_alloc(struct stack *stack, size_t size)
{
	struct stack_class *class;
	unsigned int i, colour = 0;
	char *piece;
	int err;

	for (i = warms; i-- > 0; ) {
		if (warm[i].size == size) {
			*stack = warm[i];
			warm[i] = warm[--warms];
			return 0;
		}
	}
	class = class_find(size);
	stack->size = size;
	if (class && class->colds) {
		stack->start = class->cold[--class->colds];
		return 0;
	}
	err = piece_alloc(class, size, &piece);
	if (err)
		return err;
	if (class)
		colour = class->colour = (class->colour + COLOUR_LINES) % COLOURS;
	stack->start = piece + 2 * STACK_PAGE - colour * COLOUR_LINE;
	return 0;
}

/* Whether its memory is given back and the rest kept. */
static bool cool(const struct stack *stack)
{
	struct stack_class *class = class_find(stack->size);
	char *guard = stack_guard(stack);
	char **cold;
	size_t room;

	if (guards != GUARDS_ADVISED || !class || piece_size(stack->size) > SLAB_SIZE)
		return false;
	if (class->colds == class->cold_room) {
		room = class->cold_room ? 2 * class->cold_room : 64;
		cold = realloc(class->cold, room * sizeof(*cold));
		if (!cold)
			return false;
		class->cold = cold;
		class->cold_room = room;
	}
	madvise(guard + STACK_PAGE, piece_size(stack->size) - STACK_PAGE, MADV_DONTNEED);
	class->cold[class->colds++] = stack->start;
	return true;
}

void stack_free(const struct stack *stack)
{
	if (warms < WARM_STACKS)
		warm[warms++] = *stack;
	else if (!cool(stack))
		munmap(stack_guard(stack), piece_size(stack->size));
}
