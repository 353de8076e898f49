/* SPDX-License-Identifier: MIT */
/*
 * Fiber-local storage: the values of one fiber, or of a thread that is none.
 *
 * Each index has a generation, odd while it is allocated, and each value the
 * generation that it was set in. A value of another generation reads as NULL and
 * is never called back, so that nothing has to be cleared when an index is allocated.
 */
#ifndef LIBFIBER_WINDOWS_FLS_H
#define LIBFIBER_WINDOWS_FLS_H

#include <stdatomic.h>
#include <stdint.h>

#include <windows.h>

/* 16, 32, ... 2,048 slots: FLS_MAXIMUM_AVAILABLE in all. */
#define FLS_CHUNKS	8
#define FLS_FIRST	16

struct fls_slot {
	/* The owner sets it; FlsFree() and fls_end() exchange it for NULL. */
	void *_Atomic value;
	_Atomic uint64_t generation;
};

/*
 * Zero is the empty one. Only the owner adds chunks, and they stay until fls_end(). It is in the
 * list of all, under windows_lock, as long as it has a chunk; the owner looks at `next` without.
 */
struct fls {
	struct fls_slot *_Atomic chunks[FLS_CHUNKS];
	struct fls *previous;
	struct fls *_Atomic next;
};

/* Calls back for each value, which is NULL by then, and frees all. */
void fls_end(struct fls *fls);

/* A thread becomes a fiber, or a fiber a thread. `to` is empty, and `from` is from then on. */
void fls_move(struct fls *to, struct fls *from);

#endif /* LIBFIBER_WINDOWS_FLS_H */
