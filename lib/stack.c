/* SPDX-License-Identifier: MIT */
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "span.h"
#include "stack.h"

/* Linux 6.13. A guard of this kind is no mapping of its own. */
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/* Linux 6.14. */
#ifndef PIDFD_SELF_THREAD
#define PIDFD_SELF_THREAD -10000
#endif

/*
 * A stack lies in a piece of memory: the guard gap, the stack's size, and a page for
 * its colour, by which the stack's ends are moved down.
 *
 * The tops of stacks that all lie at the same offset of a page fight over the same
 * cache sets. So each is some cache lines lower than the one before, the same
 * number for each: a prefetcher follows that. The number has no divisor in common
 * with the colours', so all of them are used. They leave the lower part of a page
 * alone, so that a fiber with small frames touches one page only. At least one line above
 * the top belongs to the piece, because a function may read stack arguments that its caller
 * did not pass, as syscall() does.
 */
#define COLOUR_LINES	3
#define COLOUR_LINE	64
#define COLOURS		40

/*
 * Pieces of one size are cut from slabs. The first slab of a size has one piece, and
 * each further one as many as there are already, up to this size: the address space that
 * is mapped is at most twice what is used.
 */
#define SLAB_SIZE	((size_t)256 << 20)

/*
 * Freed stacks wait here for the next fibers of their size, with the memory that they have
 * touched: making a stack costs system calls, and a page fault for each page. How much
 * of a stack was touched is not known, so it counts as all of it. Those that have waited
 * longest return their memory and keep their place in the slab, several at a time.
 */
#define WARM_STACKS	64
#define WARM_BYTES	((size_t)64 << 20)

/* As far as one page of the page table reaches. */
#define TABLE_REACH	((size_t)2 << 20)
/* So many guards are made ahead at most, within that reach, since each needs that page anyway. */
#define GUARDS		32
/*
 * A stack's first page and a large guard of the piece above it need a page of the page table each,
 * unless both lie within the reach of one. So such pieces are moved and spread.
 */
#define GUARD_LARGE	(TABLE_REACH / 4)

struct slab {
	/* Of its class's slabs that have room, if it has. */
	struct slab *next, *prev;
	struct stack_class *class;
	/* Its first piece, and where its mapping begins. */
	char *start, *mapping;
	/* The colour of a piece is that of the first one and its number. */
	unsigned int colour;
	/* Pieces from `cut` on were never used; from `guarded` on they have no guard. */
	uint32_t pieces, cut, guarded;
	/*
	 * Used pieces: those whose bit is set have no memory, the others belong to somebody.
	 * No bit is set in words before `first`.
	 */
	uint32_t colds, first;
	uint64_t cold[];
};

struct stack_class {
	size_t size, guard;
	struct slab *roomy;
	/* One slab of which nothing is used is kept. */
	struct slab *empty;
	/* Of all its slabs; 0: the class is free. */
	size_t pieces;
	unsigned int colour;
};

/* All under the lock. Programs use few sizes; stacks of further ones are mapped one by one. */
#define CLASSES	16
static struct stack_class classes[CLASSES];
static struct stack warm[WARM_STACKS];
static unsigned int warms;
static size_t warm_bytes;

/* All slabs, by address. */
static struct slab **slabs;
static size_t slab_count, slab_room;

enum guards {
	GUARDS_UNKNOWN,		/* none was advised yet */
	GUARDS_ADVISED,		/* MADV_GUARD_INSTALL was seen to work */
	GUARDS_PROTECTED,	/* it is accepted and does nothing: mprotect(), a mapping each */
};
static enum guards guards;

/* Whether an object asks for executable stacks, as GNU C's nested functions need. */
static int object_executes(struct dl_phdr_info *info, size_t size, void *unused)
{
	ElfW(Half) i;

	(void)size;
	(void)unused;
	for (i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_GNU_STACK)
			return info->dlpi_phdr[i].p_flags & PF_X;
	return 0;
}

static char *map(size_t size)
{
	/* Then threads have such stacks, too. */
	int executable = dl_iterate_phdr(object_executes, NULL) ? PROT_EXEC : 0;
	char *start = mmap(NULL, size, PROT_READ | PROT_WRITE | executable,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);

	if (start == MAP_FAILED)
		return NULL;
	/* Else the first page that is touched costs two megabytes where huge pages are the rule. */
	madvise(start, size, MADV_NOHUGEPAGE);
	return start;
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

/*
 * Whether touching that page is a fault. The kernel reads the new mask before it
 * refuses the request; emulators accept advice that they do not know.
 */
static bool guard_works(const char *page)
{
	return syscall(SYS_rt_sigprocmask, -1, page, NULL, 8) && errno == EFAULT;
}

_Static_assert(sizeof(struct stack_return) <= COLOUR_LINE, "it lies in a line above the stack");

static size_t piece_size(size_t size, size_t guard)
{
	return guard + size + STACK_PAGE;
}

/* Whether pieces of that size lie so that each needs one page of the page table only. */
static bool piece_is_spread(size_t size, size_t guard)
{
	return guard >= GUARD_LARGE && guard < TABLE_REACH && size >= TABLE_REACH;
}

/* From one piece of a slab to the next. */
static size_t piece_stride(size_t size, size_t guard)
{
	size_t length = piece_size(size, guard);

	return piece_is_spread(size, guard) ? (length + TABLE_REACH - 1) & -TABLE_REACH : length;
}

/*
 * Guards of up to `count` pieces that follow each other; *made of them, at least one.
 * ENOMEM, EAGAIN.
 */
static int guard_install(char *piece, size_t length, size_t guard, uint32_t count, uint32_t *made)
{
	struct iovec gaps[GUARDS];
	uint32_t wanted = 0;

	if (guards != GUARDS_PROTECTED) {
		do
			gaps[wanted] = (struct iovec) { piece + wanted * length, guard };
		while (++wanted < GUARDS && wanted < count && guards == GUARDS_ADVISED &&
		       (wanted + 1) * length <= TABLE_REACH);
		*made = (uint32_t)advise(gaps, wanted, MADV_GUARD_INSTALL);
		if (*made && (guards == GUARDS_ADVISED || guard_works(piece))) {
			guards = GUARDS_ADVISED;
			return 0;
		}
		if (*made)
			guards = GUARDS_PROTECTED;
		else if (errno == ENOMEM || errno == EAGAIN)
			return ENOMEM;
		/* Else a kernel without it, a filter of system calls, or locked memory. */
	}
	*made = 1;
	/* Splitting a mapping in two fails for their number only, or for want of memory. */
	return mprotect(piece, guard, PROT_NONE) ? span_error() : 0;
}

/* The class of that size, NULL where there is none and no room for it. */
static struct stack_class *class_find(size_t size, size_t guard)
{
	struct stack_class *class, *free = NULL;

	for (class = classes; class < classes + CLASSES; class++) {
		if (class->size == size && class->guard == guard)
			return class;
		if (!class->pieces)
			free = class;
	}
	if (free)
		*free = (struct stack_class) { .size = size, .guard = guard };
	return free;
}

static void slab_link(struct slab *slab)
{
	struct stack_class *class = slab->class;

	slab->prev = NULL;
	slab->next = class->roomy;
	if (slab->next)
		slab->next->prev = slab;
	class->roomy = slab;
}

static void slab_unlink(struct slab *slab)
{
	if (slab->prev)
		slab->prev->next = slab->next;
	else
		slab->class->roomy = slab->next;
	if (slab->next)
		slab->next->prev = slab->prev;
}

static bool slab_has_room(const struct slab *slab)
{
	return slab->colds || slab->cut < slab->pieces;
}

/* The place of that address among the slabs: how many begin at or below it. */
static size_t slab_place(const char *address)
{
	size_t low = 0, high = slab_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (slabs[middle]->start <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The size of a slab's mapping. One piece alone needs no place of its own. */
static size_t slab_size(const struct stack_class *class, size_t pieces)
{
	size_t stride = piece_stride(class->size, class->guard);

	if (pieces > 1 && piece_is_spread(class->size, class->guard))
		return pieces * stride + TABLE_REACH;
	return (pieces - 1) * stride + piece_size(class->size, class->guard);
}

/* Where the first piece of a slab is: its guard ends where the reach of a page does. */
static char *slab_start(const struct stack_class *class, size_t pieces, char *mapping)
{
	if (pieces == 1 || !piece_is_spread(class->size, class->guard))
		return mapping;
	return mapping + (-((uintptr_t)mapping + class->guard) & (TABLE_REACH - 1));
}

/* A new slab of that many pieces, or of fewer. EAGAIN, ENOMEM. */
static int slab_map(struct stack_class *class, size_t pieces)
{
	size_t place;
	struct slab *slab;
	char *mapping;

	if (slab_count == slab_room) {
		size_t room = slab_room ? 2 * slab_room : 64;
		struct slab **more = realloc(slabs, room * sizeof(struct slab *));

		if (!more)
			return span_error();
		slabs = more;
		slab_room = room;
	}
	while (!(mapping = map(slab_size(class, pieces)))) {
		if (pieces == 1)
			return span_error();
		pieces /= 2;
	}
	slab = calloc(1, sizeof(*slab) + (pieces + 63) / 64 * sizeof(slab->cold[0]));
	if (!slab) {
		munmap(mapping, slab_size(class, pieces));
		return span_error();
	}
	slab->class = class;
	slab->mapping = mapping;
	slab->start = slab_start(class, pieces, mapping);
	slab->colour = class->colour;
	slab->pieces = (uint32_t)pieces;
	class->colour = (unsigned int)((class->colour + pieces) % COLOURS);
	place = slab_place(mapping);
	memmove(&slabs[place + 1], &slabs[place], (slab_count - place) * sizeof(struct slab *));
	slabs[place] = slab;
	slab_count++;
	class->pieces += pieces;
	class->empty = slab;
	slab_link(slab);
	return 0;
}

static void slab_unmap(struct slab *slab)
{
	struct stack_class *class = slab->class;
	size_t place = slab_place(slab->start);

	/* Neighbours may be one mapping with it, which can be one too many to be split. */
	if (munmap(slab->mapping, slab_size(class, slab->pieces)))
		return;
	slab_unlink(slab);
	class->pieces -= slab->pieces;
	slab_count--;
	memmove(&slabs[place - 1], &slabs[place], (slab_count - place + 1) * sizeof(struct slab *));
	free(slab);
}

static size_t piece_colour(const struct slab *slab, uint32_t number)
{
	return ((slab->colour + number) % COLOURS * COLOUR_LINES % COLOURS + 1) * COLOUR_LINE;
}

/* A piece of a slab. */
static int piece_take(struct stack_class *class, struct stack *stack)
{
	size_t length = piece_stride(class->size, class->guard);
	struct slab *slab = class->roomy;
	uint32_t number, made;
	int err;

	/* The empty one last: it may go then. */
	if (slab && slab == class->empty && slab->next)
		slab = slab->next;
	if (!slab) {
		size_t pieces = class->pieces ? class->pieces : 1;

		if (pieces > SLAB_SIZE / length)
			pieces = SLAB_SIZE / length ? SLAB_SIZE / length : 1;
		err = slab_map(class, pieces);
		if (err)
			return err;
		slab = class->roomy;
	}
	if (slab->colds) {
		while (!slab->cold[slab->first])
			slab->first++;
		number = slab->first * 64 + (uint32_t)__builtin_ctzll(slab->cold[slab->first]);
		slab->cold[slab->first] &= slab->cold[slab->first] - 1;
		slab->colds--;
	} else {
		number = slab->cut;
		if (number == slab->guarded) {
			err = guard_install(slab->start + number * length, length, class->guard,
					    slab->pieces - number, &made);
			if (err)
				return err;
			slab->guarded += made;
		}
		slab->cut++;
	}
	if (slab == class->empty)
		class->empty = NULL;
	if (!slab_has_room(slab))
		slab_unlink(slab);
	stack->start = slab->start + number * length + class->guard + STACK_PAGE -
		       piece_colour(slab, number);
	return 0;
}

/* The slab of a stack and its number there; NULL: it is alone. */
static struct slab *slab_of(const struct stack *stack, uint32_t *number)
{
	size_t place = slab_place(stack->start), length = piece_stride(stack->size, stack->guard);
	struct slab *slab;

	if (!place)
		return NULL;
	slab = slabs[place - 1];
	if ((size_t)(stack->start - slab->start) >= slab->pieces * length)
		return NULL;
	*number = (uint32_t)((size_t)(stack->start - slab->start) / length);
	return slab;
}

/* A stack without memory goes back to its slab. */
static void piece_give(struct slab *slab, uint32_t number)
{
	struct stack_class *class = slab->class;

	if (!slab_has_room(slab))
		slab_link(slab);
	slab->cold[number / 64] |= UINT64_C(1) << number % 64;
	slab->colds++;
	if (slab->first > number / 64)
		slab->first = number / 64;
	if (slab->colds != slab->cut)
		return;
	if (class->empty)
		slab_unmap(slab);
	else
		class->empty = slab;
}

/* One that no class has. */
static int alone_map(struct stack *stack)
{
	size_t length = piece_size(stack->size, stack->guard);
	char *piece = map(length);
	uint32_t made;
	int err;

	if (!piece)
		return span_error();
	err = guard_install(piece, length, stack->guard, 1, &made);
	if (err)
		munmap(piece, length);
	stack->start = piece + stack->guard + STACK_PAGE;
	return err;
}

int stack_alloc(struct stack *stack, size_t size, size_t guard)
{
	struct stack_class *class;
	unsigned int i;

	for (i = warms; i-- > 0; ) {
		if (warm[i].size == size && warm[i].guard == guard) {
			*stack = warm[i];
			warm[i] = warm[--warms];
			warm_bytes -= size;
			return 0;
		}
	}
	*stack = (struct stack) { .size = size, .guard = guard };
	class = class_find(size, guard);
	return class ? piece_take(class, stack) : alone_map(stack);
}

/*
 * Returns the memory of that many stacks. Neighbours go together: their guards stay as
 * they are. Locked memory stays until its slab goes.
 */
static void cool(const struct stack *stacks, unsigned int count)
{
	struct iovec memory[WARM_STACKS];
	const struct slab *before = NULL;
	size_t ranges = 0, done = 0;
	uint32_t number;
	unsigned int i;

	for (i = 0; i < count; i++) {
		size_t length = piece_size(stacks[i].size, stacks[i].guard);
		size_t stride = piece_stride(stacks[i].size, stacks[i].guard);
		struct slab *slab = slab_of(&stacks[i], &number);
		struct iovec *last = ranges ? &memory[ranges - 1] : NULL;
		char *piece;

		if (!slab)
			continue;
		piece = slab->start + number * stride;
		if (slab == before && last->iov_base == piece + stride)
			*last = (struct iovec) { piece, stride + last->iov_len };
		else if (slab == before && (char *)last->iov_base + last->iov_len == piece - stride + length)
			last->iov_len += stride;
		else
			memory[ranges++] = (struct iovec) { piece, length };
		before = slab;
	}
	while (done < ranges)
		done += advise(memory + done, ranges - done, MADV_DONTNEED) + 1;
	for (i = 0; i < count; i++) {
		struct slab *slab = slab_of(&stacks[i], &number);

		if (slab)
			piece_give(slab, number);
		else
			munmap(stack_guard(&stacks[i]), piece_size(stacks[i].size, stacks[i].guard));
	}
}

/* Those that have waited longest, until half of what may wait is left. */
static void cool_warm(void)
{
	unsigned int count = 0;

	while (count < warms && (warms - count > WARM_STACKS / 2 || warm_bytes > WARM_BYTES / 2))
		warm_bytes -= warm[count++].size;
	cool(warm, count);
	warms -= count;
	memmove(warm, warm + count, warms * sizeof(*warm));
}

void stack_free(const struct stack *stack)
{
	if (stack->size > WARM_BYTES / 2) {
		cool(stack, 1);
		return;
	}
	if (warms == WARM_STACKS || warm_bytes + stack->size > WARM_BYTES)
		cool_warm();
	warm[warms++] = *stack;
	warm_bytes += stack->size;
}

struct stack stack_adopt(const struct stack_return *memory)
{
	uintptr_t start = ((uintptr_t)memory->memory + COLOUR_LINE - 1) & -(uintptr_t)COLOUR_LINE;
	uintptr_t end = ((uintptr_t)memory->memory + memory->size) & -(uintptr_t)COLOUR_LINE;
	struct stack stack = { .guard = GUARD_OWN };

	if (memory->free) {
		stack.guard = GUARD_RETURN;
		end -= COLOUR_LINE;
	}
	if (end <= start)
		return stack;
	stack.size = (end - start) & ~(STACK_PAGE - 1);
	stack.start = (char *)end - stack.size;
	if (memory->free && stack.size)
		memcpy(stack.start + stack.size, memory, sizeof(*memory));
	return stack;
}

void stack_return(const struct stack *stack)
{
	struct stack_return memory;

	if (stack->guard != GUARD_RETURN)
		return;
	memcpy(&memory, stack->start + stack->size, sizeof(memory));
	memory.free(memory.memory, memory.size, memory.data);
}

size_t stack_used(const struct stack *stack)
{
	char *page = (char *)((uintptr_t)stack->start & ~(STACK_PAGE - 1));
	char *end = stack->start + stack->size;
	unsigned char resident[256];

	while (page < end) {
		size_t left = ((size_t)(end - page) + STACK_PAGE - 1) / STACK_PAGE, i;
		size_t count = left < sizeof(resident) ? left : sizeof(resident);

		/* EAGAIN is all that may happen; then it counts as used. */
		if (mincore(page, count * STACK_PAGE, resident))
			break;
		for (i = 0; i < count && !(resident[i] & 1); i++)
			;
		page += i * STACK_PAGE;
		if (i < count)
			break;
	}
	if (page >= end)
		return 0;
	return page < stack->start ? stack->size : (size_t)(end - page);
}
