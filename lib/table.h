/* SPDX-License-Identifier: MIT */
/*
 * Where the status table (uapi/fiber.h) lies, which differs between the
 * engines that switch in user mode: `local` has it in private memory, `mapped`
 * shares it with the module.
 */
#ifndef LIBFIBER_TABLE_H
#define LIBFIBER_TABLE_H

/* For switch_x86_64.S, asserted below. */
#define TABLE_SLOTS	8

#define SLOT_ACTIVATIONS	8
#define SLOT_RUN_TIME		16
#define SLOT_LONGEST_RUN	24
#define SLOT_LAST_SWITCH	32
#define SLOT_SP			40
#define SLOT_IP			48
#define SLOT_STATE		56	/* and area, in one word */
#define SLOT_SIZE		192
#define STATE_SUSPENDED		2
#define AREA_FIBER		8
#define AREA_SINCE		16
#define AREA_OFF		24
#define AREA_OFF_SINCE		32
#define AREA_TARGET		40

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "span.h"
#include "uapi/fiber.h"

struct table {
	struct fiber_table *head;
	struct fiber_slot *slots;
	struct fiber_thread_area *areas;
	/* Slots below this one may be used. Under the lock. */
	uint32_t committed;
	/* Where it lies. Under the lock. */
	struct span span;
};

_Static_assert(offsetof(struct table, slots) == TABLE_SLOTS, "");
_Static_assert(offsetof(struct fiber_slot, activations) == SLOT_ACTIVATIONS, "");
_Static_assert(offsetof(struct fiber_slot, run_time) == SLOT_RUN_TIME, "");
_Static_assert(offsetof(struct fiber_slot, longest_run) == SLOT_LONGEST_RUN, "");
_Static_assert(offsetof(struct fiber_slot, last_switch) == SLOT_LAST_SWITCH, "");
_Static_assert(offsetof(struct fiber_slot, sp) == SLOT_SP, "");
_Static_assert(offsetof(struct fiber_slot, ip) == SLOT_IP, "");
_Static_assert(offsetof(struct fiber_slot, state) == SLOT_STATE, "");
_Static_assert(offsetof(struct fiber_slot, area) == SLOT_STATE + 4, "");
_Static_assert(sizeof(struct fiber_slot) == SLOT_SIZE, "");
_Static_assert(offsetof(struct fiber_slot, failed) == 64, "");
_Static_assert(offsetof(struct fiber_slot, name) == 128, "");
_Static_assert(offsetof(struct fiber_thread_area, fiber) == AREA_FIBER, "");
_Static_assert(offsetof(struct fiber_thread_area, since) == AREA_SINCE, "");
_Static_assert(offsetof(struct fiber_thread_area, off) == AREA_OFF, "");
_Static_assert(offsetof(struct fiber_thread_area, off_since) == AREA_OFF_SINCE, "");
_Static_assert(offsetof(struct fiber_thread_area, target) == AREA_TARGET, "");
_Static_assert(FIBER_STATE_SUSPENDED == STATE_SUSPENDED, "");

/*
 * Set by open() and fixed, but for `committed` and in a forked child, whose table may
 * lie elsewhere. head NULL: there is none yet.
 */
extern struct table table __attribute__((visibility("hidden")));

/* What an engine does for its table. With the lock held. */
struct table_ops {
	/* Of the engine. */
	const char *name;
	/* Makes the table, zeroed. Returns 0 or an error. */
	int (*open)(void);
	/* Makes that slot usable, which is the first that is not; EAGAIN, ENOMEM. */
	int (*commit)(uint32_t slot);
	/* The calling thread has that area from now on, or no longer. */
	int (*attach)(uint32_t number);
	void (*detach)(void);
	/*
	 * A running fiber's CPU time and longest run, in ns, if the kernel knows them better.
	 * NULL: it knows nothing.
	 */
	void (*times)(uint64_t id, uint64_t *time, uint64_t *longest);
	/*
	 * Around fork(); NULL where memory that is copied does. In the child, whose
	 * fibers go on, `number` is the only thread's area or 0; the table is as it was
	 * but for the areas. It may lie elsewhere now, and be one of the operations that
	 * are returned.
	 */
	void (*fork_prepare)(void);
	void (*fork_parent)(void);
	const struct table_ops *(*fork_child)(uint32_t number);
};

/*
 * A table in private memory with that many slots, at `wish` if nothing is there. Returns 0
 * or an error.
 */
int table_map_private(void *wish, uint32_t slots);

/* Where the parts of the table in that span are. */
static inline void table_place(const struct span *span, uint32_t committed)
{
	table = (struct table) {
		.head = (void *)span->start,
		.areas = (void *)(span->start + FIBER_TABLE_AREAS_AT),
		.slots = (void *)(span->start + FIBER_TABLE_SLOTS_AT),
		.committed = committed,
		.span = *span,
	};
}

/* For how many slots there is address space. */
static inline uint32_t table_slots(void)
{
	return (uint32_t)((table.span.size - FIBER_TABLE_SLOTS_AT) / sizeof(struct fiber_slot));
}

extern const struct table_ops table_local, table_mapped;

/* Whether others (a kernel, a debugger) know the thread of that area as ended. */
static inline bool table_thread_is_dead(uint32_t number)
{
	return __atomic_load_n(&table.areas[number].dead, __ATOMIC_ACQUIRE);
}

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_TABLE_H */
