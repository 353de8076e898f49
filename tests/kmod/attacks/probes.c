/* SPDX-License-Identifier: MIT */
/*
 * Probes in user programs (uprobes): on functions that fibers run, that switch, and the switch
 * itself. A probe of a function's return is kept in a list of the thread, in the order of one
 * stack: it does not go with functions in which a fiber is left (docs/safety.md), and the worst
 * that comes of it is the process's own end.
 */
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "setting.h"

#define TRACING "/sys/kernel/tracing/"
#define ROUNDS 200

static uint64_t home;
static atomic_ulong entries;

/* An instruction with a lock prefix takes no probe: these begin with one that does nothing. */
#define PROBED __attribute__((noinline, patchable_function_entry(1)))

PROBED void probed_leaf(void)
{
	atomic_fetch_add(&entries, 1);
	__asm__ volatile("" : : : "memory");
}

PROBED void probed_switcher(uint64_t to)
{
	atomic_fetch_add(&entries, 1);
	CHECK_OK(switch_when_free(to));
	__asm__ volatile("" : : : "memory");
}

static void worker(void *arg)
{
	(void)arg;
	for (;;) {
		probed_leaf();
		probed_switcher(home);
	}
}

static int base_of_program(struct dl_phdr_info *info, size_t size, void *base)
{
	(void)size;
	*(uintptr_t *)base = info->dlpi_addr;
	return 1;
}

/* The offset in the program's file; its text is mapped as the file has it. */
static uintptr_t offset_of(const void *function)
{
	char line[512], *name;
	FILE *maps = fopen("/proc/self/maps", "r");
	uintptr_t base = 0, place = (uintptr_t)function;

	dl_iterate_phdr(base_of_program, &base);
	CHECK(maps);
	while (fgets(line, sizeof(line), maps)) {
		unsigned long start, end, offset;

		name = strchr(line, '/');
		if (name && sscanf(line, "%lx-%lx %*s %lx", &start, &end, &offset) == 3 &&
		    place >= start && place < end) {
			fclose(maps);
			return place - start + offset;
		}
	}
	check_failed(__FILE__, __LINE__, "no mapping has the function");
}

/* @kind is p, at the beginning, or r, at the return. */
static void probe(char kind, const char *name, const void *function)
{
	char program[256], text[400];
	ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
	long err;

	CHECK(length > 0);
	program[length] = '\0';
	if (geteuid())
		skip("only root sets probes");
	if (access(TRACING "uprobe_events", W_OK))
		skip("this kernel has no uprobes, or no " TRACING);
	snprintf(text, sizeof(text), "%c:kfiber/%s %s:0x%lx\n", kind, name, program,
		 (unsigned long)offset_of(function));
	err = file_write_alone(TRACING "uprobe_events", text, O_APPEND);
	if (err)
		skip("the kernel takes no probe here (%s): %s", strerror((int)-err), text);
	snprintf(text, sizeof(text), TRACING "events/kfiber/%s/enable", name);
	err = file_write_alone(text, "1", 0);
	if (err)
		check_failed(__FILE__, __LINE__, "cannot enable %s: %ld", name, err);
}

static void probes_end(void)
{
	(void)file_write_alone(TRACING "events/kfiber/enable", "0", 0);
	/* Opening it anew removes them. */
	(void)file_write_alone(TRACING "uprobe_events", "\n", O_TRUNC);
}

static unsigned long hits(const char *name)
{
	char line[512], event[64];
	FILE *file = fopen(TRACING "uprobe_profile", "r");
	unsigned long count = 0, value;

	CHECK(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%*s %63s %lu", event, &value) == 2 && !strcmp(event, name))
			count = value;
	fclose(file);
	return count;
}

static void with_probes(void (*run)(void), bool may_die)
{
	int status;

	counters_wait_none();
	status = child_status(run);
	if (!may_die) {
		probes_end();
		if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
			_exit(77);
		CHECK_EQ((unsigned int)status, 0);
	}
	counters_wait_none();
}

/* Nothing is lost where a probed function's fiber goes on in another thread. */
static uint64_t shared_worker;

static void *visits(void *arg)
{
	uint64_t before = home;

	home = convert(0);
	CHECK_OK(switch_when_free(shared_worker));
	home = before;
	return arg;
}

static void probed_at_the_beginning(void)
{
	home = convert(0);
	shared_worker = create(worker, NULL, FIBER_FLAG_FPU, NULL);
	probe('p', "leaf", probed_leaf);
	probe('p', "switcher", probed_switcher);
	for (int i = 0; i < ROUNDS; i++) {
		probed_switcher(shared_worker);
		if (i % 10 == 0)
			thread_join(thread_start(visits, NULL));
	}
	CHECK_EQ(hits("leaf") + hits("switcher"), atomic_load(&entries));
	CHECK(atomic_load(&entries) >= 3 * ROUNDS);
}

TEST(probed_where_functions_begin)
{
	with_probes(probed_at_the_beginning, false);
}

static void probed_at_the_system_call(void)
{
	home = convert(0);
	shared_worker = create(worker, NULL, 0, NULL);
	/* Where each suspended fiber goes on. */
	probe('p', "resume", fiber_switch_resume);
	for (int i = 0; i < ROUNDS; i++)
		probed_switcher(shared_worker);
	/* A new fiber begins elsewhere; all other switches return there. */
	CHECK_EQ(hits("resume"), 2 * ROUNDS - 1);
}

TEST(probed_where_switches_return)
{
	with_probes(probed_at_the_system_call, false);
}

static void return_of_a_leaf(void)
{
	home = convert(0);
	shared_worker = create(worker, NULL, 0, NULL);
	probe('r', "leaf", probed_leaf);
	for (int i = 0; i < ROUNDS; i++)
		probed_switcher(shared_worker);
	CHECK_EQ(hits("leaf"), ROUNDS);
}

/* A function in which no fiber is left returns as ever, on whatever stack. */
TEST(probed_where_leaves_return)
{
	with_probes(return_of_a_leaf, false);
}

static void return_of_a_switcher(void)
{
	home = convert(0);
	shared_worker = create(worker, NULL, 0, NULL);
	probe('r', "switcher", probed_switcher);
	for (int i = 0; i < 3; i++)
		probed_switcher(shared_worker);
}

TEST(probed_where_a_switching_function_returns)
{
	/* Whether it lives is the kernel's affair; nothing of it stays. */
	with_probes(return_of_a_switcher, true);
	probes_end();
	with_probes(probed_at_the_beginning, false);
}
