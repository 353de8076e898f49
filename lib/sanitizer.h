/* SPDX-License-Identifier: MIT */
/*
 * Tells AddressSanitizer and ThreadSanitizer which stack is running, where the
 * program brings their runtime. Then each switch takes the way in C (user.c),
 * where the fiber that is switched to is already the caller's.
 */
#ifndef LIBFIBER_SANITIZER_H
#define LIBFIBER_SANITIZER_H

#include <stdbool.h>

struct control;

bool sanitizer_watches(void);

/* The calling thread's own fiber begins; a fiber that is no more. By its owner. */
void sanitizer_convert(struct control *own);
void sanitizer_forget(struct control *control);

/*
 * Around a switch: what leave() returns is of the fiber that is left, and for its
 * arrive(); a fiber that begins calls arrive(NULL). The thread is busy from one to
 * the other, so that no handler switches in between.
 */
void *sanitizer_leave(struct control *from, struct control *to);
void sanitizer_arrive(void *left);

/* A thread that ends on a created fiber comes to its own stack without a switch. */
void sanitizer_end(void);

#endif /* LIBFIBER_SANITIZER_H */
