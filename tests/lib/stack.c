/* SPDX-License-Identifier: MIT */
/* Stacks: size, guard gap, limits. */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static fiber_id_t home, other;
static size_t wanted;

/* Touches nearly all that was promised; a kilobyte is for the frames of this and what it calls. */
static void uses_it_all(void *arg)
{
	volatile char *bottom = (volatile char *)__builtin_frame_address(0) - (wanted - 1024);
	volatile char *byte;

	(void)arg;
	for (byte = __builtin_frame_address(0); byte > bottom + 4096; byte -= 4096)
		byte[-4096] = 1;
	*bottom = 1;
	CHECK_OK(fiber_switch(home));
}

static void try_size(size_t size, size_t promised)
{
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = size };

	wanted = promised;
	CHECK_OK(fiber_create(&other, uses_it_all, NULL, &attr));
	CHECK(stat_of(other).stack_size >= promised);
	CHECK_OK(fiber_switch(other));
	CHECK_OK(fiber_delete(other));
}

TEST(sizes_are_honoured)
{
	int i;

	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < 20; i++) {	/* as many colours of the stack's top, and the pool */
		try_size(0, 1 << 20);
		try_size(16 << 10, 16 << 10);
		try_size(100001, 100001);
		try_size(8 << 20, 8 << 20);
	}
}

static char *lowest;	/* the stack's first byte */
static char alternate[65536];

static void on_segv(int number, siginfo_t *info, void *context)
{
	char *address = info->si_addr;

	(void)number;
	(void)context;
	_exit(address < lowest && address >= lowest - 2 * 4096 ? 42 : 43);
}

static __attribute__((noinline)) int recurses(int depth)
{
	volatile char frame[512];

	frame[0] = (char)depth;
	return depth < 0 ? 0 : recurses(depth + 1) + frame[0];
}

static void overflows(void *arg)
{
	(void)arg;
	recurses(0);
}

static void crashes(void)
{
	struct sigaction action = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof(alternate) };
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = 64 << 10 };
	fiber_id_t below;

	CHECK_OK(fiber_convert(0, &home));
	sigaltstack(&stack, NULL);
	sigaction(SIGSEGV, &action, NULL);
	CHECK_OK(fiber_create(&below, overflows, NULL, &attr));
	CHECK_OK(fiber_create(&other, overflows, NULL, &attr));
	CHECK_OK(fiber_create(&below, overflows, NULL, &attr));
	lowest = (char *)stat_of(other).stack_start;
	fiber_switch(other);
}

TEST(an_overflow_hits_the_guard_gap)
{
	int status = in_child(crashes);

	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

static void nothing(void *arg)
{
	(void)arg;
}

/* The line that a child writes about its death. */
static void check_report(void (*run)(void), int number, const char *expected)
{
	char line[256] = "";
	int ends[2], status;
	ssize_t length;
	pid_t child;

	CHECK(pipe(ends) == 0);
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		dup2(ends[1], STDERR_FILENO);
		run();
		_exit(0);
	}
	close(ends[1]);
	length = read(ends[0], line, sizeof(line) - 1);
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(length >= 0 && !strcmp(line, expected));
	CHECK(number ? WIFSIGNALED(status) && WTERMSIG(status) == number :
	      WIFEXITED(status) && WEXITSTATUS(status) == 44);
}

static void overflow_named(const char *name)
{
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = 64 << 10, .name = name };

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&other, overflows, NULL, &attr));
	fiber_switch(other);
}

static void reported(void)
{
	CHECK_OK(fiber_report_overflow());
	overflow_named("deep");
}

static void reported_without_name(void)
{
	CHECK_OK(fiber_report_overflow());
	overflow_named(NULL);
}

static void unreported(void)
{
	overflow_named("deep");
}

static void *overflows_in_a_thread(void *arg)
{
	overflow_named("deep");
	return arg;
}

static void reported_in_a_thread(void)
{
	CHECK_OK(fiber_report_overflow());
	thread_join(thread_start(overflows_in_a_thread, NULL));
}

static void *takes_over(void *arg)
{
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_OK(fiber_switch(other));
	return arg;
}

static void waits_then_overflows(void *arg)
{
	CHECK_OK(fiber_switch(home));
	overflows(arg);
}

static void reported_after_a_migration(void)
{
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = 64 << 10, .name = "deep" };

	CHECK_OK(fiber_report_overflow());
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&other, waits_then_overflows, NULL, &attr));
	CHECK_OK(fiber_switch(other));
	thread_join(thread_start(takes_over, NULL));
}

static void exits(int number)
{
	(void)number;
	_exit(44);
}

/* The last of its frame's bytes is as far below the stack as the gap reaches, but for a page. */
static void steps_over(void *gap)
{
	volatile char *here = __builtin_frame_address(0);
	uintptr_t start = stat_of(other).stack_start;

	here[(intptr_t)start - (intptr_t)here - (intptr_t)gap + 4096] = 1;
}

static void overflows_by(size_t gap, size_t asked)
{
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = 64 << 10, .name = "deep", .guard_size = asked };
	fiber_id_t below;

	CHECK_OK(fiber_report_overflow());
	CHECK_OK(fiber_convert(0, &home));
	/* The first one has another number, and all have a neighbour below or above. */
	CHECK_OK(fiber_create(&other, steps_over, (void *)gap, &attr));
	CHECK_OK(fiber_create(&below, steps_over, (void *)gap, &attr));
	CHECK_OK(fiber_create(&below, steps_over, (void *)gap, &attr));
	fiber_switch(other);
}

static void reported_across_the_gap(void)
{
	overflows_by(64 << 10, 0);
}

static void reported_across_a_large_gap(void)
{
	overflows_by(1 << 20, (1 << 20) - 1);
}

static void reported_before_another_handler(void)
{
	CHECK(signal(SIGSEGV, exits) != SIG_ERR);
	reported();
}

/* Not a stack's end: nobody is blamed. */
static void no_overflow(void)
{
	CHECK_OK(fiber_report_overflow());
	CHECK_OK(fiber_convert(0, &home));
	*(volatile char *)mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) = 1;
}

static void *reports_only(void *given)
{
	stack_t stack;

	CHECK_OK(fiber_report_overflow());
	CHECK(!sigaltstack(NULL, &stack) && !(stack.ss_flags & SS_DISABLE));
	*(void **)given = stack.ss_sp;
	return NULL;
}

/*
 * An alternate stack that was given back is no memory any more (ENOMEM), or its place is used again. A
 * sanitizer may map something else there at once, so one thread proves nothing; of those whose
 * stacks are kept, no two have the same one.
 */
TEST(a_thread_that_is_no_fiber_gives_its_alternate_stack_back)
{
	void *given[50];
	int i, j;

	for (i = 0; i < 50; i++) {
		given[i] = NULL;
		thread_join(thread_start(reports_only, &given[i]));
		CHECK(given[i]);
		if (msync(given[i], 4096, MS_ASYNC) == -1 && errno == ENOMEM)
			return;
		for (j = 0; j < i; j++)
			if (given[j] == given[i])
				return;
	}
	CHECK(!"50 threads kept their alternate stacks");
}

TEST(an_overflow_is_reported)
{
	static const char line[] = "libfiber: fiber 2 (deep) overflowed its stack of 65536 bytes; "
				   "create it with a larger stack_size\n";

	check_report(reported, SIGSEGV, line);
	check_report(reported_in_a_thread, SIGSEGV, line);
	check_report(reported_after_a_migration, SIGSEGV, line);
	check_report(reported_before_another_handler, 0, line);
	check_report(reported_across_the_gap, SIGSEGV, line);
	check_report(reported_across_a_large_gap, SIGSEGV, line);
	check_report(unreported, SIGSEGV, "");
	check_report(no_overflow, SIGSEGV, "");
	check_report(reported_without_name, SIGSEGV,
		     "libfiber: fiber 2 overflowed its stack of 65536 bytes; "
		     "create it with a larger stack_size\n");
}

/* Whether guard pages are no mappings of their own, as from Linux 6.13 on. */
static bool guards_are_free(void)
{
	char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool yes = !madvise(page, 4096, 102 /* MADV_GUARD_INSTALL */);

	munmap(page, 4096);
	return yes;
}

/* A number of /proc/self/FILE behind a key. */
static unsigned long proc_number(const char *path, const char *key)
{
	unsigned long number = 0;
	char line[256];
	FILE *file = fopen(path, "re");

	CHECK(file);
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, key, strlen(key)))
			number = strtoul(line + strlen(key), NULL, 10);
	fclose(file);
	return number;
}

static unsigned long resident(void)
{
	return 1024 * proc_number("/proc/self/smaps_rollup", "Rss:");
}

/* Without the pages of files, such as the library's code when it runs first. */
static unsigned long anonymous(void)
{
	return 1024 * proc_number("/proc/self/smaps_rollup", "Anonymous:");
}

static void turns_back(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_OK(fiber_switch(home));
}

#define MANY 100000

TEST(a_hundred_thousand_fibers_at_the_default_limits)
{
	static fiber_id_t ids[MANY];
	unsigned long before, created, started;
	int i;

	if (!guards_are_free())
		check_skip("guard pages are mappings here, of which there are too few");
	not_on("kernel", "max_fibers is 65536");
	not_on("mapped", "max_fibers is 65536");
	memset(ids, 1, sizeof(ids));
	CHECK_OK(fiber_convert(0, &home));
	before = anonymous();
	for (i = 0; i < MANY; i++)
		CHECK_OK(fiber_create(&ids[i], turns_back, NULL, NULL));
	created = anonymous();
	/* Control words and observations: no page of a stack. */
	CHECK(created - before < MANY * 257UL);
	for (i = 0; i < MANY; i++)
		CHECK_OK(fiber_switch(ids[i]));
	started = anonymous();
	CHECK(started - created < MANY * 4160UL);
	for (i = 0; i < MANY; i++)
		CHECK_OK(fiber_delete(ids[i]));
	/* What is kept for the next ones is little. */
	CHECK(anonymous() < before + MANY * 257UL + (2 << 20));
	for (i = 0; i < MANY; i++)
		CHECK_OK(fiber_create(&ids[i], turns_back, NULL, NULL));
	CHECK(anonymous() < before + MANY * 257UL + (3 << 20));
}

/* Bytes of this process's page tables. */
static unsigned long page_tables(void)
{
	return 1024 * proc_number("/proc/self/status", "VmPTE:");
}

/* Half of the guards would need a page of their own if they lay anywhere. */
TEST(a_large_guard_shares_its_page_of_the_page_table)
{
	enum { COUNT = 2000 };
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = 8 << 20, .guard_size = 1 << 20 };
	static fiber_id_t ids[COUNT];
	unsigned long before;
	int i;

	if (!guards_are_free())
		check_skip("guard pages are mappings here, which need no page table");
	CHECK_OK(fiber_convert(0, &home));
	before = page_tables();
	for (i = 0; i < COUNT; i++) {
		CHECK_OK(fiber_create(&ids[i], turns_back, NULL, &attr));
		CHECK_OK(fiber_switch(ids[i]));
	}
	CHECK(page_tables() - before < COUNT * 4500UL);
	for (i = 0; i < COUNT; i++)
		CHECK_OK(fiber_delete(ids[i]));
}

/* As many as there are slots; not one has a page of its stack. */
TEST(a_million_fibers)
{
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = 16 << 10 };
	fiber_id_t id = POISON;
	int made = 1;

	if (!guards_are_free())
		check_skip("guard pages are mappings here, of which there are too few");
	not_on("kernel", "max_fibers is 65536");
	not_on("mapped", "max_fibers is 65536");
	CHECK_OK(fiber_convert(0, &home));
	for (; made < (1 << 20) - 1; made++)
		CHECK_OK(fiber_create(&id, turns_back, NULL, &attr));
	id = POISON;
	CHECK_ERR(fiber_create(&id, turns_back, NULL, &attr), EAGAIN);
	CHECK(id == POISON);
	CHECK_OK(fiber_switch(1000000));
	CHECK_OK(fiber_delete(1000000));
	CHECK_OK(fiber_create(&id, turns_back, NULL, &attr));
	CHECK(id == 1000000 + (1 << 20));
}

/* Each of the 64 lines of a page is as often the top's, at one distance after the other. */
TEST(tops_go_through_the_cache)
{
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = 32 << 10 };
	int seen[64] = { 0 }, i, colours = 0;
	struct fiber_stat stat = FIBER_STAT_INIT;
	fiber_id_t id;

	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < 128; i++) {
		CHECK_OK(fiber_create(&id, turns_back, NULL, &attr));
		stat = stat_of(id);
		colours += !seen[(stat.stack_start + stat.stack_size) / 64 % 64]++;
	}
	/* Most of the cache, evenly; never so low in a page that small frames need another one. */
	CHECK(colours == 40);
	for (i = 0; i < 64; i++)
		CHECK(seen[i] <= 4 && (!seen[i] || i >= 24));
}

static void reads_above_its_frame(void *unused)
{
	volatile uintptr_t *frame = __builtin_frame_address(0);

	(void)unused;
	/* Above the saved register and the return address: where a seventh argument would be. */
	(void)frame[2];
	CHECK_OK(fiber_switch(home));
}

/* syscall() reads its sixth argument there. The first stack of each size ends its mapping. */
TEST(the_words_above_the_first_frame_are_readable)
{
	struct fiber_attr attr = { .size = sizeof(attr) };
	size_t pages;

	CHECK_OK(fiber_convert(0, &home));
	for (pages = 4; pages < 64; pages += 5) {
		attr.stack_size = pages << 12;
		CHECK_OK(fiber_create(&other, reads_above_its_frame, NULL, &attr));
		CHECK_OK(fiber_switch(other));
		CHECK_OK(fiber_delete(other));
	}
}

static bool readable(const char *address)
{
	char byte;
	struct iovec here = { &byte, 1 }, there = { (void *)(uintptr_t)address, 1 };

	return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == 1;
}

/* The whole gap below a stack of the kind is one that nobody can touch. */
static void check_gap(size_t guard_size)
{
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = 32 << 10, .guard_size = guard_size };
	size_t gap = guard_size ? (guard_size + 4095) & -4096UL : 64 << 10, at;
	fiber_id_t ids[5];
	int i;

	for (i = 0; i < 5; i++) {
		char *start;

		CHECK_OK(fiber_create(&ids[i], turns_back, NULL, &attr));
		start = (char *)stat_of(ids[i]).stack_start;
		CHECK(readable(start));
		start = (char *)(((uintptr_t)start - 1) & -4096UL);
		CHECK(readable(start));
		for (at = 1; at <= gap; at += 4095)
			CHECK(!readable(start - at));
		CHECK(!readable(start - gap));
		CHECK_OK(fiber_switch(ids[i]));
	}
	for (i = 0; i < 5; i++)
		CHECK_OK(fiber_delete(ids[i]));
}

static void check_gaps(void)
{
	check_gap(0);
	check_gap(1);
	check_gap(4097);
	check_gap(1 << 20);
}

TEST(the_gap_has_the_size_that_was_asked_for)
{
	struct fiber_attr attr = { .size = sizeof(attr), .guard_size = (255 << 20) + 1 };

	CHECK_OK(fiber_convert(0, &home));
	check_gaps();
	CHECK_ERR(fiber_create(&other, turns_back, NULL, &attr), EINVAL);
	attr.guard_size = SIZE_MAX;
	CHECK_ERR(fiber_create(&other, turns_back, NULL, &attr), EINVAL);
}

/* From now on advice to make guards does nothing and gives that result. */
static void refuse_guards(int result)
{
	const unsigned int advice = offsetof(struct seccomp_data, args[2]);
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ, SYS_process_madvise, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ, SYS_madvise, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, advice),
		BPF_JUMP(BPF_JMP | BPF_JEQ, 102 /* MADV_GUARD_INSTALL */, 1, 0),
		BPF_STMT(BPF_RET, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET, SECCOMP_RET_ERRNO | (unsigned int)result),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		check_skip("this kernel has no filters of system calls");
}

static int result_of_advice;

static void makes_guards_without_advice(void)
{
	refuse_guards(result_of_advice);
	CHECK_OK(fiber_convert(0, &home));
	check_gaps();
}

/* 0: an emulator that does not know the advice. */
TEST(guards_are_made_although_advice_is_refused)
{
	static const int results[] = { 0, EPERM, EINVAL, ENOSYS, EACCES };
	size_t i;

	for (i = 0; i < sizeof(results) / sizeof(results[0]); i++) {
		int status;

		result_of_advice = results[i];
		status = in_child(makes_guards_without_advice);
		CHECK(WIFEXITED(status) && (!WEXITSTATUS(status) || WEXITSTATUS(status) == 77));
	}
}

/* Locked memory may have no guards of the kernel's, and is locked for a while only, here. */
TEST(locked_memory_has_guards)
{
	struct rlimit limit;

	CHECK(!getrlimit(RLIMIT_MEMLOCK, &limit));
	if (limit.rlim_cur < (64 << 20) && geteuid())
		check_skip("RLIMIT_MEMLOCK is too low");
	CHECK_OK(fiber_convert(0, &home));
	CHECK(!mlockall(MCL_FUTURE | MCL_ONFAULT));
	check_gaps();
	CHECK(!munlockall());
	check_gaps();
}

static void uses_all(void *size)
{
	volatile char *top = __builtin_frame_address(0);
	size_t i;

	for (i = 8192; i < (size_t)size - 8192; i += 4096)
		top[-(ptrdiff_t)i] = 1;
	turns_back(NULL);
}

/* Kept for the next fibers: some megabytes, not some stacks. */
TEST(large_stacks_return_their_memory)
{
	enum { COUNT = 12, SIZE = 16 << 20 };
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = SIZE };
	unsigned long before;
	fiber_id_t ids[COUNT];
	int i;

	CHECK_OK(fiber_convert(0, &home));
	before = resident();
	for (i = 0; i < COUNT; i++) {
		CHECK_OK(fiber_create(&ids[i], uses_all, (void *)SIZE, &attr));
		CHECK_OK(fiber_switch(ids[i]));
	}
	CHECK(resident() > before + (COUNT - 1) * (unsigned long)SIZE);
	for (i = 0; i < COUNT; i++)
		CHECK_OK(fiber_delete(ids[i]));
	CHECK(resident() < before + (66 << 20));
	/* And each thread keeps less than that. */
	attr.stack_size = 2 << 20;
	for (i = 0; i < COUNT; i++) {
		CHECK_OK(fiber_create(&ids[i], uses_all, (void *)(2 << 20), &attr));
		CHECK_OK(fiber_switch(ids[i]));
	}
	for (i = 0; i < COUNT; i++)
		CHECK_OK(fiber_delete(ids[i]));
	CHECK(resident() < before + (82 << 20));
}

static unsigned long mapped_bytes(void)
{
	return 1024 * proc_number("/proc/self/status", "VmSize:");
}

#define FIRST_FIBER	((1 << 20) + (64 << 10) + (2 << 20))	/* stack, guard gap, and the rest */

static void lives(void)
{
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&other, turns_back, NULL, NULL));
	CHECK_OK(fiber_switch(other));
}

TEST(the_first_fiber_maps_little)
{
	unsigned long before = mapped_bytes();

	not_on("mapped", "the module's memory is shown with it");
	lives();
	CHECK(mapped_bytes() - before <= FIRST_FIBER);
}

TEST(locked_memory_of_one_fiber_is_little)
{
	struct rlimit limit;
	unsigned long before;

	CHECK(!getrlimit(RLIMIT_MEMLOCK, &limit));
	if (limit.rlim_cur < (64 << 20) && geteuid())
		check_skip("RLIMIT_MEMLOCK is too low");
	CHECK(!mlockall(MCL_CURRENT | MCL_FUTURE));
	before = resident();
	lives();
	CHECK(resident() - before <= FIRST_FIBER);
}

/* Address space is all that a limited program can run out of; more fibers fit as long as it lasts. */
TEST(limited_address_space_is_used)
{
	struct rlimit limit = { .rlim_max = RLIM_INFINITY };
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = 64 << 10 };
	int made = 0, err;

	limit.rlim_cur = mapped_bytes() + (64 << 20);
	CHECK(!setrlimit(RLIMIT_AS, &limit));
	lives();
	do
		err = fiber_create(&other, turns_back, NULL, &attr);
	while (!err && ++made);
	CHECK_RESULT(err, ENOMEM);
	CHECK(made > 350);
	CHECK_OK(fiber_delete(3));
	CHECK_OK(fiber_create(&other, turns_back, NULL, &attr));
}

#define OVERCOMMIT "/proc/sys/vm/overcommit_memory"

static bool set_overcommit(const char *mode)
{
	int file = open(OVERCOMMIT, O_WRONLY | O_CLOEXEC);
	bool done = file >= 0 && write(file, mode, 1) == 1;

	close(file);
	return done;
}

static void lives_in_little(void)
{
	struct rlimit limit = { .rlim_max = RLIM_INFINITY };

	limit.rlim_cur = mapped_bytes() + (64 << 20);
	CHECK(!setrlimit(RLIMIT_AS, &limit));
	lives();
}

/* Memory that is only reserved counts as used then. */
TEST(nothing_is_overcommitted)
{
	char before = '0';
	int file, status;

	if (!getenv("KFIBER_GUEST"))
		check_skip("it would change what other programs of this machine may do");
	file = open(OVERCOMMIT, O_RDONLY | O_CLOEXEC);
	CHECK(read(file, &before, 1) == 1);
	close(file);
	if (!set_overcommit("2"))
		check_skip("only root may change vm.overcommit_memory");
	status = in_child(lives_in_little);
	CHECK(set_overcommit(&before));
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
}

/* No id of any value touches memory that is not there. */
TEST(ids_beyond_all_fibers_do_not_exist)
{
	struct fiber_stat stat = FIBER_STAT_INIT;
	uint64_t slot;

	lives();
	for (slot = 3; slot < 1 << 20; slot += slot < 2000 ? 1 : 997) {
		CHECK_ERR(fiber_switch(slot), ESRCH);
		CHECK_ERR(fiber_switch(slot | UINT64_C(1) << 63), ESRCH);
		CHECK_ERR(fiber_delete(slot), ESRCH);
		CHECK_ERR(fiber_get_stat(slot, &stat), ESRCH);
		CHECK_ERR(fiber_set_name(slot, "none"), ESRCH);
		fiber_prefetch(slot);
	}
	CHECK_ERR(fiber_switch(UINT64_MAX), ESRCH);
}

/* The tables grow behind themselves, whatever else the program maps meanwhile. */
TEST(tables_grow_among_other_mappings)
{
	enum { COUNT = 5000 };
	static fiber_id_t ids[COUNT];
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = 16 << 10, .guard_size = 4096 };
	int i;

	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < COUNT; i++) {
		CHECK_OK(fiber_create(&ids[i], turns_back, NULL, &attr));
		if (i % 10 == 0)
			CHECK(mmap(NULL, 1 << 20, i % 20 ? PROT_READ : PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) !=
			      MAP_FAILED);
	}
	for (i = 0; i < COUNT; i++)
		CHECK_OK(fiber_switch(ids[i]));
}

TEST(address_space_is_returned_after_a_peak)
{
	enum { COUNT = 3000 };
	static fiber_id_t ids[COUNT];
	unsigned long before;
	int i;

	CHECK_OK(fiber_convert(0, &home));
	before = mapped_bytes();
	for (i = 0; i < COUNT; i++)
		CHECK_OK(fiber_create(&ids[i], turns_back, NULL, NULL));
	CHECK(mapped_bytes() > before + COUNT * (1UL << 20));
	for (i = 0; i < COUNT; i++)
		CHECK_OK(fiber_delete(ids[i * 7 % COUNT]));
	/* A slab of each that stacks wait in, for the thread and for all, and one that is empty. */
	CHECK(mapped_bytes() < before + COUNT / 2 * (1UL << 20));
}

extern __attribute__((weak)) void *__asan_region_is_poisoned(void *start, size_t size);

static void leaves_frames(void *arg)
{
	char buffer[200];

	memset(buffer, 1, sizeof(buffer));
	__asm__ volatile("" : : "r"(buffer) : "memory");
	turns_back(arg);
}

/* For AddressSanitizer: frames that nobody returned from have zones that nobody may touch. */
TEST(a_stack_is_as_new_for_the_next_fiber)
{
	struct fiber_stat stat = FIBER_STAT_INIT;
	fiber_id_t id;
	char *start;

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&id, leaves_frames, NULL, NULL));
	CHECK_OK(fiber_switch(id));
	start = (char *)stat_of(id).stack_start;
	CHECK_OK(fiber_delete(id));
	CHECK_OK(fiber_create(&id, turns_back, NULL, NULL));
	stat = stat_of(id);
	CHECK((char *)stat.stack_start == start);
	if (__asan_region_is_poisoned)
		CHECK(!__asan_region_is_poisoned(start, stat.stack_size));
}

/* Guards are made for several stacks at once, and memory is given back likewise. */
TEST(guards_stay_where_memory_is_given_back)
{
	enum { COUNT = 200 };
	static fiber_id_t ids[COUNT];
	int round, i;

	CHECK_OK(fiber_convert(0, &home));
	for (round = 0; round < 3; round++) {
		for (i = 0; i < COUNT; i++) {
			uintptr_t start;

			CHECK_OK(fiber_create(&ids[i], turns_back, NULL, NULL));
			CHECK_OK(fiber_switch(ids[i]));
			start = stat_of(ids[i]).stack_start;
			CHECK(readable((char *)start));
			CHECK(!readable((char *)((start - 1) & -4096UL) - 4096));
		}
		/* Every other one first, so that neighbours live while one's memory goes. */
		for (i = 0; i < COUNT; i++)
			CHECK_OK(fiber_delete(ids[i * 2 % COUNT + (i >= COUNT / 2)]));
	}
}

TEST(no_address_space_is_enomem)
{
	struct rlimit limit = { .rlim_cur = 1 << 30, .rlim_max = RLIM_INFINITY };
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = (size_t)1 << 32 };

	CHECK_OK(fiber_convert(0, NULL));
	CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
	other = POISON;
	CHECK_ERR(fiber_create(&other, nothing, NULL, &attr), ENOMEM);
	CHECK(other == POISON);
	CHECK_OK(fiber_create(&other, nothing, NULL, NULL));
	CHECK(other == 2);
}

static int allocated, freed;
static void *memory;
static size_t memory_size;

static void *allocates(size_t size, void *data)
{
	CHECK(data == &allocated);
	allocated++;
	memory_size = size;
	memory = malloc(size);
	return memory;
}

static void *allocates_nothing(size_t size, void *data)
{
	(void)size;
	(void)data;
	return NULL;
}

static void frees(void *stack, size_t size, void *data)
{
	CHECK(data == &allocated && stack == memory && size == memory_size);
	freed++;
	/* Neither the lock is held nor is the thread busy. */
	CHECK_OK(fiber_create(&other, turns_back, NULL, NULL));
	CHECK_OK(fiber_switch(other));
	CHECK_OK(fiber_delete(other));
	memset(stack, 0x55, size);
}

/* The fiber runs in that memory, wherever it begins, and has nearly all of it. */
static void check_own(struct fiber_attr *attr, size_t promised)
{
	struct fiber_stat stat = FIBER_STAT_INIT;
	fiber_id_t id;

	wanted = promised;
	CHECK_OK(fiber_create(&id, uses_it_all, NULL, attr));
	stat = stat_of(id);
	CHECK(stat.stack_size >= promised);
	CHECK(stat.stack_start >= (uintptr_t)memory);
	CHECK(stat.stack_start + stat.stack_size <= (uintptr_t)memory + memory_size);
	CHECK_OK(fiber_switch(id));
	CHECK_OK(fiber_delete(id));
}

TEST(a_stack_is_the_programs_own_memory)
{
	static char block[100 << 10] __attribute__((aligned(4096)));
	struct fiber_attr attr = { .size = sizeof(attr), .stack_data = &allocated };
	size_t shift;

	CHECK_OK(fiber_convert(0, &home));
	for (shift = 0; shift < 200; shift += 33) {
		memory = block + shift;
		memory_size = 64 << 10;
		attr.stack = memory;
		attr.stack_size = memory_size;
		check_own(&attr, memory_size - 4096);
		/* What lies around it stays as it is. */
		CHECK(!block[shift + memory_size] && (!shift || !block[shift - 1]));
	}
	memory = block;
	attr.stack = block;
	check_own(&attr, 64 << 10);
	CHECK(!freed);
	attr.stack_free = frees;
	check_own(&attr, (64 << 10) - 4096);
	CHECK(freed == 1);
	attr.stack_size = 16 << 10;
	other = POISON;
	CHECK_ERR(fiber_create(&other, nothing, NULL, &attr), EINVAL);
	attr.stack_free = NULL;
	attr.stack_size = (16 << 10) - 1;
	CHECK_ERR(fiber_create(&other, nothing, NULL, &attr), EINVAL);
	CHECK(other == POISON && freed == 1);
}

TEST(a_stack_is_allocated_by_the_program)
{
	struct fiber_attr attr = {
		.size = sizeof(attr),
		.stack_alloc = allocates, .stack_free = frees, .stack_data = &allocated,
	};
	int i;

	CHECK_OK(fiber_convert(0, &home));
	for (i = 1; i < 100; i++) {
		attr.stack_size = (16 << 10) + (size_t)i * 1000;
		memory_size = SIZE_MAX;
		memory = NULL;
		wanted = attr.stack_size;
		CHECK_OK(fiber_create(&other, uses_it_all, NULL, &attr));
		CHECK(stat_of(other).stack_size >= wanted);
		CHECK(stat_of(other).stack_start >= (uintptr_t)memory);
		CHECK(stat_of(other).stack_start + stat_of(other).stack_size <=
		      (uintptr_t)memory + memory_size);
		CHECK_OK(fiber_switch(other));
		CHECK(allocated == i && freed == i - 1);
		CHECK_OK(fiber_delete(other));
		CHECK(freed == i);
		free(memory);
	}
	attr.stack_alloc = allocates_nothing;
	other = POISON;
	CHECK_ERR(fiber_create(&other, nothing, NULL, &attr), ENOMEM);
	attr.stack = &attr;
	CHECK_ERR(fiber_create(&other, nothing, NULL, &attr), EINVAL);
	attr.stack = NULL;
	attr.stack_alloc = NULL;
	CHECK_ERR(fiber_create(&other, nothing, NULL, &attr), EINVAL);
	CHECK(other == POISON && freed == i - 1);
}

static char one_block[32 << 10];

static void *gives_the_block(size_t size, void *data)
{
	(void)data;
	CHECK(size <= sizeof(one_block));
	allocated++;
	return one_block;
}

static void takes_the_block(void *stack, size_t size, void *data)
{
	(void)size;
	(void)data;
	CHECK(stack == one_block);
	freed++;
}

/* The fibers are never run. Sooner or later there is no room for one more control block. */
TEST(a_refused_creation_returns_what_it_allocated)
{
	struct rlimit limit = { .rlim_max = RLIM_INFINITY };
	struct fiber_attr attr = {
		.size = sizeof(attr), .stack_size = 16 << 10,
		.stack_alloc = gives_the_block, .stack_free = takes_the_block,
	};
	int made = 0, err;

	CHECK_OK(fiber_convert(0, &home));
	limit.rlim_cur = mapped_bytes();
	CHECK(!setrlimit(RLIMIT_AS, &limit));
	do
		err = fiber_create(&other, nothing, NULL, &attr);
	while (!err && ++made);
	CHECK_RESULT(err, ENOMEM);
	CHECK(allocated == made + 1 && freed == 1);
}

static void uses(void *bytes)
{
	volatile char *top = __builtin_frame_address(0);
	size_t i;

	for (i = 0; i < (size_t)bytes; i += 4096)
		top[-(ptrdiff_t)i] = 1;
	turns_back(NULL);
}

/* A size that no other fiber has had, so that nothing of it was touched. */
TEST(the_used_part_of_a_stack_is_known)
{
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = (3 << 20) + 4096 };
	size_t deep = 1 << 20, used = POISON;
	fiber_id_t id;

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&id, uses, (void *)deep, &attr));
	CHECK_OK(fiber_stack_used(id, &used));
	/* Engine `kernel` has put the address that the function returns to there. */
	CHECK(used <= 4096);
	CHECK_OK(fiber_switch(id));
	CHECK_OK(fiber_stack_used(id, &used));
	CHECK(used >= deep - 4096 && used < deep + (64 << 10));
	CHECK_ERR(fiber_stack_used(id, NULL), EINVAL);
	CHECK_ERR(fiber_stack_used(0, &used), EINVAL);
	CHECK_ERR(fiber_stack_used(home, &used), EINVAL);
	CHECK_OK(fiber_delete(id));
	used = POISON;
	CHECK_ERR(fiber_stack_used(id, &used), ESRCH);
	CHECK_ERR(fiber_stack_used(UINT64_MAX, &used), ESRCH);
	CHECK(used == POISON);
}

#define MAX_MAP_COUNT "/proc/sys/vm/max_map_count"

/* As many as are left, but for some. Alternating protection keeps neighbours apart. */
static void use_mappings(int spare)
{
	void *maps[8] = { NULL }, *map = NULL;
	int made, i;

	for (made = 0; map != MAP_FAILED; made++) {
		map = mmap(NULL, 4096, made % 2 ? PROT_READ : PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		maps[made % 8] = map;
	}
	for (i = 0; i < spare; i++)
		munmap(maps[(made + 6 - i) % 8], 4096);
}

static int spare_mappings;

/* Guards that are mappings need one, and a split two, so that no number of them is special. */
static void runs_out_of_mappings(void)
{
	int err;

	refuse_guards(EINVAL);
	CHECK_OK(fiber_convert(0, NULL));
	use_mappings(spare_mappings);
	do {
		other = POISON;
		errno = ERRNO_MARK;
		err = fiber_create(&other, nothing, NULL, NULL);
	} while (!err);
	CHECK_RESULT(err, EAGAIN);
	CHECK(errno == ERRNO_MARK);
	CHECK(other == POISON);
}

static int set_limit(const char *limit, size_t length)
{
	int file = open(MAX_MAP_COUNT, O_WRONLY | O_CLOEXEC);
	ssize_t written = file < 0 ? -1 : write(file, limit, length);

	close(file);
	return written == (ssize_t)length ? 0 : -1;
}

TEST(too_many_mappings_are_eagain)
{
	char limit[32];
	int file, status = 0;
	ssize_t length;

	file = open(MAX_MAP_COUNT, O_RDONLY | O_CLOEXEC);
	length = read(file, limit, sizeof(limit));
	CHECK(length > 0);
	close(file);
	/* The real limit takes minutes to reach under emulation. */
	if (set_limit("1000", 4))
		check_skip("only root may lower vm.max_map_count");
	for (spare_mappings = 0; spare_mappings < 6 && !status; spare_mappings++)
		status = in_child(runs_out_of_mappings);
	CHECK(set_limit(limit, (size_t)length) == 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		check_skip("this kernel has no filters of system calls");
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
