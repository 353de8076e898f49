/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

#include "checker.h"
#include "span.h"

/* Linux 4.17; before, it is only a wish. */
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

/*
 * The kernel fills the address space from one end, at random places of which it begins.
 * So far away there is nothing, unless a program puts it there.
 */
#define DISTANCE	((uintptr_t)1 << 44)
#define PLACES		8

/*
 * The kernel says ENOMEM for too many mappings and for too little memory. Splitting a
 * mapping that is there already needs no address space, so its failure shows the former.
 */
int span_error(void)
{
	static char probe[3 * 4096] __attribute__((aligned(4096)));
	char *middle = probe + 4096;

	if (mprotect(middle, 4096, PROT_READ))
		return EAGAIN;
	mprotect(middle, 4096, PROT_READ | PROT_WRITE);
	return ENOMEM;
}

static char *map(char *at, size_t size, int flags, int file, size_t offset)
{
	const int private = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	char *start = mmap(at, size, PROT_READ | PROT_WRITE,
			   flags | (file < 0 ? private : MAP_SHARED), file, (off_t)offset);

	if (start == MAP_FAILED)
		return NULL;
	if (flags && start != at) {
		munmap(start, size);
		errno = EEXIST;
		return NULL;
	}
	/* Else the first page that is touched costs two megabytes where huge pages are the rule. */
	if (file < 0)
		madvise(start, size, MADV_NOHUGEPAGE);
	/* All that lies in spans is shared by atomic access. */
	checker_ignore(start, size);
	return start;
}

/* Whether nothing is there, as far as that can be asked. */
static bool is_free(char *at, size_t size)
{
	void *probe = mmap(at, size, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

	/* ENOMEM: a limit of address space, which says nothing about the place. */
	if (probe == MAP_FAILED)
		return errno == ENOMEM;
	munmap(probe, size);
	return probe == at;
}

/*
 * Far from the mappings that the kernel makes by itself. NULL: there is no such place, or
 * ThreadSanitizer's runtime allows mappings in some parts of the address space only.
 */
static char *place(size_t limit)
{
	uintptr_t at;
	void *near;
	int i;

	if (__tsan_acquire)
		return NULL;
	near = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (near == MAP_FAILED)
		return NULL;
	at = (uintptr_t)near;
	munmap(near, 4096);
	for (i = 0; i < PLACES && at > 2 * DISTANCE; i++) {
		at -= i ? DISTANCE / PLACES : DISTANCE;
		if (is_free((char *)at, limit))
			return (char *)at;
	}
	return NULL;
}

int span_open(struct span *span, void *wish, size_t size, size_t limit, int file)
{
	char *start = NULL, *at = wish ? wish : place(limit);

	if (at)
		start = map(at, size, MAP_FIXED_NOREPLACE, file, 0);
	if (!start && wish && errno == EEXIST) {
		at = place(limit);
		if (at)
			start = map(at, size, MAP_FIXED_NOREPLACE, file, 0);
	}
	if (!start && (!at || errno == EEXIST)) {
		/* Where something must be behind it, it gets all at once. */
		size = limit;
		start = map(NULL, size, 0, file, 0);
	}
	if (!start)
		return errno;
	*span = (struct span) { .start = start, .size = size, .limit = limit, .file = file };
	return 0;
}

int span_grow(struct span *span, size_t size)
{
	/* Mappings of private memory become one; of those of a file there must be few. */
	size_t step = span->file < 0 ? SPAN_STEP : span->size;
	size_t more = size - span->size;

	if (size <= span->size)
		return 0;
	if (size > span->limit)
		return ENOMEM;
	if (step > span->limit - span->size)
		step = span->limit - span->size;
	if (more < step && map(span->start + span->size, step, MAP_FIXED_NOREPLACE, span->file,
			       span->size))
		more = step;
	else if (!map(span->start + span->size, more, MAP_FIXED_NOREPLACE, span->file, span->size))
		return errno == EEXIST ? ENOMEM : span_error();
	span->size += more;
	return 0;
}

void span_close(struct span *span)
{
	munmap(span->start, span->size);
	span->start = NULL;
}
