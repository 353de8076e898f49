/* SPDX-License-Identifier: MIT */
/*
 * Process-wide keys whose values are per fiber. Made here, over control words, and
 * the same for each engine; the positions of fiber_fls_alloc() are the engine's.
 */
#ifndef LIBFIBER_KEY_H
#define LIBFIBER_KEY_H

struct values;

/*
 * Ends the values of one fiber in two steps. The first, with the lock held,
 * settles which destructor is to see which value, so that a key can be deleted
 * and made again meanwhile. The second calls them and frees all, without the
 * lock. `values` may be NULL.
 */
void values_close(struct values *values);
void values_destroy(struct values *values);

/* Frees all and calls nothing. With the lock held. */
void values_free(struct values *values);

#endif /* LIBFIBER_KEY_H */
