/* SPDX-License-Identifier: MIT */
/*
 * What the library keeps for each thread.
 *
 * A signal may land anywhere, and its handler may switch as well and so move
 * the interrupted fiber to another thread. `busy` is raised where that would do
 * harm: inside a switch, with the library's lock held, and while the fields
 * below change. A switch in a handler then fails with EAGAIN, and the thread
 * stays the same until it is lowered. It is tested and raised by one
 * instruction each, relative to the thread pointer, and a switch lowers it by
 * one at its end.
 *
 * Nothing of this may be kept in a register over a switch: ask thread_self() anew.
 */
#ifndef LIBFIBER_THREAD_H
#define LIBFIBER_THREAD_H

/* For switch_x86_64.S, asserted in user.c. */
#define THREAD_BUSY	0
#define THREAD_ID	8
#define THREAD_CURRENT	16
#define THREAD_SLOT	24
#define THREAD_AREA	32
#define THREAD_TAKES	40
#define THREAD_RUNS	48
#define THREAD_NUMBER	56

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control.h"
#include "uapi/fiber.h"

/* Changed by its own thread only. All but the first and last are 0 unless user mode switches. */
struct thread {
	uint64_t busy;
	/* The fiber that it runs. */
	uint64_t current_id;
	struct control *current;
	struct fiber_slot *slot;
	/* Its own entries of the table. */
	struct fiber_thread_area *area;
	/* What makes the owner word of a free fiber this thread's, when added. */
	uint64_t takes;
	/* The words fiber_slot.state and .area of the fiber that it runs. */
	uint64_t runs;
	/* From 1. */
	uint64_t number;

	/* The fiber that it is, and its id; NULL once it is finished. */
	struct control *own;
	uint64_t own_id;
	/* Free fibers with their stacks, for the next ones. */
	struct control *spare;
	unsigned int spares;
	/* The exception state of threads without a C++ runtime: 0, for exception.c. */
	uint64_t exceptions[2];
};

extern _Thread_local struct thread thread
	__attribute__((visibility("hidden"), tls_model("initial-exec")));

/* Asked anew each time: a compiler may keep the address of a thread-local over a switch. */
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
			 "movq $1, %%fs:%c1(%%rax)"
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

#endif /* !__ASSEMBLER__ */

#endif /* LIBFIBER_THREAD_H */
