/* SPDX-License-Identifier: MIT */
/*
 * Where the table of observations (uapi/fiber.h) lies, which differs between the
 * engines that switch in user mode: `local` has it in private memory, `mapped`
 * shares it with the module.
 */
#ifndef LIBFIBER_TABLE_H
#define LIBFIBER_TABLE_H

/* For switch_x86_64.S, asserted in user.c. */
#define TABLE_SLOTS	8

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stdint.h>

#include "uapi/fiber.h"

struct table {
	struct fiber_table *head;
	struct fiber_slot *slots;
	struct fiber_thread_area *areas;
	/* Slots below this one may be used. Under the lock. */
	uint32_t committed;
};

/*
 * Set by open() and fixed, but for `committed` and in a forked child, whose table may
 * lie elsewhere. head NULL: there is none yet.
 */
extern struct table table __attribute__((visibility("hidden")));

struct engine;

/* What an engine does for its table. With the lock held. */
struct table_ops {
	/* Makes the table, zeroed. Returns 0 or an error. */
	int (*open)(void);
	/* Makes that slot usable, which is the first that is not; EAGAIN, ENOMEM. */
	int (*commit)(uint32_t slot);
	/* The calling thread has that area from now on, or no longer. */
	int (*attach)(uint32_t number);
	void (*detach)(void);
	/*
	 * Around fork(); NULL where memory that is copied does. In the child, whose
	 * fibers go on, `number` is the only thread's area or 0; the table is as it was
	 * but for the areas, it and the engine may be others now.
	 */
	void (*fork_prepare)(void);
	void (*fork_parent)(void);
	const struct engine *(*fork_child)(uint32_t number);
};

/* A table in private memory, at `wish` if nothing is there. False: no memory. */
bool table_map_private(void *wish);

/* Where the parts of the table at `start` are. */
static inline void table_place(void *start, uint32_t committed)
{
	table = (struct table) {
		.head = start,
		.areas = (void *)((char *)start + FIBER_TABLE_AREAS_AT),
		.slots = (void *)((char *)start + FIBER_TABLE_SLOTS_AT),
		.committed = committed,
	};
}

extern const struct table_ops table_local, table_mapped;

/* Whether others (a kernel, a debugger) know the thread of that area as ended. */
static inline bool table_thread_is_dead(uint32_t number)
{
	return __atomic_load_n(&table.areas[number].dead, __ATOMIC_ACQUIRE);
}

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_TABLE_H */
