/* SPDX-License-Identifier: MIT */
/* Stacks: size, guard page, limits. */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
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
