/* SPDX-License-Identifier: MIT */
/*
 * For programs that are built here over libfiber-windows, and with Windows' own headers for
 * Wine. TEST(name) { CHECK(...); }: the program runs the one that its argument names. Status
 * 0 passed, 1 failed, 77 cannot run here.
 */
#ifndef TESTS_WINDOWS_HARNESS_H
#define TESTS_WINDOWS_HARNESS_H

#ifdef _WIN32
#define _WIN32_WINNT 0x0602
#endif
#include <windows.h>

#include <stdint.h>

#include "../registry.h"

__attribute__((noreturn)) void check_failed(const char *file, int line, const char *what,
					    uint64_t got);
__attribute__((noreturn)) void check_skip(const char *reason);

#define CHECK(condition)								\
	do {										\
		if (!(condition))							\
			check_failed(__FILE__, __LINE__, #condition, GetLastError());	\
	} while (0)

#define LAST_ERROR_MARK 0xdeadbeef

/* The call gives this, and the last error is that. */
#define CHECK_ERROR(call, wanted, error)						\
	do {										\
		SetLastError(LAST_ERROR_MARK);						\
		CHECK((call) == (wanted));						\
		CHECK(GetLastError() == (DWORD)(error));				\
	} while (0)

/* A thread of the system's own kind, which must end by itself. */
struct thread;
struct thread *thread_start(void (*run)(void *), void *arg);
void thread_join(struct thread *thread);
void sleep_ms(unsigned int ms);
void wait_for(const volatile int *flag);

#define SET(flag) __atomic_store_n(&(flag), 1, __ATOMIC_SEQ_CST)

#endif /* TESTS_WINDOWS_HARNESS_H */
