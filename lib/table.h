/* SPDX-License-Identifier: MIT */
/*
 * What the library knows about each fiber, found by id.
 *
 * A record lives in the slot that the low bits of its id name, at an address
 * that never changes. It belongs to exactly one id: a look-up compares all of
 * it, so a stale id finds nothing. Look-ups take no lock and are
 * async-signal-safe; a record that was found stays valid as long as its fiber
 * cannot be deleted, which is while the caller runs it or holds the lock.
 */
#ifndef LIBFIBER_TABLE_H
#define LIBFIBER_TABLE_H

#include <stdatomic.h>

#include "include/fiber.h"
#include "stack.h"

struct values;

struct record {
	/* 0: free. Stored last with release, so who finds an id sees the rest. */
	_Atomic fiber_id_t id;
	/* Set before the id and constant while it stands. */
	void *arg;
	struct stack stack;	/* map NULL: a thread's own fiber */
	/* Set by the fiber itself, taken away under the lock. NULL: no key was ever set. */
	struct values *_Atomic values;
};

/* NULL: no such fiber (yet, or any more). */
struct record *table_find(fiber_id_t id);

/*
 * With the lock held. ENOMEM. `stack` may be NULL; the record owns it from then on.
 * table_find() knows the fiber from here on.
 */
int table_insert(fiber_id_t id, void *arg, const struct stack *stack);

/* With the lock held: the record is free again, its former contents are the caller's. */
void table_remove(struct record *record, struct stack *stack, struct values **values);

/*
 * With the lock held: the first record in use at or after *slot, which then
 * names the one behind it. NULL: no more.
 */
struct record *table_next(size_t *slot);

#endif /* LIBFIBER_TABLE_H */
