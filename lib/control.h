/* SPDX-License-Identifier: MIT */
/*
 * Control words of each fiber: who owns it, where it goes on, and what is the
 * library's of it. One a slot, in private memory, never moved or freed.
 *
 * Ownership is one word: the generation of the id, and in its low bits
 *
 *	OWNER_NONE		no fiber; the next one here is of that generation
 *	OWNER_FREE		suspended or new; whoever changes it owns the fiber
 *	1, 2, ...		the number of the thread that runs it, or that has
 *				left it but not saved it yet
 *	... | OWNER_DOOMED	the same, and the thread whose own fiber it is waits
 *				for it to be left
 *	OWNER_FINISHED		a thread's own fiber whose thread has ended
 *	OWNER_DELETED		nobody finds it any more, and its last owner clears up
 *
 * Taking a fiber compares all of it, so a stale id never enters a new tenant.
 * Memory that was never touched says OWNER_NONE. With engine `kernel`, where the
 * module knows all that, the word is OWNER_FREE as long as the fiber exists.
 *
 * All other words belong to the owner; `values` also as fls.c says.
 */
#ifndef LIBFIBER_CONTROL_H
#define LIBFIBER_CONTROL_H

#define CONTROL_SLOTS	(1 << 20)	/* FIBER_SLOT_BITS */
#define OWNER_MASK	(CONTROL_SLOTS - 1)
#define OWNER_NONE	0
#define OWNER_FREE	OWNER_MASK
#define OWNER_FINISHED	(OWNER_MASK - 1)
#define OWNER_DELETED	(OWNER_MASK - 2)
#define OWNER_DOOMED	(CONTROL_SLOTS / 2)

/* For switch_x86_64.S, asserted in user.c. */
#define CONTROL_SHIFT	6
#define CONTROL_OWNER	0
#define CONTROL_SP	8
#define CONTROL_HOME	16
#define CONTROL_PAGES	20
#define CONTROL_STACK	24
#define CONTROL_ENTRY	32
#define CONTROL_ARG	40

#ifndef __ASSEMBLER__

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "include/fiber.h"
#include "stack.h"
#include "uapi/fiber.h"

#define GENERATION(word) ((word) & ~(uint64_t)OWNER_MASK)

struct control {
	_Atomic uint64_t owner;
	/*
	 * Where it was left. Its own address here: at its function's beginning (not NULL,
	 * since a switch has the processor look there beforehand, which is slow where
	 * there is nothing). Of a free one: the next free one.
	 */
	void *sp;
	/* The thread that it is; 0: it was created. */
	uint32_t home;
	/* Its stack; of a thread's own one what is known of the thread's. Free ones may keep theirs. */
	uint32_t stack_pages;
	char *stack_start;
	/* As created, to begin anew. */
	void (*entry)(void *);
	void *arg;
	/* Local storage by position (user.c) and by key (fls.c), NULL until the first. */
	struct storage *storage;
	struct values *_Atomic values;
};

_Static_assert(sizeof(struct control) == 1 << CONTROL_SHIFT, "one cache line");

/* All of them, by slot; NULL before control_init(). */
extern struct control *controls __attribute__((visibility("hidden")));

/* With the lock held. ENOMEM. */
int control_init(void);

/* The place of that id, whoever is there now. */
static inline struct control *control_at(fiber_id_t id)
{
	return &controls[id & OWNER_MASK];
}

static inline uint32_t control_slot(const struct control *control)
{
	return (uint32_t)(control - controls);
}

/* Whether the word says that the fiber of that id exists. */
static inline bool owner_lives(uint64_t owner, fiber_id_t id)
{
	uint64_t word = owner & OWNER_MASK;

	return GENERATION(owner) == GENERATION(id) && word != OWNER_NONE && word != OWNER_DELETED;
}

/*
 * The fiber of that id, or NULL. It stays as long as the caller runs it or holds
 * the lock. Async-signal-safe.
 */
static inline struct control *control_find(fiber_id_t id)
{
	struct control *control = control_at(id);
	uint64_t owner = atomic_load_explicit(&control->owner, memory_order_acquire);

	return owner_lives(owner, id) ? control : NULL;
}

/*
 * With the lock held: the first fiber at or after *slot, which then names the one
 * behind it. Also one that is OWNER_DELETED and still has values. NULL: no more.
 */
struct control *control_next(uint32_t *slot);

/* With the lock held: slots below that one may hold fibers. */
void control_used(uint32_t slots);

static inline struct stack control_stack(const struct control *control)
{
	return (struct stack) {
		.start = control->stack_start,
		.size = (size_t)control->stack_pages * STACK_PAGE,
	};
}

/* `stack` may be NULL: none. */
static inline void control_set_stack(struct control *control, const struct stack *stack)
{
	control->stack_start = stack ? stack->start : NULL;
	control->stack_pages = stack ? (uint32_t)(stack->size / STACK_PAGE) : 0;
}

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_CONTROL_H */
