/* SPDX-License-Identifier: MIT */
/*
 * What the C++ runtime keeps per thread about exceptions that are being
 * handled, kept per fiber: a fiber may switch inside a catch block, go on
 * there on another thread and throw again.
 *
 * fiber_switch() passes it by where there is none: exception_offset is the place of
 * two words, counted from the thread pointer, which are 0 then. It is 0 itself where
 * that is not known, or a sanitizer has to know each switch, and the word there, the
 * thread's address, is not. Then, or in a catch block, exception_switch() saves the state around the switch, so that
 * whoever switches leaves a thread without any behind.
 */
#ifndef LIBFIBER_EXCEPTION_H
#define LIBFIBER_EXCEPTION_H

/* On each thread before its first switch. Not async-signal-safe. */
void exception_attach(void);

#endif /* LIBFIBER_EXCEPTION_H */
