/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "stack.h"

/* Linux 6.13. A guard page of this kind is no mapping of its own. */
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/* Linux 6.14. */
#ifndef PIDFD_SELF_THREAD
#define PIDFD_SELF_THREAD -10000
#endif

/*
 * A stack lies in a piece of memory of its size and two pages: the guard page, and
 * one for its colour, by which its ends are moved down.
 *
 * The tops of stacks that all lie at the same offset of a page fight over the same
 * cache sets. So each is some cache lines lower than the one before, the same
 * number for each: a prefetcher follows that. The number has no divisor in common
 * with the colours', so all of them are used. They leave the lower part of a page
 * alone, so that a fiber with small frames touches one page only.
 */
#define COLOUR_LINES	3
#define COLOUR_LINE	64
#define COLOURS		40

/* Pieces are cut from slabs of so much address space; it costs nothing until it is touched. */
#define SLAB_SIZE	((size_t)64 << 20)

/*
 * Freed stacks wait here for the next fibers of their size: making one costs system
 * calls, and a fault for each page. Few keep their memory, as it stays with
 * the process; the memory of others is given back, of so many at a time, and
 * their guards stay.
 */
#define WARM_STACKS	32
#define COOLED		(WARM_STACKS / 2)

/* Guards are made ahead, as far as one page of the page table reaches, which each needs anyway. */
#define GUARD_REACH	((size_t)2 << 20)
#define GUARDS		32

struct stack_class {
	size_t size;
	/* What is left of the newest slab; from `guarded` on without guards. */
	char *next, *guarded, *end;
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

/* By one system call where the kernel has that. How many of the ranges it was done for. */
static size_t advise(const struct iovec *ranges, size_t count, int advice)
{
	size_t done = 0;

	if (count > 1) {
		long size = syscall(SYS_process_madvise, PIDFD_SELF_THREAD, ranges, count, advice, 0);

		/* It may have been stopped on its way. */
		while (done < count && size >= (long)ranges[done].iov_len)
			size -= (long)ranges[done++].iov_len;
	}
	while (done < count &&
	       !madvise(ranges[done].iov_base, ranges[done].iov_len, advice))
		done++;
	return done;
}

static size_t piece_size(size_t size)
{
	return size + 2 * STACK_PAGE;
}

/*
 * The guard of a piece, and of others that follow it, before `end`: `guarded` is where
 * there are none. Which kind there is shows with the first one.
 */
static int guard_install(char *piece, size_t length, char *end, char **guarded)
{
	struct iovec pages[GUARDS];
	size_t count = 0, done;

	if (guards != GUARDS_PROTECTED) {
		do
			pages[count] = (struct iovec) { piece + count * length, STACK_PAGE };
		while (++count < GUARDS && (count + 1) * length <= GUARD_REACH &&
		       (count + 1) * length <= (size_t)(end - piece));
		done = advise(pages, count, MADV_GUARD_INSTALL);
		*guarded = piece + done * length;
		if (done) {
			guards = GUARDS_ADVISED;
			return 0;
		}
		if (errno != EINVAL)
			return ENOMEM;
		guards = GUARDS_PROTECTED;
	}
	*guarded = piece + length;
	/* Splitting a mapping in two fails for their number only, or for want of memory. */
	return mprotect(piece, STACK_PAGE, PROT_NONE) ? map_error() : 0;
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
	char *guarded;
	int err;

	if (alone) {
		*piece = map(length);
		if (!*piece)
			return map_error();
		err = guard_install(*piece, length, *piece + length, &guarded);
		if (err)
			munmap(*piece, length);
		return err;
	}
	if (length > (size_t)(class->end - class->next)) {
		class->next = class->guarded = map(SLAB_SIZE);
		class->end = class->next ? class->next + SLAB_SIZE : NULL;
	}
	if (!class->next)
		return map_error();
	if (class->next == class->guarded) {
		err = guard_install(class->next, length, class->end, &class->guarded);
		if (err)
			return err;
	}
	*piece = class->next;
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

/* Whether there is room for it among those of its size without memory. */
static bool class_keeps(const struct stack *stack)
{
	struct stack_class *class = class_find(stack->size);
	size_t room;
	char **cold;

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
	class->cold[class->colds++] = stack->start;
	return true;
}

/* Those that have waited longest. Neighbours go together: their guards stay as they are. */
static void cool(void)
{
	struct iovec memory[COOLED];
	size_t count = 0;
	unsigned int i;

	for (i = 0; i < COOLED; i++) {
		char *piece = stack_guard(&warm[i]), *last = NULL;
		size_t size = piece_size(warm[i].size);

		if (!class_keeps(&warm[i])) {
			munmap(piece, size);
			continue;
		}
		if (count)
			last = memory[count - 1].iov_base;
		if (last && last == piece + size)
			memory[count - 1] = (struct iovec) { piece, size + memory[count - 1].iov_len };
		else if (last && last + memory[count - 1].iov_len == piece)
			memory[count - 1].iov_len += size;
		else
			memory[count++] = (struct iovec) { piece, size };
	}
	advise(memory, count, MADV_DONTNEED);
	warms -= COOLED;
	memmove(warm, warm + COOLED, warms * sizeof(*warm));
}

void stack_free(const struct stack *stack)
{
	if (warms == WARM_STACKS)
		cool();
	warm[warms++] = *stack;
}
