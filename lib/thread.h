/* SPDX-License-Identifier: MIT */
/*
 * What the library keeps for each thread.
 *
 * A signal may land anywhere, and its handler may switch as well and so move
 * the interrupted fiber to another thread. `busy` is raised where that would do
 * harm: inside a switch, with the library's lock held, and while the fields
 * below change. A switch in a handler then fails with EAGAIN, and the thread
 * stays the same until it is lowered. It is 0 where the thread is idle, and -1 or less
 * where it is busy. A switch tests and raises it by one instruction, a subtraction, relative to the
 * thread pointer, and adds one at its end.
 *
 * Nothing of this may be kept in a register over a switch: ask thread_self() again.
 */
#ifndef LIBFIBER_THREAD_H
#define LIBFIBER_THREAD_H

/* For switch_x86_64.S, asserted below. */
#define THREAD_BUSY	0
#define THREAD_ID	8
#define THREAD_CURRENT	16
#define THREAD_SLOT	24
#define THREAD_AREA	32
#define THREAD_TAKES	40
#define THREAD_RUNS	48
#define THREAD_NUMBER	56
#define THREAD_EXCEPTIONS	64
#define THREAD_GENERATION	72
#define THREAD_OTEL	80

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fiber_cb.h"
#include "uapi/fiber.h"

/* struct __cxa_eh_globals of the Itanium C++ ABI, as two words. */
struct exceptions {
	uint64_t caught;	/* the stack of caught exceptions */
	uint64_t uncaught;	/* how many are on their way; the upper half is padding */
};

/* Changed by its own thread only. */
struct thread {
	uint64_t busy;
	/* The fiber that it runs; 0: the thread is none. */
	uint64_t current_id;

	/* From here to `free_pages` all is 0 unless user mode switches, but for thread_nobody. */
	struct fiber_cb *current;
	struct fiber_slot *slot;
	/* Its own entries of the table. */
	struct fiber_thread_area *area;
	/* What makes the owner word of a free fiber this thread's, when added. */
	uint64_t takes;
	/* The words fiber_slot.state and .area of the fiber that it runs. */
	uint64_t runs;
	/* From 1. */
	uint64_t number;
	/*
	 * What the C++ runtime has of this thread, and for which generation of dynamic
	 * thread-locals that holds: exception.c.
	 */
	struct exceptions *exceptions;
	uint64_t generation;
	/* Where its otel_thread_ctx_v1 is; NULL: not known yet, or there is none. */
	void **otel;

	/* Its root fiber; NULL once that is finished. */
	struct fiber_cb *root;
	/* Free fibers with their stacks, for the next ones. */
	struct fiber_cb *free_list;
	unsigned int free_count;
	size_t free_pages;	/* of their stacks */
	/* The id of its root fiber, also after that. */
	uint64_t root_id;
	/* With engine `kernel`, while it is busy in a switch: the fiber switched to, and switch.h. */
	uint64_t next_id;
	void *next_value;
	unsigned int next_kind;
	/* The thread has left this created fiber, in order to end. */
	struct fiber_cb *ending;
	/* Where there is no C++ runtime. */
	struct exceptions none;
};

_Static_assert(offsetof(struct thread, busy) == THREAD_BUSY, "");
_Static_assert(offsetof(struct thread, current_id) == THREAD_ID, "");
_Static_assert(offsetof(struct thread, current) == THREAD_CURRENT, "");
_Static_assert(offsetof(struct thread, slot) == THREAD_SLOT, "");
_Static_assert(offsetof(struct thread, area) == THREAD_AREA, "");
_Static_assert(offsetof(struct thread, takes) == THREAD_TAKES, "");
_Static_assert(offsetof(struct thread, runs) == THREAD_RUNS, "");
_Static_assert(offsetof(struct thread, number) == THREAD_NUMBER, "");
_Static_assert(offsetof(struct thread, exceptions) == THREAD_EXCEPTIONS, "");
_Static_assert(offsetof(struct thread, generation) == THREAD_GENERATION, "");
_Static_assert(offsetof(struct thread, otel) == THREAD_OTEL, "");
_Static_assert(FIBER_THREAD_AREAS < OWNER_EXIT_PENDING, "threads fit an owner word");
_Static_assert(FIBER_THREAD_AREAS <= CB_LEFT, "and fiber_cb.root_of");

/* What a thread runs that is no fiber: it has no stack, so that nothing is on it. */
extern struct fiber_cb thread_nobody __attribute__((visibility("hidden")));

extern _Thread_local struct thread thread
	__attribute__((visibility("hidden"), tls_model("initial-exec")));

/* Asked again each time: a compiler may keep the address of a thread-local over a switch. */
static inline struct thread *thread_self(void)
{
	struct thread *self;

	__asm__ volatile("movq thread@gottpoff(%%rip), %0\n\taddq %%fs:0, %0" : "=r"(self));
	return self;
}

/* Returns what `busy` was, for thread_idle(). */
static inline uint64_t thread_busy(void)
{
	uint64_t busy;

	__asm__ volatile("movq thread@gottpoff(%%rip), %%rax\n\t"
			 "movq %%fs:%c1(%%rax), %0\n\t"
			 "movq $-1, %%fs:%c1(%%rax)"
			 : "=&r"(busy) : "i"(THREAD_BUSY) : "rax", "memory");
	return busy;
}

static inline void thread_idle(uint64_t busy)
{
	__asm__ volatile("movq thread@gottpoff(%%rip), %%rax\n\t"
			 "movq %0, %%fs:%c1(%%rax)"
			 : : "r"(busy), "i"(THREAD_BUSY) : "rax", "memory");
}

/* One instruction: the fiber may move to another thread at any time, its id stays. */
static inline uint64_t thread_fiber(void)
{
	uint64_t id;

	__asm__ volatile("movq thread@gottpoff(%%rip), %0\n\tmovq %%fs:%c1(%0), %0"
			 : "=&r"(id) : "i"(THREAD_ID));
	return id;
}

/*
 * The calling fiber's control block, which stays as long as it runs. NULL: the caller is none, or
 * its thread has left it.
 */
static inline struct fiber_cb *thread_cb(void)
{
	fiber_id_t id = thread_fiber();

	return id && !thread_self()->ending ? fiber_cb_at(id) : NULL;
}

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_THREAD_H */
