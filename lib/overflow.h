/* SPDX-License-Identifier: MIT */
/*
 * fiber_report_overflow(): a handler of SIGSEGV that names the fiber whose stack was
 * too small. It needs a stack to run on: each thread gets an alternate one when it is
 * converted, unless it has one.
 */
#ifndef LIBFIBER_OVERFLOW_H
#define LIBFIBER_OVERFLOW_H

/* The calling thread becomes a fiber; it is none any more, or ends. */
void overflow_attach(void);
void overflow_detach(void);

#endif /* LIBFIBER_OVERFLOW_H */
