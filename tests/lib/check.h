/* SPDX-License-Identifier: MIT */
/*
 * A test program holds tests: TEST(name) { CHECK(...); }. It runs the one that
 * its argument names, in a process of its own: status 0 passed, 1 failed,
 * 77 cannot run here (the reason is on standard output).
 */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <fiber.h>
#include <pthread.h>
#include <stdint.h>

#include "../registry.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Ends the process: nothing after a failure is worth knowing. */
__attribute__((noreturn)) void check_failed(const char *file, int line, const char *what);
__attribute__((noreturn)) void check_skip(const char *reason);
void check_error(const char *file, int line, const char *what, int got, int wanted);
void check_errno(const char *file, int line, const char *what);

#define ERRNO_MARK (-12345)

#define CHECK(condition)								\
	do {										\
		if (!(condition))							\
			check_failed(__FILE__, __LINE__, #condition);			\
	} while (0)

/* The call returns this error, and errno keeps its value. */
#define CHECK_ERR(call, wanted)								\
	do {										\
		errno = ERRNO_MARK;							\
		check_error(__FILE__, __LINE__, #call, (call), (wanted));		\
		check_errno(__FILE__, __LINE__, #call);					\
	} while (0)

/* As CHECK_ERR() for calls that may end on another thread, whose errno is another. */
#define CHECK_RESULT(call, wanted) check_error(__FILE__, __LINE__, #call, (call), (wanted))

#define CHECK_OK(call) CHECK_ERR(call, 0)

/* What a failed call must leave in its outputs. */
#define POISON UINT64_C(0xdeadbeefcafef00d)

pthread_t thread_start(void *(*run)(void *), void *arg);
void thread_join(pthread_t thread);

/* Waits for a flag that another thread raises; fails after 20 s. */
void wait_for(const volatile int *flag);
void sleep_ms(unsigned int ms);

/* Runs `run` in a forked child and gives its wait status. */
int in_child(void (*run)(void));

/* Skips the test with other engines than this one, or with this one. */
void only_on(const char *engine, const char *reason);
void not_on(const char *engine, const char *reason);

/* What fiber_get_stat() says, which must not fail. */
struct fiber_stat stat_of(fiber_id_t id);

/* A thread that has been joined may still be on its way out of the kernel. */
int switch_when_free(fiber_id_t id);
int delete_when_free(fiber_id_t id);

#ifdef __cplusplus
}
#endif

#endif /* CHECK_H */
