/* SPDX-License-Identifier: MIT */
/*
 * What the C++ runtime keeps per thread about exceptions that are being
 * handled, kept per fiber: a fiber may switch inside a catch block, go on
 * there on another thread and throw again.
 *
 * Nothing here does anything in a program without a C++ runtime.
 */
#ifndef LIBFIBER_EXCEPTION_H
#define LIBFIBER_EXCEPTION_H

#include <stdint.h>

/* struct __cxa_eh_globals of the Itanium C++ ABI, as two words. */
struct exception_state {
	uintptr_t caught;	/* the stack of caught exceptions */
	uintptr_t uncaught;	/* how many are on their way; the upper half is padding */
};

/* On each thread before its first switch. Not async-signal-safe. */
void exception_attach(void);

/* The calling fiber's state, which the thread gives up. */
struct exception_state exception_leave(void);

/* Back in the fiber, maybe on another thread. */
void exception_enter(struct exception_state state);

#endif /* LIBFIBER_EXCEPTION_H */
