/* SPDX-License-Identifier: MIT */
/*
 * A span is memory that grows at its end and never moves, without address space that is
 * held for it: limits count what is mapped, and locked memory is resident. Nothing else
 * is mapped behind it, since it begins far from where the kernel puts mappings by itself.
 */
#ifndef LIBFIBER_SPAN_H
#define LIBFIBER_SPAN_H

#include <stdbool.h>
#include <stddef.h>

/* Of private memory: it costs address space and, where that is committed or locked, memory. */
#define SPAN_STEP	((size_t)64 << 10)

struct span {
	char *start;		/* NULL: not open */
	size_t size, limit;
	int file;		/* mapped and shared; -1: private memory */
};

/*
 * A span of `size` bytes that can grow up to `limit`, at `wish` if that is not NULL and
 * nothing is there. All are whole pages. Returns 0 or an error.
 */
int span_open(struct span *span, void *wish, size_t size, size_t limit, int file);

/*
 * To at least that size. EAGAIN: span_error(). ENOMEM, also where another mapping is in
 * the way.
 */
int span_grow(struct span *span, size_t size);

void span_close(struct span *span);

/*
 * Why a mapping was refused: EAGAIN if the process has as many as vm.max_map_count
 * allows, else ENOMEM. With the lock held.
 */
int span_error(void);

#endif /* LIBFIBER_SPAN_H */
