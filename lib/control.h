/* SPDX-License-Identifier: MIT */
/*
 * Control words of a fiber that user mode switches: who owns it and where it
 * goes on. One a slot, in private memory, never moved or freed.
 *
 * Ownership is one word: the generation of the id, and in its low bits
 *
 *	OWNER_FREE		suspended or new; whoever changes it owns the fiber
 *	1, 2, ...		the number of the thread that runs it, or that has
 *				left it but not saved it yet
 *	... | OWNER_DOOMED	the same, and the thread whose own fiber it is waits
 *				for it to be left
 *	OWNER_FINISHED		a thread's own fiber whose thread has ended
 *	OWNER_EMPTY		none of that generation
 *
 * Taking a fiber compares all of it, so a stale id never enters a new tenant.
 * All other words belong to the owner.
 */
#ifndef LIBFIBER_CONTROL_H
#define LIBFIBER_CONTROL_H

/* For switch_x86_64.S, asserted in user.c. */
#define CONTROL_SP	8

#ifndef __ASSEMBLER__

#include <stdatomic.h>
#include <stdint.h>

#include "uapi/fiber.h"

#define OWNER_MASK	((UINT64_C(1) << FIBER_SLOT_BITS) - 1)
#define OWNER_FREE	UINT64_C(0)
#define OWNER_DOOMED	(UINT64_C(1) << (FIBER_SLOT_BITS - 1))
#define OWNER_FINISHED	(OWNER_MASK - 1)
#define OWNER_EMPTY	OWNER_MASK
#define OWNER_THREADS	(OWNER_DOOMED - 1)

struct control {
	_Atomic uint64_t owner;
	void *sp;
	/* The thread that it is; 0: it was created. */
	uint32_t home;
	/* While no fiber has the slot: the next free one. */
	uint32_t next_free;
	/* Of a created one, to begin anew; constant. */
	void (*entry)(void *);
	void *arg;
	/* Where its return address lies. */
	void **top;
	/* Local storage by position (user.c), NULL until the first. */
	struct storage *storage;
	uint64_t pad;
};

_Static_assert(sizeof(struct control) == 64, "one cache line");

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_CONTROL_H */
