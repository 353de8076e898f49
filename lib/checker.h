/* SPDX-License-Identifier: MIT */
/*
 * Which checker of memory or threads runs the process, and what it is told that concerns no fiber:
 * the library's lock, and memory that is shared by atomic access. The rest is in sanitizer.h.
 */
#ifndef LIBFIBER_CHECKER_H
#define LIBFIBER_CHECKER_H

#include <stdbool.h>
#include <stddef.h>

/* A few instructions each that do nothing outside Valgrind. */
#if __has_include(<valgrind/helgrind.h>) && __has_include(<valgrind/memcheck.h>)
#include <valgrind/helgrind.h>
#include <valgrind/memcheck.h>
#else
#define RUNNING_ON_VALGRIND 0
#define VALGRIND_STACK_REGISTER(start, end) ((void)(start), (void)(end), 0)
#define VALGRIND_STACK_DEREGISTER(id) ((void)(id))
#define VALGRIND_MAKE_MEM_UNDEFINED(start, size) ((void)(start), (void)(size))
#define ANNOTATE_HAPPENS_BEFORE(object) ((void)(object))
#define ANNOTATE_HAPPENS_AFTER(object) ((void)(object))
#define VALGRIND_HG_GET_ABITS(start, bits, size) ((void)(start), (void)(bits), (void)(size), -2)
#define VALGRIND_HG_DISABLE_CHECKING(start, size) ((void)(start), (void)(size))
#define VALGRIND_HG_ENABLE_CHECKING(start, size) ((void)(start), (void)(size))
#endif

/* ThreadSanitizer's runtime; weak: mostly there is none. */
__attribute__((weak)) void __tsan_acquire(void *address);
__attribute__((weak)) void __tsan_release(void *address);

/* Whether the process runs on Valgrind, and on its tool Helgrind. Set by checker_open(). */
extern bool checker_valgrind __attribute__((visibility("hidden")));
extern bool checker_helgrind __attribute__((visibility("hidden")));

/* Before the first fiber, with the lock held. */
void checker_open(void);

/*
 * The calling thread has got the lock, or is about to release it. Checkers know pthread's locks
 * only, and see calls of the C library that are made under this one.
 */
void checker_lock(void *lock);
void checker_unlock(void *lock);

/* Helgrind does not know atomic access. */
void checker_ignore(const void *start, size_t size);

#endif /* LIBFIBER_CHECKER_H */
