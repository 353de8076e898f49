/* SPDX-License-Identifier: MIT */
/*
 * What the C++ runtime keeps per thread about exceptions that are being
 * handled, kept per fiber: a fiber may switch inside a catch block, be resumed
 * there on another thread and throw again.
 *
 * fiber_switch() passes it by where there is none: thread.exceptions points to two words, which
 * are 0 then. In a catch block exception_switch() saves them around the switch, so that
 * whoever switches leaves a thread without any behind.
 *
 * A runtime that is loaded later has its words elsewhere. The loader then counts up the
 * generation of a thread's dynamic thread-locals (their vector's first word) before it gives the thread the
 * first of them, so fiber_switch() compares that, too, and exception_switch() looks again.
 */
#ifndef LIBFIBER_EXCEPTION_H
#define LIBFIBER_EXCEPTION_H

#include "thread.h"

/* On each thread when it becomes a fiber. Not async-signal-safe. */
void exception_attach(void);

/*
 * Around a switch: the calling thread, which is busy, has none from now on, and returns what it
 * had; the thread that the fiber is resumed on has that. Calls, over which no address is kept.
 */
struct exceptions exception_leave(void);
void exception_arrive(struct exceptions ours);

#endif /* LIBFIBER_EXCEPTION_H */
