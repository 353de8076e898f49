/* SPDX-License-Identifier: MIT */
/*
 * The control block of each fiber: who owns it, where it goes on, and what is the
 * library's of it. One a slot, in private memory, never moved or freed.
 *
 * Ownership is one word: the generation of the id, and in its low bits
 *
 *	OWNER_NONE		no fiber; the next one here is of that generation
 *	OWNER_FREE		suspended or new; whoever changes it owns the fiber
 *	1, 2, ...		the number of the thread that runs it, or that has
 *				left it but not saved it yet
 *	... | OWNER_EXIT_PENDING
 *				the same, and the thread whose root fiber it is waits
 *				for it to be left
 *	OWNER_FINISHED		a root fiber whose thread has ended
 *	OWNER_DELETED		nobody finds it any more, and its last owner clears up
 *
 * Taking a fiber compares all of it, so a stale id never enters a new tenant.
 * Memory that was never touched says OWNER_NONE. With engine `kernel`, where the
 * module knows all that, the word is OWNER_FREE as long as the fiber exists.
 *
 * All other words belong to the owner; `fiber_extra.values` also as key.c says.
 */
#ifndef LIBFIBER_FIBER_CB_H
#define LIBFIBER_FIBER_CB_H

#define CB_SLOTS	(1 << 20)	/* FIBER_SLOT_BITS */
#define OWNER_MASK	(CB_SLOTS - 1)
#define OWNER_NONE	0
#define OWNER_FREE	OWNER_MASK
#define OWNER_FINISHED	(OWNER_MASK - 1)
#define OWNER_DELETED	(OWNER_MASK - 2)
#define OWNER_EXIT_PENDING	(CB_SLOTS / 2)

/* For switch_x86_64.S, asserted below. */
#define CB_SHIFT	6
#define CB_OWNER	0
#define CB_SP	8
#define CB_ROOT_OF	16	/* 16 bits */
#define CB_PAGES	20
#define CB_STACK	24
#define CB_ENTRY	32
#define CB_ARG	40
#define CB_RESUMER	48
#define CB_MXCSR	60	/* 16 bits */
#define CB_X87	62	/* 16 bits */

#ifndef __ASSEMBLER__

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unwind.h>

#include "include/fiber.h"
#include "stack.h"
#include "uapi/fiber.h"

#define GENERATION(word) ((word) & ~(uint64_t)OWNER_MASK)

struct fiber_cb {
	_Atomic uint64_t owner;
	/*
	 * Where it was left. Its own address here: at its function's beginning (not NULL,
	 * since a switch has the processor look there beforehand, which is slow where
	 * there is nothing). Of a free one: the next free one.
	 */
	void *sp;
	/* The thread whose root fiber it is (any number with engine `kernel`); 0: it was created; or CB_LEFT. */
	uint16_t root_of;
	/* The gap below its stack. */
	uint16_t guard_pages;
	/* Its stack; of a root fiber what is known of its thread's. Free ones may keep theirs. */
	uint32_t stack_pages;
	char *stack_start;
	/* As created, to begin again; with the FP control registers below. */
	void (*entry)(void *);
	void *arg;
	/* Whoever resumed it, but by fiber_yield(); 0: nobody. */
	fiber_id_t resumer;
	/* CB_... */
	_Atomic uint16_t flags;
	/* It was left inside switch.c; whoever resumes it has its stack unwound. */
	bool detoured, unwinds;
	uint16_t mxcsr, x87;
};

/* Something is in the extra. */
#define CB_EXTRA	(1u << 0)
/* Its function returns to whoever resumed it. */
#define CB_RETURNS	(1u << 1)
/* It ends for good: it has returned so, or deleted itself. */
#define CB_ENDS		(1u << 2)
/* It is at its end, and destructors of its keys run. */
#define CB_ENDING	(1u << 4)

/* fiber_set_data() was called; before, its data is `arg`. */
#define CB_DATA		(1u << 3)

/* In `root_of`, while the last switch away from a fiber that ends has it released by user_release(). */
#define CB_LEFT		UINT16_MAX

/* What only some fibers have. By slot, too, so that the others' memory is never touched. */
struct fiber_extra {
	/* Local storage by position (user/fls.c) and by key (key.c), NULL until the first. */
	struct storage *storage;
	struct values *_Atomic values;
	/* What fiber_transfer() brought; the owner's. */
	void *received;
	/* With CB_DATA; anybody's. */
	void *_Atomic data;
	/* Valgrind's number of its stack. */
	unsigned int valgrind_stack;
	/* For unwind.c. */
	struct _Unwind_Exception unwinding;
};

_Static_assert(sizeof(struct fiber_cb) == 1 << CB_SHIFT, "one cache line");
_Static_assert(offsetof(struct fiber_cb, owner) == CB_OWNER, "");
_Static_assert(offsetof(struct fiber_cb, sp) == CB_SP, "");
_Static_assert(offsetof(struct fiber_cb, root_of) == CB_ROOT_OF, "");
_Static_assert(offsetof(struct fiber_cb, stack_pages) == CB_PAGES, "");
_Static_assert(offsetof(struct fiber_cb, stack_start) == CB_STACK, "");
_Static_assert(offsetof(struct fiber_cb, entry) == CB_ENTRY, "");
_Static_assert(offsetof(struct fiber_cb, arg) == CB_ARG, "");
_Static_assert(offsetof(struct fiber_cb, resumer) == CB_RESUMER, "");
_Static_assert(offsetof(struct fiber_cb, mxcsr) == CB_MXCSR, "");
_Static_assert(offsetof(struct fiber_cb, x87) == CB_X87, "");
_Static_assert(CB_SLOTS == 1 << FIBER_SLOT_BITS, "");

/* All of them, by slot; NULL before fiber_cb_init(). Their number only grows. */
extern struct fiber_cb *fiber_cbs __attribute__((visibility("hidden")));
extern struct fiber_extra *fiber_extras __attribute__((visibility("hidden")));
extern _Atomic uint32_t fiber_cb_slots __attribute__((visibility("hidden")));
/* The same for fiber_switch(), but 0 where a sanitizer or an observer is told of each switch, in C. */
extern _Atomic uint32_t fiber_cb_direct __attribute__((visibility("hidden")));

/* The same where OpenTelemetry's pointer goes along, else 0; then the one above is 0. */
extern _Atomic uint32_t fiber_cb_otel __attribute__((visibility("hidden")));

/* After an observer was set or unset, or the pointer goes along. Async-signal-safe. */
void fiber_cb_route(void);

/* With the lock held. ENOMEM. */
int fiber_cb_init(void);

/* Makes that slot's control block, and those before it. With the lock held. ENOMEM. */
int fiber_cb_reserve(uint32_t slot);

/* Whether there is a control block for that id, which may be of any value. */
static inline bool fiber_cb_exists(fiber_id_t id)
{
	return (id & OWNER_MASK) < atomic_load_explicit(&fiber_cb_slots, memory_order_acquire);
}

/* The place of that id, whoever is there now. It exists. */
static inline struct fiber_cb *fiber_cb_at(fiber_id_t id)
{
	return &fiber_cbs[id & OWNER_MASK];
}

static inline uint32_t fiber_cb_slot(const struct fiber_cb *cb)
{
	return (uint32_t)(cb - fiber_cbs);
}

static inline struct fiber_extra *fiber_extra(const struct fiber_cb *cb)
{
	return &fiber_extras[fiber_cb_slot(cb)];
}

/* By the owner: what is there, or NULL if nothing ever was. */
static inline struct fiber_extra *fiber_extra_used(const struct fiber_cb *cb)
{
	return atomic_load_explicit(&cb->flags, memory_order_relaxed) & CB_EXTRA ?
		       fiber_extra(cb) : NULL;
}

/* Whether the word says that the fiber of that id exists. */
static inline bool owner_lives(uint64_t owner, fiber_id_t id)
{
	uint64_t word = owner & OWNER_MASK;

	return GENERATION(owner) == GENERATION(id) && word != OWNER_NONE && word != OWNER_DELETED;
}

/* The one that it is, or will be when it is not free any more. By its owner. */
static inline fiber_id_t id_of(const struct fiber_cb *cb)
{
	return GENERATION(atomic_load_explicit(&cb->owner, memory_order_relaxed)) |
	       fiber_cb_slot(cb);
}

/* By the fiber's owner, who does not change: the word has nobody to be taken from. */
static inline void own(struct fiber_cb *cb, uint64_t word)
{
	atomic_store_explicit(&cb->owner, GENERATION(id_of(cb)) | word,
			      memory_order_release);
}

/*
 * The fiber of that id, or NULL. It stays as long as the caller runs it or holds
 * the lock. Async-signal-safe.
 */
static inline struct fiber_cb *fiber_cb_find(fiber_id_t id)
{
	struct fiber_cb *cb;
	uint64_t owner;

	if (!fiber_cb_exists(id))
		return NULL;
	cb = fiber_cb_at(id);
	owner = atomic_load_explicit(&cb->owner, memory_order_acquire);
	return owner_lives(owner, id) ? cb : NULL;
}

/*
 * With the lock held: the first fiber at or after *slot, which then names the one
 * behind it. Also one that is OWNER_DELETED and still has values. NULL: no more.
 */
struct fiber_cb *fiber_cb_next(uint32_t *slot);

/* With the lock held: slots below that one may hold fibers. */
void fiber_cb_used(uint32_t slots);

static inline struct stack fiber_cb_stack(const struct fiber_cb *cb)
{
	return (struct stack) {
		.start = cb->stack_start,
		.size = (size_t)cb->stack_pages * STACK_PAGE,
		.guard = (size_t)cb->guard_pages * STACK_PAGE,
	};
}

/*
 * A new fiber, whose FP control registers are the caller's, as a new thread's are. `flags` are
 * FIBER_RETURNS or 0. By its owner.
 */
static inline void fiber_cb_begin(struct fiber_cb *cb, void (*entry)(void *), void *arg,
				  unsigned int flags)
{
	uint32_t mxcsr = __builtin_ia32_stmxcsr();

	if (fiber_extra_used(cb))
		fiber_extra(cb)->received = NULL;
	cb->entry = entry;
	cb->arg = arg;
	cb->resumer = 0;
	cb->detoured = cb->unwinds = false;
	atomic_store_explicit(&cb->flags, flags & FIBER_RETURNS ? CB_RETURNS : 0u,
			      memory_order_relaxed);
	cb->mxcsr = (uint16_t)mxcsr;
	__asm__ volatile("fnstcw %0" : "=m"(cb->x87));
}

/* `stack` may be NULL: none. */
static inline void fiber_cb_set_stack(struct fiber_cb *cb, const struct stack *stack)
{
	cb->stack_start = stack ? stack->start : NULL;
	cb->stack_pages = stack ? (uint32_t)(stack->size / STACK_PAGE) : 0;
	cb->guard_pages = stack ? (uint16_t)(stack->guard / STACK_PAGE) : 0;
}

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_FIBER_CB_H */
