/* SPDX-License-Identifier: MIT */
/*
 * A seeded fuzzer of the module's requests.
 *
 *	supervisor	forks workers, restarts those that ended, counts, prints one line of JSON
 *	  worker	a process of a few threads; ends after a round, by one of enum ending
 *	    thread	takes steps; so does each fiber, on whichever thread runs it
 *	      child	forked by a step; takes some steps alone, or calls execve()
 *
 * What a thread does follows from (seed, process, round, thread): a step is drawn as a whole,
 * before anything is known of how the ones before it went. Signal handlers draw from a stream of
 * their own.
 *
 * A failure is: an error that the ABI does not name, a request accepted that must not be, a worker
 * that crashed in a round that leaves stacks alone, or one that does not end.
 *
 * step.c draws, request.c makes requests of steps, worker.c all that happens around them, fuzz.c is
 * the supervisor.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uapi/fiber.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

#define PROCESSES_MAX	16
#define THREADS_MAX	16
#define STEPS		1500	/* of a thread in a round */
#define CHILD_STEPS	40
#define STARTS_MAX	3	/* threads that replace ended ones, in a round */
#define ROUND_SECONDS	300	/* a round takes a few; above this somebody is stuck */

#define MEMBERS		48	/* created fibers of a process */
#define STACK_SIZE	65536UL
#define THREAD_BLOCK	(1UL << 20)	/* a thread's stack, and below it its alternate one */
#define ALTERNATE_SIZE	65536UL
#define PAGE		4096UL
#define TAKEN		(UINT64_C(1) << 63)	/* somebody creates or remaps this member */

/* Descriptors have fixed numbers, so that closing hits none that is needed. */
#define SHARED_FD	99
#define DEVICE_FD	100	/* this one is always open, and the process's own */
#define DEVICE_FDS	8
#define HELD_FD		110	/* files and directories under /proc */
#define HELD_FDS	8

#define ERRNOS		134
#define PCS		(1U << 15)
#define COVER_SIZE	(1UL << 16)	/* words */
#define KCOV_INIT_TRACE	_IOR('c', 1, unsigned long)
#define KCOV_ENABLE	_IO('c', 100)

enum kind {
	VERSION, CONVERT, CREATE, SWITCH, DELETE, REVERT, RETIRE, SET_NAME, SELF, STAT,
	FLS_ALLOC, FLS_FREE, FLS_SET, FLS_GET, UNKNOWN,
	REQUESTS,
	FLS_FILL = REQUESTS, OPEN, CLOSE, DUP, PROC, REMAP, UNMAP, FORK, VFORK, KIN, KILL, SIGNAL,
	MASK, VECTORS, AFFINITY, PRCTL, YIELD, EXIT,
	KINDS
};

/* What can be drawn, and how often; a request's number, and its errors besides EPERM and EBADF. */
struct kind_of_step {
	const char *name;
	unsigned int weight;
	unsigned int cmd;
	int errors[8];
};

extern const struct kind_of_step kinds[KINDS];

/* How a round ends; all but LAST_THREAD while threads are in the middle of their steps. */
enum ending { LAST_THREAD, LEADER_FIRST, EXIT_GROUP, SIGKILLED, EXECVE, ENDINGS };

struct step {
	enum kind kind;
	uint64_t a, b, c;
};

/* step.c */
uint64_t mix(uint64_t value);
uint64_t random_next(uint64_t *state);
/* The beginning of a stream of random numbers. Thread UINT32_MAX is the round itself. */
uint64_t stream(uint64_t seed, uint64_t process, uint64_t round, uint64_t thread);
struct step step_draw(uint64_t *random);
/* The next step of a thread: it begins as a fiber more often than not. */
struct step step_of_thread(uint64_t *random, bool first);
void print_plan(int processes, int threads, uint64_t seed);

/* Mapped by all, also after execve(). */
struct shared {
	uint64_t seed;
	unsigned long goal;
	int processes, threads, processors;
	bool proc_pid, kcov;
	atomic_ulong calls, execs, forks;
	atomic_ulong results[REQUESTS][ERRNOS];
	atomic_ulong steps[KINDS];
	atomic_int pids[PROCESSES_MAX];
	atomic_bool stop, failed;
	char failure[256];
	_Atomic uint64_t pcs[PCS];
	atomic_ulong pcs_lost;
};

extern struct shared *shared;

/* Of this process; in worker.c. */
extern int process_number;
extern uint64_t round_number;
extern bool deadly;	/* a round in which stacks of suspended fibers are unmapped */
extern bool alone;	/* a forked child, or the image after execve() */
extern enum ending ending;
extern atomic_int living;
extern _Atomic uint64_t members[MEMBERS];	/* ids of created fibers, by the place of their stack */
extern _Atomic uint64_t owns[THREADS_MAX + STARTS_MAX], stale[16];
extern atomic_uint owns_next, stale_next;
extern atomic_int tids[THREADS_MAX + STARTS_MAX], children[4];
extern char *stacks;
extern char *pages;	/* one to write, one to read, one for nobody */
extern char scratch[65536];
extern char *late;	/* pages that come when the leader gives them, and go again */

#define LATE_PAGES 4

/* request.c */
enum place { NORMAL, HANDLER, ALTERNATE };

long request(enum kind kind, int fd, unsigned long arg);
void perform_request(const struct step *step, enum place place);
void fls_fill(const struct step *step);
uint64_t live_id(uint64_t random);
uint64_t any_id(uint64_t random);
/* That address, or now and then a bad or a late one. */
void *any_pointer(uint64_t random, void *good, size_t size);

/* worker.c */
struct round {
	enum ending ending;
	bool deadly;
	int threads;
};

struct round round_draw(int process, uint64_t round);
__attribute__((noreturn)) void worker(int process, uint64_t round);
/* After execve(): a descriptor of the process that this was, then one of its own. */
__attribute__((noreturn)) void child_role(char **words);
/* What a created fiber runs. */
void body(void *arg);
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);

#endif /* FUZZ_H */
