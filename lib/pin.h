/* SPDX-License-Identifier: MIT */
/*
 * The object that this library is part of. Ends of threads and fork() call the library at any
 * time, so it must stay loaded: libfiber.so is linked so, but a plugin with libfiber.a in it is not.
 */
#ifndef LIBFIBER_PIN_H
#define LIBFIBER_PIN_H

/* From now on it is never unloaded. */
void pin(void);

#endif /* LIBFIBER_PIN_H */
