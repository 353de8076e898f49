/* SPDX-License-Identifier: MIT */
/*
 * Tests of the module by its requests alone, without libfiber.
 *
 *	prog --list	the names of its cases
 *	prog NAME	runs that case in this process: status 0 passed, 77 cannot
 *			run here (the reason is on standard output), else failed
 *			(file:line and what, on standard error)
 *	prog		runs all of them, a process each; for machines without pytest
 *
 * Requests return 0 or a negative error, never errno: errno lies in thread-local
 * storage, and a request may return on another thread than it was made on.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "tests/registry.h"
#include "uapi/fiber.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* What a failed request must leave in its outputs. */
#define POISON UINT64_C(0xdeadbeefcafef00d)

/* Both end the process: nothing after a failure is worth knowing. */
__attribute__((noreturn, format(printf, 3, 4)))
void check_failed(const char *file, int line, const char *format, ...);
__attribute__((noreturn, format(printf, 1, 2)))
void skip(const char *format, ...);
void check_result(const char *file, int line, const char *call, long got, long wanted);
void check_equal(const char *file, int line, const char *what, uint64_t got, uint64_t wanted);

#define CHECK(condition)								\
	do {										\
		if (!(condition))							\
			check_failed(__FILE__, __LINE__, "%s", #condition);		\
	} while (0)

/* A request's result, or any value; wanted is 0 or an errno. */
#define CHECK_OK(call)		check_result(__FILE__, __LINE__, #call, (call), 0)
#define CHECK_ERR(call, wanted)	check_result(__FILE__, __LINE__, #call, (call), -(wanted))
#define CHECK_EQ(got, wanted)	check_equal(__FILE__, __LINE__, #got, (got), (wanted))

/* Polls; fails after DEADLINE_MS. */
#define DEADLINE_MS 30000
#define WAIT_FOR(condition)								\
	do {										\
		uint64_t until_ = now_ms() + DEADLINE_MS;				\
		while (!(condition)) {							\
			if (now_ms() > until_)						\
				check_failed(__FILE__, __LINE__, "never came: %s", #condition); \
			pause_briefly();						\
		}									\
	} while (0)

uint64_t now_ms(void);
uint64_t now_ns(void);
void pause_briefly(void);

/* CPU time of the calling thread. */
uint64_t thread_cpu_ns(void);
/* Uses that much CPU time. */
void burn_ns(uint64_t ns);
void pin_to_cpu(int cpu);

/*
 * The descriptor that the functions below use: one for the whole process.
 * Forked children must set their own. fiber_fd() opens it.
 */
extern int device;
int device_open(void);

/* Any request on any descriptor. */
long request(int fd, unsigned long cmd, unsigned long arg);

/*
 * FIBER_IOC_SWITCH. Code that resumes may be on another thread: it must not keep
 * addresses of thread-local variables over this.
 */
long fiber_switch(uint64_t id);
/* The address at which a suspended fiber goes on, and rsp as the last caller had it. */
extern const char fiber_switch_resume[];
extern uint64_t fiber_switch_sp;

/* Each with checks of its own; on `device`. */
uint64_t convert(uint32_t flags);
void revert(void);
uint64_t self(void);

/* The same, giving the error. */
long try_convert(uint32_t flags, uint64_t *id);
long try_create(const struct fiber_create *args, uint64_t *id);
long try_self(uint64_t *id);
long fiber_delete(uint64_t id);
long fiber_rename(uint64_t id, const char *name);
long fls_alloc(uint64_t *index);
long fls_free(uint64_t index);
long fls_set(uint64_t index, uint64_t value);
long fls_get(uint64_t index, uint64_t *value);

/* A stack whose top word ends the thread that returns to it. */
#define STACK_SIZE 65536UL
void *stack_new(size_t size);
/* Where a new fiber's rsp is. */
uint64_t stack_top(const void *start, size_t size);

/* A created fiber with a stack of its own, which is never unmapped. */
uint64_t create(void (*entry)(void *), void *arg, uint32_t flags, const char *name);

/* A thread that has been joined may still be on its way out of the kernel. */
long switch_when_free(uint64_t id);
long delete_when_free(uint64_t id);

pthread_t thread_start(void *(*run)(void *), void *arg);
/* On a stack that stays mapped after the thread's end. */
pthread_t thread_start_on_lasting_stack(void *(*run)(void *), void *arg);
void thread_join(pthread_t thread);
__attribute__((noreturn)) void thread_exit_raw(void);
/* The kernel's state letter of a thread of this process: R, S, D... */
char thread_state(pid_t tid);

/* Runs it in a forked child, for child_join(). */
pid_t child_start(void (*run)(void));
/* Fails unless the child exits with 0; skips if it has skipped. */
void child_join(pid_t pid);
/* Both. */
void in_child(void (*run)(void));
/* The same, giving the wait status. */
int child_status(void (*run)(void));

/* What follows "key: " in /proc/PID/fiber/ID; false: no such file or no such key. */
#define PROC_LINE 512
bool proc_line(pid_t pid, uint64_t id, const char *key, char *value);
/* These fail where there is none. Of this process. */
uint64_t proc_number(uint64_t id, const char *key);
bool proc_is(uint64_t id, const char *key, const char *value);
bool proc_exists(uint64_t id);

/* The module's counters of living objects. */
struct counters {
	long processes;
	long threads;
	long fibers;
};

struct counters counters_read(void);
/* Waits until they are these. */
void counters_wait(struct counters wanted);
/*
 * Waits until there are none: what ended before is freed by and by. Fails where
 * something leaked, or where somebody else uses the module.
 */
void counters_wait_none(void);

#endif /* HARNESS_H */
