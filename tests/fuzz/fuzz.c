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
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "uapi/fiber.h"

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

#define PROCESSES_MAX	16
#define THREADS_MAX	16
#define STEPS		1500	/* of a thread in a round */
#define CHILD_STEPS	40
#define STARTS_MAX	12	/* threads that replace ended ones, in a round */
#define ROUND_SECONDS	120	/* a round takes a few; above this somebody is stuck */

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
	VERSION, CONVERT, CREATE, SWITCH, DELETE, REVERT, RETIRE, SET_NAME, SELF,
	FLS_ALLOC, FLS_FREE, FLS_SET, FLS_GET, UNKNOWN,
	REQUESTS,
	FLS_FILL = REQUESTS, OPEN, CLOSE, DUP, PROC, REMAP, UNMAP, FORK, VFORK, KILL, SIGNAL,
	MASK, VECTORS, AFFINITY, PRCTL, YIELD, EXIT,
	KINDS
};

static const struct {
	const char *name;
	unsigned int weight;
	unsigned int cmd;
	int errors[6];	/* besides EPERM and EBADF */
} kinds[KINDS] = {
	[VERSION] = { "VERSION", 100, FIBER_IOC_VERSION, { 0 } },
	[CONVERT] = { "CONVERT", 500, FIBER_IOC_CONVERT,
		      { EEXIST, EFAULT, EINVAL, EAGAIN, EOPNOTSUPP, ENOMEM } },
	[CREATE] = { "CREATE", 1400, FIBER_IOC_CREATE, { EFAULT, EINVAL, EAGAIN, ENOMEM } },
	[SWITCH] = { "SWITCH", 4000, FIBER_IOC_SWITCH,
		     { ESRCH, EINVAL, EBUSY, EOWNERDEAD, EOPNOTSUPP } },
	[DELETE] = { "DELETE", 300, FIBER_IOC_DELETE, { ESRCH, EBUSY } },
	[REVERT] = { "REVERT", 100, FIBER_IOC_REVERT, { EINVAL } },
	[RETIRE] = { "RETIRE", 60, FIBER_IOC_RETIRE, { EINVAL, EINTR } },
	[SET_NAME] = { "SET_NAME", 400, FIBER_IOC_SET_NAME, { EFAULT, EINVAL, ESRCH } },
	[SELF] = { "SELF", 400, FIBER_IOC_SELF, { EFAULT } },
	[FLS_ALLOC] = { "FLS_ALLOC", 500, FIBER_IOC_FLS_ALLOC, { EFAULT, EAGAIN, ENOMEM } },
	[FLS_FREE] = { "FLS_FREE", 150, FIBER_IOC_FLS_FREE, { EINVAL } },
	[FLS_SET] = { "FLS_SET", 500, FIBER_IOC_FLS_SET, { EFAULT, EINVAL } },
	[FLS_GET] = { "FLS_GET", 500, FIBER_IOC_FLS_GET, { EFAULT, EINVAL } },
	[UNKNOWN] = { "UNKNOWN", 400, 0, { ENOTTY } },
	[FLS_FILL] = { .name = "fls_fill", .weight = 1 },
	[OPEN] = { .name = "open", .weight = 60 },
	[CLOSE] = { .name = "close", .weight = 60 },
	[DUP] = { .name = "dup", .weight = 60 },
	[PROC] = { .name = "proc", .weight = 700 },
	[REMAP] = { .name = "remap", .weight = 40 },
	[UNMAP] = { .name = "unmap", .weight = 8 },
	[FORK] = { .name = "fork", .weight = 15 },
	[VFORK] = { .name = "vfork", .weight = 10 },
	[KILL] = { .name = "kill", .weight = 20 },
	[SIGNAL] = { .name = "signal", .weight = 80 },
	[MASK] = { .name = "mask", .weight = 100 },
	[VECTORS] = { .name = "vectors", .weight = 200 },
	[AFFINITY] = { .name = "affinity", .weight = 30 },
	[PRCTL] = { .name = "prctl", .weight = 20 },
	[YIELD] = { .name = "yield", .weight = 200 },
	[EXIT] = { .name = "exit", .weight = 10 },
};

/* How a round ends; all but LAST_THREAD while threads are in the middle of their steps. */
enum ending { LAST_THREAD, LEADER_FIRST, EXIT_GROUP, SIGKILLED, EXECVE, ENDINGS };

struct step {
	enum kind kind;
	uint64_t a, b, c;
};

enum place { NORMAL, HANDLER, ALTERNATE };

/* Mapped by all, also after execve(). */
static struct shared {
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
} *shared;

/* Of this process. */
static int process_number;
static uint64_t round_number;
static bool deadly;	/* a round in which stacks of suspended fibers are unmapped */
static bool alone;	/* a forked child, or the image after execve() */
static enum ending ending;
static atomic_int living;
static _Atomic uint64_t members[MEMBERS];	/* ids of created fibers, by the place of their stack */
static _Atomic uint64_t owns[THREADS_MAX + STARTS_MAX], stale[16];
static atomic_uint owns_next, stale_next;
static atomic_int tids[THREADS_MAX + STARTS_MAX], children[4];
static char *stacks;
static char *pages;	/* one to write, one to read, one for nobody */
static char scratch[65536];

/* Of this thread. */
static __thread struct {
	uint64_t random, handler_random;
	long steps;
	bool begun;
	int number;
	uint64_t *cover;
} self;
/* While this is set no handler leaves the fiber, so that what was read of `self` is this thread's. */
static __thread volatile int quiet;

/* Registers a called function may change are lost at a switch. */
#define LOST "rcx", "r11", "cc", "memory", \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
	"xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

/* Not by libc: errno is a thread's, and who returns may be on another one. */
static inline __attribute__((always_inline)) long
call(long number, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	register unsigned long rdi __asm__("rdi") = a;
	register unsigned long rsi __asm__("rsi") = b;
	register unsigned long rdx __asm__("rdx") = c;
	register unsigned long r10 __asm__("r10") = d;
	register unsigned long r8 __asm__("r8") = 0;
	register unsigned long r9 __asm__("r9") = 0;

	__asm__ volatile("syscall"
			 : "+a" (number), "+r" (rdi), "+r" (rsi), "+r" (rdx), "+r" (r10),
			   "+r" (r8), "+r" (r9)
			 :
			 : LOST);
	return number;
}

#define CALL(number, a, b, c, d) \
	call(number, (unsigned long)(a), (unsigned long)(b), (unsigned long)(c), (unsigned long)(d))

__attribute__((noreturn)) static void end_process(int status)
{
	for (;;)
		CALL(SYS_exit_group, status, 0, 0, 0);
}

__attribute__((noreturn, format(printf, 1, 2)))
static void fail(const char *format, ...)
{
	va_list args;

	if (!atomic_exchange(&shared->failed, true)) {
		int size = snprintf(shared->failure, sizeof(shared->failure),
				    "process %d round %llu: ", process_number,
				    (unsigned long long)round_number);

		va_start(args, format);
		vsnprintf(shared->failure + size, sizeof(shared->failure) - (size_t)size, format, args);
		va_end(args);
	}
	end_process(3);
}

static uint64_t mix(uint64_t value)
{
	value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
	return value ^ value >> 31;
}

static uint64_t random_next(uint64_t *state)
{
	return mix(*state += UINT64_C(0x9e3779b97f4a7c15));
}

static uint64_t stream(uint64_t seed, uint64_t process, uint64_t round, uint64_t thread)
{
	return mix(mix(mix(mix(seed) + process) + round) + thread);
}

static struct step step_draw(uint64_t *random)
{
	static unsigned int total;
	unsigned int sum = 0, left;
	struct step step;
	int kind = 0;

	if (!total) {
		for (int i = 0; i < KINDS; i++)
			sum += kinds[i].weight;
		total = sum;
	}
	for (left = random_next(random) % total; left >= kinds[kind].weight; kind++)
		left -= kinds[kind].weight;
	step.kind = kind;
	step.a = random_next(random);
	step.b = random_next(random);
	step.c = random_next(random);
	return step;
}

/* The next step of a thread: it begins as a fiber more often than not. */
static struct step step_of_thread(uint64_t *random, bool first)
{
	struct step step = step_draw(random);

	if (first && step.a % 8) {
		step.kind = CONVERT;
		step.b = step.c = 0;
	}
	return step;
}

/* Coverage: KCOV writes the addresses that the thread's system calls pass; here they are merged. */

static void cover_start(void)
{
	int fd = open("/sys/kernel/debug/kcov", O_RDWR | O_CLOEXEC);
	void *map;

	if (fd < 0 || ioctl(fd, KCOV_INIT_TRACE, COVER_SIZE))
		fail("cannot use KCOV: %s", strerror(errno));
	map = mmap(NULL, COVER_SIZE * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED || ioctl(fd, KCOV_ENABLE, 0))
		fail("cannot use KCOV: %s", strerror(errno));
	self.cover = map;
}

static void cover_merge(uint64_t *cover)
{
	uint64_t count = cover[0];

	if (count >= COVER_SIZE - 1)
		atomic_fetch_add(&shared->pcs_lost, 1);
	for (uint64_t i = 1; i <= count && i < COVER_SIZE; i++) {
		uint64_t pc = cover[i];
		unsigned int place = mix(pc) % PCS, tries;

		for (tries = 0; tries < 64; tries++, place = (place + 1) % PCS) {
			uint64_t found = atomic_load_explicit(&shared->pcs[place], memory_order_relaxed);

			if (!found)
				atomic_compare_exchange_strong(&shared->pcs[place], &found, pc);
			if (!found || found == pc)
				break;
		}
		if (tries == 64)
			atomic_fetch_add(&shared->pcs_lost, 1);
	}
	cover[0] = 0;
}

/* Requests. */

static void check(enum kind kind, long result)
{
	if (result == (kind == VERSION ? FIBER_ABI_VERSION : 0) || result == -EBADF)
		return;
	if (result == -EPERM && kind != VERSION)
		return;
	for (size_t i = 0; result < 0 && i < ARRAY_SIZE(kinds[kind].errors); i++)
		if (result == -kinds[kind].errors[i])
			return;
	fail("%s gave %ld, which the ABI does not name", kinds[kind].name, result);
}

static long request_as(enum kind kind, int fd, unsigned int cmd, unsigned long arg)
{
	long result;

	atomic_fetch_add_explicit(&shared->calls, 1, memory_order_relaxed);
	result = CALL(SYS_ioctl, fd, cmd, arg, 0);
	if (result <= 0 && result > -ERRNOS)
		atomic_fetch_add_explicit(&shared->results[kind][-result], 1, memory_order_relaxed);
	else if (kind == VERSION)
		atomic_fetch_add_explicit(&shared->results[kind][0], 1, memory_order_relaxed);
	check(kind, result);
	return result;
}

static long request(enum kind kind, int fd, unsigned long arg)
{
	return request_as(kind, fd, kinds[kind].cmd, arg);
}

static int any_device(uint64_t random)
{
	return DEVICE_FD + (random % 16 ? 0 : (int)(random >> 8 & (DEVICE_FDS - 1)));
}

static uint64_t live_id(uint64_t random)
{
	for (unsigned int i = 0; i < MEMBERS; i++) {
		uint64_t id = atomic_load(&members[(random + i) % MEMBERS]);

		if (id && id != TAKEN)
			return id;
	}
	return atomic_load(&owns[random % ARRAY_SIZE(owns)]);
}

static uint64_t any_id(uint64_t random)
{
	static const uint64_t borders[] = {
		0, 1, 2, 3, 64, 65, 511, 512, 65536, (1 << FIBER_SLOT_BITS) - 1,
		1 << FIBER_SLOT_BITS, (1 << FIBER_SLOT_BITS) + 1, UINT32_MAX, INT64_MAX,
		UINT64_C(1) << 63, UINT64_MAX,
	};
	uint64_t rest = random >> 8;

	switch (random % 20) {
	case 0:
		return atomic_load(&stale[rest % ARRAY_SIZE(stale)]);
	case 1:
		return borders[rest % ARRAY_SIZE(borders)];
	case 2:
		return live_id(rest) ^ UINT64_C(1) << rest % 64;
	case 3:
		return rest & 1 ? rest : 1 + rest % 64;
	case 4 ... 6:
		/* Of threads, alive or not. */
		rest %= ARRAY_SIZE(owns);
		return atomic_load(&owns[rest < atomic_load(&owns_next) ? rest : 0]);
	default:
		return live_id(rest);
	}
}

/* That address, or now and then a bad one. */
static void *any_pointer(uint64_t random, void *good, size_t size)
{
	uintptr_t bad[] = {
		0, 1, PAGE - 1,
		(uintptr_t)pages + PAGE,			/* read-only */
		(uintptr_t)pages + PAGE - size / 2,		/* half of it is */
		(uintptr_t)pages + 2 * PAGE - size / 2,		/* half of it is not there */
		(uintptr_t)pages + 2 * PAGE,
		(uintptr_t)pages + 3 * PAGE - 1,
		UINT64_C(0x7ffffffff000) - size / 2, UINT64_C(0x7ffffffff000),
		UINT64_C(0x800000000000), UINT64_C(0xdead000000000100),
		UINT64_C(0xffff888000000000), UINT64_C(0xffffffff81000000),
		UINT64_C(0xffffffffff600000), UINTPTR_MAX - size / 2, UINTPTR_MAX,
	};

	if (random % 16)
		return good;
	return (void *)bad[(random >> 8) % ARRAY_SIZE(bad)];
}

static bool is_good(const void *pointer, const void *good)
{
	return pointer == good;
}

static void convert(const struct step *step)
{
	struct fiber_convert args = { .flags = step->a >> 8 & 1 };
	void *pointer = any_pointer(step->b, &args, sizeof(args));
	bool refuse = false;
	long result;

	if (step->b >> 16 & 7) {
		/* as it should be */
	} else if (step->b >> 20 & 1) {
		args.flags |= (uint32_t)step->c | 0x10;
		refuse = true;
	} else {
		args.pad = (uint32_t)step->c | 1;
		refuse = true;
	}
	result = request(CONVERT, any_device(step->c), (unsigned long)pointer);
	if (result)
		return;
	if (!is_good(pointer, &args) || refuse)
		fail("CONVERT accepted bad arguments");
	atomic_store(&owns[atomic_fetch_add(&owns_next, 1) % ARRAY_SIZE(owns)], args.id);
}

static void body(void *arg);

static void fill_name(char *name, uint64_t random)
{
	unsigned int length = random % FIBER_NAME_SIZE;

	/* Unterminated now and then. */
	if (!(random >> 8 & 15))
		length = FIBER_NAME_SIZE;
	memset(name, 0, FIBER_NAME_SIZE);
	for (unsigned int i = 0; i < length; i++) {
		name[i] = (char)(random_next(&random) | 1);
		if (random >> 60)
			name[i] = (char)(0x20 + (name[i] & 0x3f));
	}
}

/* Makes one field one that must be refused. */
static void spoil(struct fiber_create *args, uint64_t random)
{
	switch (random % 10) {
	case 0:
		args->flags |= (uint32_t)(random >> 32) | 0x20;
		break;
	case 1:
		args->pad = (uint32_t)(random >> 32) | 1;
		break;
	case 2:
		memset(args->name, 'x', sizeof(args->name));
		break;
	case 3:
		args->entry = 0;
		break;
	case 4:
		args->entry = (random | UINT64_C(1) << 63) >> (random >> 32 & 15);
		break;
	case 5:
		args->stack_size = (random >> 32) % FIBER_STACK_MIN;
		break;
	case 6:
		args->stack_size = UINT64_MAX - (random >> 32);
		break;
	case 7:
		args->stack_start = 0;
		break;
	case 8:
		args->stack_start = random | UINT64_C(1) << 63;
		break;
	case 9:
		args->stack_size = UINT64_C(0x7ffffffff001) - args->stack_start;
		break;
	}
}

static void create(const struct step *step)
{
	/* Any alignment will do. */
	char buffer[sizeof(struct fiber_create) + 8], *good = buffer + (step->a >> 40 & 7);
	struct fiber_create args;
	unsigned int place = step->a % MEMBERS;
	void *pointer = any_pointer(step->b, good, sizeof(args));
	bool refuse = !(step->b >> 16 & 7);
	uint64_t none = 0;
	long result;

	if (!atomic_compare_exchange_strong(&members[place], &none, TAKEN))
		return;
	memset(&args, 0, sizeof(args));
	args.entry = (uintptr_t)body;
	args.arg = place;
	args.stack_start = (uintptr_t)stacks + place * STACK_SIZE;
	/* Any end will do as well. */
	args.stack_size = STACK_SIZE - (step->a >> 44 & 31);
	args.flags = step->a >> 8 & 1;
	fill_name(args.name, step->c);
	if (args.name[FIBER_NAME_SIZE - 1])
		refuse = true;
	else if (refuse)
		spoil(&args, step->c);
	memcpy(good, &args, sizeof(args));
	result = request(CREATE, any_device(step->c), (unsigned long)pointer);
	if (!result) {
		if (!is_good(pointer, good) || refuse)
			fail("CREATE accepted bad arguments");
		memcpy(&args, good, sizeof(args));
	}
	atomic_store(&members[place], result ? 0 : args.id);
}

static void delete(const struct step *step)
{
	uint64_t id = any_id(step->a);
	long result = request(DELETE, any_device(step->c), id);

	if (result && result != -ESRCH)
		return;
	/* It is gone for good: its stack is free. */
	for (unsigned int i = 0; id && i < MEMBERS; i++) {
		uint64_t gone = id;

		atomic_compare_exchange_strong(&members[i], &gone, 0);
	}
	if (!result)
		atomic_store(&stale[atomic_fetch_add(&stale_next, 1) % ARRAY_SIZE(stale)], id);
}

static void set_name(const struct step *step)
{
	struct fiber_name args = { .id = step->a >> 40 & 3 ? any_id(step->a) : 0 };
	void *pointer = any_pointer(step->b, &args, sizeof(args));

	fill_name(args.name, step->c);
	if (!request(SET_NAME, any_device(step->b >> 16), (unsigned long)pointer) &&
	    args.name[FIBER_NAME_SIZE - 1] && is_good(pointer, &args))
		fail("SET_NAME accepted a name without an end");
}

static uint64_t any_index(uint64_t random)
{
	static const uint64_t borders[] = {
		FIBER_FLS_MAX - 1, FIBER_FLS_MAX, 63, 64, UINT32_MAX, UINT64_C(1) << 32,
		UINT64_MAX, INT64_MAX,
	};

	if (random % 8)
		return (random >> 8) % 4;
	return borders[(random >> 8) % ARRAY_SIZE(borders)];
}

static void fls(const struct step *step)
{
	struct fiber_fls args = { any_index(step->a), step->c };
	void *pointer = any_pointer(step->b, &args, sizeof(args));

	if (!request(step->kind, any_device(step->b >> 16), (unsigned long)pointer) &&
	    is_good(pointer, &args) && args.index >= FIBER_FLS_MAX)
		fail("%s accepted the index %llu", kinds[step->kind].name,
		     (unsigned long long)args.index);
}

/* Takes all positions, and gives them back. */
static void fls_fill(const struct step *step)
{
	uint64_t index;
	int taken = 0;

	while (taken <= FIBER_FLS_MAX && !request(FLS_ALLOC, DEVICE_FD, (unsigned long)&index))
		taken++;
	if (taken > FIBER_FLS_MAX)
		fail("FLS_ALLOC gave %d positions", taken);
	if (taken && step->a & 3)
		for (index = 0; index < FIBER_FLS_MAX; index++)
			request(FLS_FREE, DEVICE_FD, index);
}

static void unknown(const struct step *step)
{
	unsigned int cmd = (unsigned int)step->a, known = kinds[step->c % UNKNOWN].cmd;

	switch (step->b % 4) {
	case 0:
		cmd = (cmd & ~0xff00U) | FIBER_IOC_MAGIC << 8;
		break;
	case 1:
		/* Of another size or direction. */
		cmd = known ^ (cmd & 0x3fff0000) ^ (cmd & 1) << 30;
		break;
	case 2:
		cmd = known ^ 1U << cmd % 32;
		break;
	default:
		cmd = (cmd & ~0xff00U) | (FIBER_IOC_MAGIC - 1) << 8;
		break;
	}
	for (int i = 0; i < UNKNOWN; i++)
		if (cmd == kinds[i].cmd)
			cmd ^= 0x40;
	if (!request_as(UNKNOWN, any_device(step->c >> 8), cmd,
			(unsigned long)any_pointer(step->c >> 16, scratch, 128)))
		fail("the request 0x%x exists", cmd);
}

static void perform_request(const struct step *step, enum place place)
{
	uint64_t id;
	void *pointer;

	switch (step->kind) {
	case VERSION:
		request(VERSION, any_device(step->a), step->b);
		break;
	case CONVERT:
		convert(step);
		break;
	case CREATE:
		create(step);
		break;
	case SWITCH:
		if (!request(SWITCH, any_device(step->c), any_id(step->a)) && place == ALTERNATE)
			fail("SWITCH left the alternate stack");
		break;
	case DELETE:
		delete(step);
		break;
	case REVERT:
	case RETIRE:
		/* RETIRE may wait: only where SIGALRM is not blocked. */
		if (place == NORMAL)
			request(step->kind, any_device(step->c), step->a);
		break;
	case SET_NAME:
		set_name(step);
		break;
	case SELF:
	case FLS_ALLOC:
		pointer = any_pointer(step->b, &id, sizeof(id));
		request(step->kind, any_device(step->c), (unsigned long)pointer);
		break;
	case FLS_FREE:
		request(FLS_FREE, any_device(step->c), any_index(step->a));
		break;
	case FLS_SET:
	case FLS_GET:
		fls(step);
		break;
	default:
		unknown(step);
	}
}

/* What surrounds the requests. */

/* Opens it under a number of ours. */
static void open_as(int number, const char *path, int flags)
{
	long fd = CALL(SYS_open, path, flags | O_NONBLOCK, 0, 0);

	if (fd < 0)
		return;
	CALL(SYS_dup2, fd, number, 0, 0);
	CALL(SYS_close, fd, 0, 0, 0);
}

static void proc(const struct step *step)
{
	static const int sizes[] = { 1, 23, 24, 25, 64, 100, 511, 4000, 65535 };
	int pid, held = HELD_FD + (int)(step->b >> 8 & (HELD_FDS - 1));
	size_t size = (size_t)sizes[(step->b >> 16) % ARRAY_SIZE(sizes)];
	uint64_t id = step->b >> 20 & 1 ? any_id(step->c) : 1 + (step->c >> 8) % 64;
	long offset = (long)(step->b >> 24 & 0x7ff);
	char folder[64], path[96];
	void *pointer = any_pointer(step->c, scratch, size);

	if (step->a >> 8 & 1)
		pid = atomic_load(&shared->pids[(step->a >> 16) % (unsigned int)shared->processes]);
	else if (step->a >> 9 & 3)
		pid = (int)CALL(SYS_getpid, 0, 0, 0, 0);
	else
		pid = atomic_load(&children[(step->a >> 16) % ARRAY_SIZE(children)]);
	if (shared->proc_pid != !(step->a >> 24 & 15)) {
		snprintf(folder, sizeof(folder), "/proc/%d/fiber", pid);
		snprintf(path, sizeof(path), "%s/%llu", folder, (unsigned long long)id);
	} else {
		strcpy(folder, "/proc/fiber");
		snprintf(path, sizeof(path), "%s/%d", folder, pid);
	}

	switch (step->a >> 32 & 15) {
	case 0 ... 2:
		open_as(held, folder, O_RDONLY | O_DIRECTORY);
		break;
	case 3 ... 5:
		open_as(held, path, O_RDONLY);
		break;
	case 6:
		open_as(held, path, (int)(step->c & 3));
		CALL(SYS_write, held, scratch, size % 64, 0);
		break;
	case 7:
		CALL(SYS_readlink, step->c & 1 ? path : folder, pointer, size, 0);
		break;
	case 8:
		CALL(SYS_chdir, step->c & 1 ? folder : "/", 0, 0, 0);
		break;
	case 9:
		CALL(SYS_stat, step->c & 1 ? path : folder, scratch, 0, 0);
		break;
	case 10:
		CALL(SYS_lseek, held, step->c % 70 ? offset : (long)step->c, step->c & 1, 0);
		break;
	case 11:
		/* The listing of a whole /proc/PID, where the name comes in. */
		snprintf(path, sizeof(path), "/proc/%d", pid);
		open_as(held, path, O_RDONLY | O_DIRECTORY);
		for (int i = 0; i < 8 && CALL(SYS_getdents64, held, scratch, 1000 + size, 0) > 0; i++)
			;
		break;
	}
	/* Whatever is held: a file, a directory, of a process that may be gone. */
	CALL(SYS_pread64, held, pointer, size, offset);
	CALL(SYS_read, held, pointer, size, 0);
	for (int i = 0; i < 4 && CALL(SYS_getdents64, held, pointer, size, 0) > 0; i++)
		;
	if (step->c >> 60 & 1)
		CALL(SYS_close, held, 0, 0, 0);
}

/* The stack of a member that has no fiber. */
static void remap(const struct step *step)
{
	unsigned int place = step->a % MEMBERS;
	char *stack = stacks + place * STACK_SIZE;
	uint64_t none = 0;

	if (!atomic_compare_exchange_strong(&members[place], &none, TAKEN))
		return;
	if (step->b & 1)
		CALL(SYS_munmap, stack, STACK_SIZE, 0, 0);
	if (mmap(stack, STACK_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != stack)
		fail("cannot map a stack");
	atomic_store(&members[place], 0);
}

/* That of a member that has one: who switches to it crashes. */
static void unmap(const struct step *step)
{
	char *stack = stacks + step->a % MEMBERS * STACK_SIZE;

	if (!deadly)
		return;
	if (step->b & 1)
		CALL(SYS_munmap, stack, STACK_SIZE, 0, 0);
	else
		CALL(SYS_mprotect, stack, STACK_SIZE, PROT_NONE, 0);
}

static bool crashed(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL;
}

static void reap(unsigned int place, bool kill_it)
{
	int pid = atomic_exchange(&children[place], 0), status = 0;

	if (pid <= 0)
		return;
	if (kill_it)
		CALL(SYS_kill, pid, SIGKILL, 0, 0);
	while (CALL(SYS_wait4, pid, &status, __WALL, 0) == -EINTR)
		;
	if (crashed(status) && !deadly)
		fail("a child crashed: status 0x%x", status);
}

__attribute__((noreturn)) static void child_exec(uint64_t seed, bool in_deadly)
{
	char words[4][24];
	char *argv[] = { "fuzz", "--child", words[0], words[1], words[2], words[3], NULL };
	char *none[] = { NULL };
	unsigned long all = ~0UL;

	/* What is pending waits for the new image's handlers. */
	CALL(SYS_rt_sigprocmask, SIG_SETMASK, &all, 0, 8);
	snprintf(words[0], sizeof(words[0]), "%llu", (unsigned long long)seed);
	snprintf(words[1], sizeof(words[1]), "%d", process_number);
	snprintf(words[2], sizeof(words[2]), "%llu", (unsigned long long)round_number);
	snprintf(words[3], sizeof(words[3]), "%d", in_deadly);
	atomic_fetch_add(&shared->execs, 1);
	CALL(SYS_execve, "/proc/self/exe", argv, none, 0);
	fail("cannot execute myself");
}

__attribute__((noreturn)) static void wander(void);

/* In the forked child, on the stack and as the copy of some fiber of the parent's. */
__attribute__((noreturn, noinline)) static void child_run(const struct step *step)
{
	struct timespec time = { 1, 0 };

	alone = true;
	/* The others are of another process; the stack that this runs on is not free. */
	for (unsigned int i = 0; i < MEMBERS; i++)
		if (atomic_load(&members[i]))
			atomic_store(&members[i], TAKEN);
	for (unsigned int i = 0; i < ARRAY_SIZE(children); i++)
		atomic_store(&children[i], 0);
	self.cover = NULL;
	self.random = step->a;
	self.steps = CHILD_STEPS / 4;
	CALL(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
	switch (step->b >> 8 & 7) {
	case 0:
		child_exec(step->a, deadly);
	case 1:
		CALL(SYS_nanosleep, &time, 0, 0, 0);
		end_process(0);
	case 2 ... 3:
		/* With the parent's descriptors. */
		wander();
	default:
		self.steps = CHILD_STEPS;
		open_as(DEVICE_FD, FIBER_DEVICE, O_RDWR);
		wander();
	}
}

static void fork_child(const struct step *step)
{
	unsigned int place = step->c % ARRAY_SIZE(children);
	long pid;

	if (alone)
		return;
	reap(place, step->b & 1);
	atomic_fetch_add(&shared->forks, 1);
	pid = CALL(SYS_fork, 0, 0, 0, 0);
	if (!pid)
		child_run(step);
	/* Whoever put another one there meanwhile loses the place, not the child. */
	pid = atomic_exchange(&children[place], (int)pid);
	if (pid > 0) {
		int status;

		CALL(SYS_kill, pid, SIGKILL, 0, 0);
		while (CALL(SYS_wait4, pid, &status, __WALL, 0) == -EINTR)
			;
	}
}

/* The same memory, another process: a request on the parent's descriptor is refused. */
static void vfork_child(const struct step *step)
{
	unsigned int command = step->a % UNKNOWN;
	unsigned long arg = live_id(step->b);
	volatile long result = -EPERM;
	long pid;

	if (alone || command == VERSION)
		return;
	/* On this stack, which the parent leaves alone until then. */
	pid = CALL(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0);
	if (!pid) {
		result = CALL(SYS_ioctl, DEVICE_FD, kinds[command].cmd, arg, 0);
		end_process(0);
	}
	while (pid > 0 && CALL(SYS_wait4, pid, 0, __WALL, 0) == -EINTR)
		;
	if (result != -EPERM)
		fail("%s gave %ld to a process that only shares memory", kinds[command].name, result);
}

__attribute__((noreturn)) static void thread_exit(void)
{
	if (alone)
		end_process(0);
	atomic_fetch_sub(&living, 1);
	for (;;)
		CALL(SYS_exit, 0, 0, 0, 0);
}

/* While the other threads are in the middle of something. */
static void end_round(void)
{
	switch (ending) {
	case EXIT_GROUP:
		end_process(0);
	case SIGKILLED:
		CALL(SYS_kill, CALL(SYS_getpid, 0, 0, 0, 0), SIGKILL, 0, 0);
		break;
	case EXECVE:
		child_exec(round_number, deadly);
	default:
		break;
	}
}

static void perform(const struct step *step, enum place place)
{
	int number = DEVICE_FD + 1 + (int)(step->a % (DEVICE_FDS - 1));
	unsigned long mask = (1UL << (SIGUSR1 - 1)) | (1UL << (SIGTERM - 1));

	atomic_fetch_add_explicit(&shared->steps[step->kind], 1, memory_order_relaxed);
	if (step->kind < REQUESTS) {
		perform_request(step, place);
		return;
	}
	switch (step->kind) {
	case FLS_FILL:
		fls_fill(step);
		break;
	case OPEN:
		open_as(number, FIBER_DEVICE, O_RDWR);
		break;
	case CLOSE:
		CALL(SYS_close, number, 0, 0, 0);
		break;
	case DUP:
		CALL(SYS_dup2, DEVICE_FD + step->b % DEVICE_FDS, number, 0, 0);
		break;
	case PROC:
		proc(step);
		break;
	case REMAP:
		remap(step);
		break;
	case UNMAP:
		unmap(step);
		break;
	case FORK:
		fork_child(step);
		break;
	case VFORK:
		vfork_child(step);
		break;
	case KILL:
		reap(step->a % ARRAY_SIZE(children), true);
		break;
	case SIGNAL:
		if (!alone)
			CALL(SYS_tgkill, CALL(SYS_getpid, 0, 0, 0, 0),
			     atomic_load(&tids[step->a % ARRAY_SIZE(tids)]),
			     step->b & 1 ? SIGUSR1 : SIGUSR2, 0);
		break;
	case MASK:
		mask &= step->a;
		CALL(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, 8);
		break;
	case VECTORS:
		__asm__ volatile("movq %0, %%xmm0\n\tmovq %0, %%xmm15\n\tfldpi\n\tfstp %%st(0)"
				 : : "r" (step->a) : "xmm0", "xmm15");
		break;
	case AFFINITY:
		mask = step->a & ((1UL << shared->processors) - 1);
		CALL(SYS_sched_setaffinity, 0, sizeof(mask), &mask, 0);
		break;
	case PRCTL:
		if (step->a & 1)
			CALL(SYS_prctl, PR_SET_DUMPABLE, step->a >> 1 & 1, 0, 0);
		else
			CALL(SYS_prctl, PR_SET_NAME, "fuzz\n(thread) x", 0, 0);
		break;
	case YIELD:
		CALL(SYS_sched_yield, 0, 0, 0, 0);
		break;
	default:
		/* In the middle of whatever fiber this is. */
		thread_exit();
	}
}

/* Both under `quiet`, and in functions of their own, so that all they read is one thread's. */

__attribute__((noinline)) static bool take_step(struct step *step)
{
	long left = self.steps--;

	if (self.cover && self.cover[0] > COVER_SIZE / 2)
		cover_merge(self.cover);
	if (left <= 0 || atomic_load(&shared->stop) || atomic_load(&shared->calls) >= shared->goal) {
		if (self.cover)
			cover_merge(self.cover);
		return false;
	}
	*step = step_of_thread(&self.random, !self.begun);
	self.begun = true;
	if (step->kind == EXIT && self.cover)
		cover_merge(self.cover);
	return true;
}

__attribute__((noinline)) static bool is_last_half(void)
{
	return self.number == 0 && self.steps < STEPS / 2 && !alone;
}

__attribute__((noinline)) static void take_handler_step(struct step *step)
{
	*step = step_draw(&self.handler_random);
}

static void wander(void)
{
	for (;;) {
		struct step step;
		bool more, end;

		quiet = 1;
		more = take_step(&step);
		end = is_last_half();
		quiet = 0;
		if (!more)
			thread_exit();
		if (end)
			end_round();
		perform(&step, NORMAL);
	}
}

static void unblock(void)
{
	unsigned long none = 0;

	CALL(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
}

static void body(void *arg)
{
	(void)arg;
	/* It may have been created in a handler. */
	unblock();
	wander();
}

static void on_signal(int number)
{
	struct step step;

	if (quiet || alone)
		return;
	quiet = 1;
	take_handler_step(&step);
	quiet = 0;
	if (step.kind < REQUESTS)
		perform(&step, number == SIGUSR2 ? ALTERNATE : HANDLER);
}

static void *thread_main(void *arg)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM };
	struct itimerspec interval = { 0 };
	stack_t alternate = { .ss_size = ALTERNATE_SIZE };
	int tid = (int)CALL(SYS_gettid, 0, 0, 0, 0);
	timer_t timer;

	self.number = (int)(intptr_t)arg;
	self.random = stream(shared->seed, (unsigned int)process_number, round_number,
			     (unsigned int)self.number);
	self.handler_random = ~self.random;
	self.steps = STEPS;
	atomic_store(&tids[self.number], tid);
	if (shared->kcov)
		cover_start();
	alternate.ss_sp = mmap(NULL, THREAD_BLOCK, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	event._sigev_un._tid = tid;
	interval.it_interval.tv_nsec = interval.it_value.tv_nsec =
		500000 + (long)(mix(self.random) % 8000000);
	if (alternate.ss_sp == MAP_FAILED || sigaltstack(&alternate, NULL) ||
	    timer_create(CLOCK_MONOTONIC, &event, &timer) ||
	    timer_settime(timer, 0, &interval, NULL))
		fail("a thread cannot start: %s", strerror(errno));
	unblock();
	wander();
	return NULL;
}

/* Nothing of it is ever unmapped: another thread may run its frames. Returns whether it runs. */
static bool thread_start(int number)
{
	pthread_attr_t attr;
	pthread_t thread;
	void *block = mmap(NULL, THREAD_BLOCK, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int err;

	if (block == MAP_FAILED)
		fail("no memory for a thread: %s", strerror(errno));
	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, block, THREAD_BLOCK);
	atomic_fetch_add(&living, 1);
	err = pthread_create(&thread, &attr, thread_main, (void *)(intptr_t)number);
	if (!err)
		return true;
	/* The kernel's answer while another thread is on its way through execve(). */
	if (err != EAGAIN || ending != EXECVE)
		fail("cannot start a thread: %s", strerror(err));
	atomic_fetch_sub(&living, 1);
	munmap(block, THREAD_BLOCK);
	return false;
}

static void process_setup(void)
{
	static const int storms[] = { SIGALRM, SIGUSR1, SIGUSR2 };
	struct fiber_create *create_args;

	stacks = mmap(NULL, MEMBERS * STACK_SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pages = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stacks == MAP_FAILED || pages == MAP_FAILED)
		fail("no memory");
	/* All but the output is right. */
	create_args = (void *)(pages + PAGE);
	create_args->entry = (uintptr_t)body;
	create_args->stack_start = (uintptr_t)stacks;
	create_args->stack_size = STACK_SIZE;
	if (mprotect(pages + PAGE, PAGE, PROT_READ) || mprotect(pages + 2 * PAGE, 2 * PAGE, PROT_NONE))
		fail("cannot protect pages");
	for (size_t i = 0; i < ARRAY_SIZE(storms); i++) {
		struct sigaction action = {
			.sa_handler = on_signal,
			.sa_flags = storms[i] == SIGUSR2 ? SA_ONSTACK : 0,
		};

		sigaction(storms[i], &action, NULL);
	}
}

static void device_open(void)
{
	open_as(DEVICE_FD, FIBER_DEVICE, O_RDWR);
	if (fcntl(DEVICE_FD, F_GETFD) < 0)
		fail("cannot open " FIBER_DEVICE "; mend: load the module");
}

__attribute__((noreturn)) static void worker(int process, uint64_t round)
{
	uint64_t random = stream(shared->seed, (unsigned int)process, round, UINT32_MAX);
	struct timespec pause = { 0, 1000000 };
	int started, wanted = 1 + (int)(random_next(&random) % 4 ? shared->threads - 1 : 0);
	sigset_t all;

	process_number = process;
	round_number = round;
	ending = random_next(&random) % ENDINGS;
	deadly = !(random_next(&random) % 4);
	process_setup();
	device_open();
	/* The leader starts threads and is no fiber. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	for (started = 0; started < wanted; started++)
		if (!thread_start(started))
			break;
	if (ending == LEADER_FIRST)
		for (;;)
			CALL(SYS_exit, 0, 0, 0, 0);
	while (atomic_load(&living) || started < wanted) {
		nanosleep(&pause, NULL);
		/* In place of those that ended early. */
		if (atomic_load(&living) < wanted && started < wanted + STARTS_MAX / 4 &&
		    !atomic_load(&shared->stop) && atomic_load(&shared->calls) < shared->goal)
			started += thread_start(started);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(children); i++)
		reap(i, true);
	_exit(0);
}

/* After execve(): a descriptor of the process that this was, then one of its own. */
__attribute__((noreturn)) static void child_role(char **words)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, SHARED_FD, 0);
	if (shared == MAP_FAILED)
		_exit(3);
	alone = true;
	self.random = strtoull(words[0], NULL, 10);
	process_number = atoi(words[1]);
	round_number = strtoull(words[2], NULL, 10);
	deadly = atoi(words[3]);
	process_setup();
	unblock();
	for (int kind = CONVERT; kind < UNKNOWN; kind++)
		if (request(kind, DEVICE_FD, 0) != -EPERM)
			fail("%s is for a descriptor kept over execve()", kinds[kind].name);
	device_open();
	self.steps = CHILD_STEPS;
	wander();
}

/* The supervisor. */

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static bool parameter_is_no(const char *name)
{
	char path[96], value = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/module/fiber/parameters/%s", name);
	file = fopen(path, "r");
	if (file) {
		value = (char)fgetc(file);
		fclose(file);
	}
	return value == 'N';
}

struct watch {
	pid_t pid;
	uint64_t round;
	double since;
};

static unsigned long crashes[65];

/* For the report of a hang: where its threads are. */
static void show_threads(pid_t pid)
{
	char command[160];

	snprintf(command, sizeof(command),
		 "for t in /proc/%d/task/*; do echo $t; cat $t/comm $t/wchan $t/stack; done >&2", pid);
	if (system(command))
		return;
}

static bool is_deadly(int process, uint64_t round)
{
	uint64_t random = stream(shared->seed, (unsigned int)process, round, UINT32_MAX);

	random_next(&random);
	random_next(&random);
	return !(random_next(&random) % 4);
}

static void note(const char *format, int process, uint64_t round, int status)
{
	if (!atomic_exchange(&shared->failed, true))
		snprintf(shared->failure, sizeof(shared->failure), format, process,
			 (unsigned long long)round, (unsigned int)status);
}

static void judge(int process, uint64_t round, int status)
{
	if (!WIFSIGNALED(status)) {
		if (WEXITSTATUS(status))
			note("process %d round %llu: status 0x%x", process, round, status);
		return;
	}
	crashes[WTERMSIG(status) % 65]++;
	if (crashed(status) && !is_deadly(process, round))
		note("process %d round %llu: crashed, status 0x%x", process, round, status);
}

/* Runs workers until there were enough requests, and returns the number of rounds. */
static unsigned long supervise(double limit)
{
	struct watch watches[PROCESSES_MAX] = { 0 };
	struct timespec pause = { 0, 1000000 };
	unsigned long rounds = 0;
	bool ending_now = false;

	/* Children of workers that died come to us, so that none is left. */
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	for (;;) {
		bool enough = atomic_load(&shared->calls) >= shared->goal ||
			      atomic_load(&shared->failed);
		int status;
		pid_t pid;

		if (now() > limit && !ending_now) {
			note("the time is over; mend: fewer --calls or more --seconds", 0, 0, 0);
			enough = true;
		}
		if (enough) {
			ending_now = true;
			atomic_store(&shared->stop, true);
		}
		for (int i = 0; i < shared->processes; i++) {
			struct watch *watch = &watches[i];

			if (!watch->pid && !ending_now) {
				watch->pid = fork();
				if (!watch->pid)
					worker(i, watch->round);
				watch->since = now();
				atomic_store(&shared->pids[i], watch->pid);
				rounds++;
			} else if (watch->pid > 0 && now() - watch->since > ROUND_SECONDS) {
				note("process %d round %llu: stuck for %u s", i, watch->round,
				     ROUND_SECONDS);
				show_threads(watch->pid);
				kill(watch->pid, SIGKILL);
				watch->since = now();
			}
		}
		pid = waitpid(-1, &status, WNOHANG | __WALL);
		if (pid < 0)
			return rounds;
		if (!pid) {
			nanosleep(&pause, NULL);
			continue;
		}
		for (int i = 0; i < shared->processes; i++) {
			if (watches[i].pid != pid)
				continue;
			judge(i, watches[i].round, status);
			atomic_store(&shared->pids[i], 0);
			watches[i].pid = 0;
			watches[i].round++;
		}
	}
}

static void print_summary(unsigned long rounds, double seconds)
{
	const char *separator = "";

	printf("{\"seed\": %llu, \"calls\": %lu, \"seconds\": %.1f, \"rounds\": %lu, "
	       "\"forks\": %lu, \"execs\": %lu, \"commands\": {",
	       (unsigned long long)shared->seed, atomic_load(&shared->calls), seconds, rounds,
	       atomic_load(&shared->forks), atomic_load(&shared->execs));
	for (int kind = 0; kind < REQUESTS; kind++) {
		printf("%s\"%s\": {", kind ? ", " : "", kinds[kind].name);
		separator = "";
		for (int err = 0; err < ERRNOS; err++) {
			unsigned long count = atomic_load(&shared->results[kind][err]);

			if (count) {
				printf("%s\"%s\": %lu", separator, err ? strerrorname_np(err) : "ok",
				       count);
				separator = ", ";
			}
		}
		printf("}");
	}
	printf("}, \"others\": {");
	for (int kind = REQUESTS; kind < KINDS; kind++)
		printf("%s\"%s\": %lu", kind == REQUESTS ? "" : ", ", kinds[kind].name,
		       atomic_load(&shared->steps[kind]));
	printf("}, \"crashes\": {");
	separator = "";
	for (int number = 1; number < 65; number++) {
		if (!crashes[number])
			continue;
		printf("%s\"%d\": %lu", separator, number, crashes[number]);
		separator = ", ";
	}
	printf("}, \"kcov\": %s, \"lost\": %lu, \"failure\": ", shared->kcov ? "true" : "false",
	       atomic_load(&shared->pcs_lost));
	/* Our own words, without quotes. */
	if (atomic_load(&shared->failed))
		printf("\"%s\"}\n", shared->failure);
	else
		printf("null}\n");
}

static void write_pcs(const char *path)
{
	FILE *file = fopen(path, "w");

	for (unsigned int i = 0; file && i < PCS; i++)
		if (shared->pcs[i])
			fprintf(file, "%llx\n", (unsigned long long)shared->pcs[i]);
	if (!file || fclose(file)) {
		fprintf(stderr, "fuzz: cannot write %s: %s\n", path, strerror(errno));
		exit(2);
	}
}

/* The first steps of each thread of the first rounds. */
static void print_plan(void)
{
	for (int process = 0; process < shared->processes; process++)
		for (uint64_t round = 0; round < 2; round++)
			for (int thread = 0; thread < shared->threads; thread++) {
				uint64_t random = stream(shared->seed, (unsigned int)process, round,
							 (unsigned int)thread);

				for (int i = 0; i < 20; i++) {
					struct step step = step_of_thread(&random, !i);

					printf("%d %d %d %s %llx %llx %llx\n", process, (int)round,
					       thread, kinds[step.kind].name,
					       (unsigned long long)step.a, (unsigned long long)step.b,
					       (unsigned long long)step.c);
				}
			}
}

__attribute__((noreturn)) static void usage(void)
{
	fprintf(stderr,
		"usage: fuzz --seed N --calls M [--processes P] [--threads T] [--seconds S]\n"
		"            [--pcs FILE] [--plan]\n"
		"P and T are 1 to 16 (default: 3). --plan prints the first steps and does nothing.\n"
		"--pcs writes the addresses of the module that KCOV saw.\n"
		"status: 0, 1 a failure (named in the last line), 2 wrong use\n");
	exit(2);
}

static unsigned long long number_of(const char *text, unsigned long long least,
				    unsigned long long most)
{
	char *end;
	unsigned long long value = strtoull(text, &end, 0);

	if (!*text || *end || value < least || value > most)
		usage();
	return value;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "calls", required_argument, NULL, 'c' },
		{ "processes", required_argument, NULL, 'p' },
		{ "threads", required_argument, NULL, 't' },
		{ "seconds", required_argument, NULL, 'l' },
		{ "pcs", required_argument, NULL, 'o' },
		{ "plan", no_argument, NULL, 'n' },
		{ 0 },
	};
	const char *pcs = NULL;
	unsigned long rounds;
	unsigned int seconds = 600;
	double start = now();
	bool plan = false;
	int option, fd;

	if (argc == 6 && !strcmp(argv[1], "--child"))
		child_role(argv + 2);
	fd = memfd_create("fuzz", 0);
	if (fd < 0 || ftruncate(fd, sizeof(*shared)) || dup2(fd, SHARED_FD) < 0 || close(fd)) {
		fprintf(stderr, "fuzz: no shared memory: %s\n", strerror(errno));
		return 2;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, SHARED_FD, 0);
	if (shared == MAP_FAILED)
		return 2;
	shared->processes = shared->threads = 3;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			shared->seed = number_of(optarg, 0, UINT64_MAX);
			break;
		case 'c':
			shared->goal = number_of(optarg, 1, UINT32_MAX);
			break;
		case 'p':
			shared->processes = (int)number_of(optarg, 1, PROCESSES_MAX);
			break;
		case 't':
			shared->threads = (int)number_of(optarg, 1, THREADS_MAX);
			break;
		case 'l':
			seconds = (unsigned int)number_of(optarg, 1, 1000000);
			break;
		case 'o':
			pcs = optarg;
			break;
		case 'n':
			plan = true;
			break;
		default:
			usage();
		}
	}
	if (optind != argc || (!plan && !shared->goal))
		usage();
	if (plan) {
		print_plan();
		return 0;
	}
	if (access(FIBER_DEVICE, R_OK | W_OK)) {
		fprintf(stderr, "fuzz: no " FIBER_DEVICE "; mend: load the module, or run this in "
				"`kfiber vm run`\n");
		return 2;
	}
	shared->processors = (int)sysconf(_SC_NPROCESSORS_ONLN);
	shared->proc_pid = !parameter_is_no("proc_pid");
	shared->kcov = !access("/sys/kernel/debug/kcov", R_OK | W_OK);
	rounds = supervise(start + seconds);
	if (pcs)
		write_pcs(pcs);
	print_summary(rounds, now() - start);
	return atomic_load(&shared->failed) ? 1 : 0;
}
