/* SPDX-License-Identifier: MIT */
/*
 * The sole fiber thread. While a process has one, that thread needs no locked
 * instructions: what its own signal handlers may do is kept out by `busy` (thread.h), and nobody
 * else takes a fiber, or relies on an owner word that says free, but who
 *
 *	is a fiber thread, of which there are two then, or
 *	holds the lock.
 *
 * A thread that is no fiber ends this state by taking the lock. It begins again when the lock is
 * dropped and there is one fiber thread. What the sole thread does to take a fiber is on the
 * left, what the other one does on the right:
 *
 *	target = the fiber			sole = 0
 *	if sole:				membarrier(2)
 *		if the owner word says free:	while target's owner word says free:
 *			change it			wait
 *
 * The barrier, which the kernel executes on each processor that runs the process, stands for the
 * one that a locked instruction on the left would be: after it the sole thread will see 0, or has
 * shown its target. The wait is for a few instructions, unless the thread is preempted there.
 *
 * `target` is fiber_thread_area.target, which outlives a thread that vanishes. Owner words are in
 * private memory: neither the module nor another process writes them.
 */
#ifndef LIBFIBER_SOLE_H
#define LIBFIBER_SOLE_H

#include <stdatomic.h>
#include <stdint.h>

/* Whether the fiber thread that reads it is the sole one and nobody else holds the lock. */
extern _Atomic uint32_t sole __attribute__((visibility("hidden")));

/* All that follow with the lock held. A thread became a fiber, or is none any more. */
void sole_count(int change);

/* In the child of a fork(): whether the calling thread, which is the only one, is a fiber. */
void sole_child(int fiber);

/* Whoever holds the lock now is no fiber thread. */
void sole_suspend(void);

/* The lock is about to be dropped. */
void sole_resume(void);

#endif /* LIBFIBER_SOLE_H */
