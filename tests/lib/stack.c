/* SPDX-License-Identifier: MIT */
/* Stacks: size, guard page, limits. */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
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
	struct fiber_attr attr = { .stack_size = size };

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
	struct fiber_attr attr = { .stack_size = 64 << 10 };
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

TEST(an_overflow_hits_the_guard_page)
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
	struct fiber_attr attr = { .stack_size = 64 << 10, .name = name };

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
	struct fiber_attr attr = { .stack_size = 64 << 10, .name = "deep" };

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
	before = resident();
	for (i = 0; i < MANY; i++)
		CHECK_OK(fiber_create(&ids[i], turns_back, NULL, NULL));
	created = resident();
	/* Control words and observations: no page of a stack. */
	CHECK(created - before < MANY * 257UL);
	for (i = 0; i < MANY; i++)
		CHECK_OK(fiber_switch(ids[i]));
	started = resident();
	CHECK(started - created < MANY * 4160UL);
	for (i = 0; i < MANY; i++)
		CHECK_OK(fiber_delete(ids[i]));
	/* What is kept for the next ones is little. */
	CHECK(resident() < before + MANY * 257UL + (2 << 20));
	for (i = 0; i < MANY; i++)
		CHECK_OK(fiber_create(&ids[i], turns_back, NULL, NULL));
	CHECK(resident() < before + MANY * 257UL + (3 << 20));
}

/* As many as there are slots; not one has a page of its stack. */
TEST(a_million_fibers)
{
	struct fiber_attr attr = { .stack_size = 16 << 10 };
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
	struct fiber_attr attr = { .stack_size = 32 << 10 };
	int seen[64] = { 0 }, i, colours = 0;
	struct fiber_stat stat;
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
		CHECK(seen[i] <= 4 && (!seen[i] || !i || i >= 24));
}

static bool readable(const char *address)
{
	char byte;
	struct iovec here = { &byte, 1 }, there = { (void *)(uintptr_t)address, 1 };

	return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == 1;
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
	struct fiber_stat stat;
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
	struct fiber_attr attr = { .stack_size = (size_t)1 << 32 };

	CHECK_OK(fiber_convert(0, NULL));
	CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
	other = POISON;
	CHECK_ERR(fiber_create(&other, nothing, NULL, &attr), ENOMEM);
	CHECK(other == POISON);
	CHECK_OK(fiber_create(&other, nothing, NULL, NULL));
	CHECK(other == 2);
}

#define MAX_MAP_COUNT "/proc/sys/vm/max_map_count"

static void runs_out_of_mappings(void)
{
	void *map = NULL;
	int made;

	CHECK_OK(fiber_convert(0, NULL));
	/* Alternating protection keeps neighbours from becoming one mapping. */
	for (made = 0; map != MAP_FAILED; made++)
		map = mmap(NULL, 4096, made % 2 ? PROT_READ : PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	other = POISON;
	CHECK_ERR(fiber_create(&other, nothing, NULL, NULL), EAGAIN);
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
	int file, status;
	ssize_t length;

	file = open(MAX_MAP_COUNT, O_RDONLY | O_CLOEXEC);
	length = read(file, limit, sizeof(limit));
	CHECK(length > 0);
	close(file);
	/* The real limit takes minutes to reach under emulation. */
	if (set_limit("1000", 4))
		check_skip("only root may lower vm.max_map_count");
	status = in_child(runs_out_of_mappings);
	CHECK(set_limit(limit, (size_t)length) == 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
