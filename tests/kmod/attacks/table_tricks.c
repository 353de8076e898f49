/* SPDX-License-Identifier: MIT */
/* What can be done to the mapping of a status table: madvise(), mremap(), fork() and its kin. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "setting.h"

#define PAGE	4096UL
#define SLOTS	200
#define LENGTH	FIBER_TABLE_SIZE(SLOTS)
/* An upper part of the table that was never committed. */
#define LONGER	FIBER_TABLE_SIZE(SLOTS + 1000)

static char *table;

static volatile uint64_t *slot(char *start, unsigned int number)
{
	return (uint64_t *)(start + FIBER_TABLE_SLOTS_AT + number * sizeof(struct fiber_slot));
}

static char *map(size_t length)
{
	char *start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);

	CHECK(start != MAP_FAILED);
	return start;
}

/* A table with a fiber that everybody can see. */
static void table_start(void)
{
	device = device_open();
	table = map(LONGER);
	CHECK_OK(request(device, FIBER_IOC_COMMIT, SLOTS));
	CHECK_OK(request(device, FIBER_IOC_ATTACH, 1));
	slot(table, 5)[1] = 77;
	*slot(table, 5) = 5;
}

static void table_check(void)
{
	CHECK_EQ(*slot(table, 5), 5);
	CHECK_EQ(slot(table, 5)[1], 77);
	CHECK_EQ(proc_number(5, "Number of activations"), 77);
	CHECK_OK(request(device, FIBER_IOC_DETACH, 0));
	CHECK_OK(request(device, FIBER_IOC_ATTACH, 1));
}

static volatile char *touched;

static void touch(void)
{
	*touched = 1;
}

static bool dies_by(volatile void *address, int number)
{
	int status;

	touched = address;
	status = child_status(touch);
	return WIFSIGNALED(status) && WTERMSIG(status) == number;
}

/* fork() */

static void child_sees_no_page(void)
{
	/* Each page that the parent has, and some that it has not. */
	static const size_t places[] = {
		0, FIBER_TABLE_AREAS_AT, FIBER_TABLE_SLOTS_AT, FIBER_TABLE_SLOTS_AT + PAGE,
		LONGER - PAGE,
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(places); i++)
		CHECK(dies_by(table + places[i], SIGBUS));
}

TEST(inherited_by_advice_it_is_a_bus_error)
{
	counters_wait_none();
	table_start();
	if (madvise(table, LONGER, MADV_DOFORK))
		CHECK(errno == EINVAL);
	else
		in_child(child_sees_no_page);
	table_check();
}

static void grandchild(void)
{
	in_child(child_sees_no_page);
}

TEST(inherited_twice_it_is_a_bus_error)
{
	table_start();
	if (madvise(table, LONGER, MADV_DOFORK))
		skip("the kernel refuses the advice");
	in_child(grandchild);
	table_check();
}

/* Neither does the child pay, or hold anything, for what it has of the table. */
static void child_maps_its_own(void)
{
	CHECK(dies_by(table, SIGBUS));
	table_start();
	CHECK(*slot(table, 5) == 5);
	table_check();
}

TEST(beside_an_inherited_one_a_child_has_its_own)
{
	table_start();
	if (madvise(table, LONGER, MADV_DOFORK))
		skip("the kernel refuses the advice");
	in_child(child_maps_its_own);
	table_check();
}

/* madvise() */

TEST(no_advice_changes_it)
{
	static const int advices[] = {
		MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE,
		MADV_REMOVE, MADV_DONTFORK, MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_HUGEPAGE,
		MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP, MADV_WIPEONFORK, MADV_KEEPONFORK,
		MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE, 24, 25,
		MADV_HWPOISON + 1000,
	};

	table_start();
	for (unsigned int i = 0; i < ARRAY_SIZE(advices); i++)
		for (int part = 0; part < 3; part++) {
			size_t start = part == 2 ? FIBER_TABLE_SLOTS_AT & ~(PAGE - 1) : 0;
			size_t length = part == 1 ? PAGE : LONGER - start;

			(void)madvise(table + start, length, advices[i]);
			table_check();
			CHECK(dies_by(table, SIGSEGV) || dies_by(table, SIGBUS));
		}
}

/* What is not committed is asked for in advance: an error, and no page. */
TEST(populating_gives_no_more_than_was_committed)
{
	table_start();
	CHECK(madvise(table, LENGTH & ~(PAGE - 1), MADV_POPULATE_WRITE) == -1);
	CHECK(madvise(table + LONGER - PAGE, PAGE, MADV_POPULATE_WRITE) == -1);
	CHECK(errno == EFAULT || errno == EINVAL || errno == EHWPOISON);
	CHECK(dies_by(table + LONGER - PAGE, SIGSEGV) || dies_by(table + LONGER - PAGE, SIGBUS));
	table_check();
}

TEST(locked_in_memory)
{
	table_start();
	(void)mlock(table, LONGER);
	(void)syscall(SYS_mlock2, table, LONGER, 1 /* MLOCK_ONFAULT */);
	(void)mlockall(MCL_CURRENT | MCL_FUTURE);
	table_check();
	map(LONGER);
	CHECK(munlockall() == 0);
	table_check();
}

/* mremap(), and other ways to have it elsewhere */

TEST(moved_it_shows_the_same)
{
	/* Two places, of which one is always free. */
	char *places = mmap(NULL, 2 * LONGER, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	table_start();
	CHECK(places != MAP_FAILED);
	for (unsigned int i = 0; i < 20; i++) {
		char *moved = mremap(table, LONGER, LONGER, MREMAP_MAYMOVE | MREMAP_FIXED,
				     places + (i & 1) * LONGER);

		if (moved == MAP_FAILED)
			skip("the kernel refuses that: %s", strerror(errno));
		table = moved;
		table_check();
	}
}

TEST(moved_in_part)
{
	char *target = mmap(NULL, LONGER, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *part;

	CHECK(target != MAP_FAILED);
	table_start();
	part = mremap(table + FIBER_TABLE_SLOTS_AT, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		      target);
	if (part == MAP_FAILED)
		skip("the kernel refuses that: %s", strerror(errno));
	/* The same words, at another address. */
	CHECK_EQ(((volatile uint64_t *)part)[5 * sizeof(struct fiber_slot) / 8], 5);
	CHECK_EQ(proc_number(5, "Number of activations"), 77);
	CHECK(dies_by(table + FIBER_TABLE_SLOTS_AT, SIGSEGV));
}

TEST(doubled)
{
	char *second;

	table_start();
	/* An old length of 0 makes another mapping of the same. */
	second = mremap(table, 0, LENGTH, MREMAP_MAYMOVE);
	if (second != MAP_FAILED) {
		CHECK_EQ(*slot(second, 5), 5);
		CHECK(munmap(second, LENGTH) == 0);
	}
	second = mremap(table, LONGER, LONGER, MREMAP_MAYMOVE | 4 /* MREMAP_DONTUNMAP */);
	if (second != MAP_FAILED)
		CHECK(munmap(second, LONGER) == 0);
	CHECK(mremap(table, LONGER, 2 * LONGER, MREMAP_MAYMOVE) == MAP_FAILED);
	table_check();
}

TEST(shrunk_and_grown)
{
	table_start();
	CHECK(mremap(table, LONGER, LENGTH, 0) == table);
	table_check();
	CHECK(mremap(table, LENGTH, LONGER, MREMAP_MAYMOVE) == MAP_FAILED);
	table_check();
}

TEST(other_pages_in_its_place)
{
	table_start();
	/* It takes away what is there before it is refused what it wants instead. */
	(void)syscall(SYS_remap_file_pages, table, PAGE, 0, 1, 0);
	table_check();
	/* A hole in the middle is a hole, and the rest stays. */
	CHECK(munmap(table + FIBER_TABLE_AREAS_AT + PAGE, PAGE) == 0);
	CHECK(dies_by(table + FIBER_TABLE_AREAS_AT + PAGE, SIGSEGV));
	table_check();
	for (int i = 0; i < 3; i++) {
		static const int protections[] = { PROT_READ, PROT_NONE, PROT_READ | PROT_WRITE };

		CHECK(mprotect(table + FIBER_TABLE_SLOTS_AT, PAGE, protections[i]) == 0);
	}
	table_check();
}

/* Other memory in the middle of it is that, and the kernel's own mapping does not care. */
TEST(covered_while_a_thread_is_attached)
{
	volatile struct fiber_thread_area *area;
	char *again;

	table_start();
	CHECK(mmap(table + FIBER_TABLE_AREAS_AT, PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
	area = (void *)(table + FIBER_TABLE_AREAS_AT + sizeof(*area));
	table_check();
	for (int i = 0; i < 10; i++)
		pause_briefly();
	CHECK_EQ(area->off, 0);
	CHECK_EQ(area->tid, 0);
	/* Its place in the file can be had again. */
	again = map(LONGER);
	area = (void *)(again + FIBER_TABLE_AREAS_AT + sizeof(*area));
	CHECK_EQ(area->tid, (uint32_t)gettid());
	CHECK(mmap(table, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device, 0) ==
	      table);
	CHECK(mmap(table + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device,
		   2 * (off_t)PAGE) == table + PAGE);
	CHECK(munmap(again, LONGER) == 0);
	table_check();
}

static int pipe_ends[2];

/* Its pages in a pipe, which others hold. */
static void leaves_pages_in_a_pipe(void)
{
	struct iovec pages;

	become(USER_A);
	table_start();
	pages = (struct iovec) { table + FIBER_TABLE_SLOTS_AT, 4 * PAGE };
	CHECK(vmsplice(pipe_ends[1], &pages, 1, SPLICE_F_GIFT) == (ssize_t)pages.iov_len);
	*slot(table, 0) = 4711;
}

static void splice_pages(void)
{
	static uint64_t words[4 * PAGE / 8];
	int other[2];

	CHECK(pipe(pipe_ends) == 0 && pipe(other) == 0);
	in_child(leaves_pages_in_a_pipe);
	WAIT_FOR(!counters_read().processes);
	/* From pipe to pipe, copied and moved, long after the table has gone. */
	CHECK(tee(pipe_ends[0], other[1], 4 * PAGE, 0) == (ssize_t)(4 * PAGE));
	in_child(leaves_pages_in_a_pipe);
	CHECK(read(other[0], words, sizeof(words)) == sizeof(words));
	CHECK_EQ(words[0], 4711);
	CHECK_EQ(words[5 * sizeof(struct fiber_slot) / 8], 5);
	CHECK(read(pipe_ends[0], words, sizeof(words)) == sizeof(words));
	CHECK_EQ(words[0], 4711);
	/* Nothing is taken out of the device, nor put into it. */
	device = device_open();
	CHECK(splice(device, NULL, other[1], NULL, PAGE, 0) == -1 && errno == EINVAL);
	CHECK(splice(pipe_ends[0], NULL, device, NULL, PAGE, 0) == -1);
	CHECK(read(device, words, 8) == -1 && write(device, words, 8) == -1);
}

TEST(pages_in_a_pipe_outlive_it)
{
	run_with("max_user_kib", "4096", splice_pages);
}

/* The table lies in the file by which it was first mapped: the inode of one node. */
TEST(mapped_through_another_node)
{
	char node[] = "/tmp/kfiber-node-XXXXXX";
	struct stat status;
	int second, own;

	if (geteuid())
		skip("only root makes nodes of devices");
	CHECK(stat(FIBER_DEVICE, &status) == 0);
	second = mkstemp(node);
	CHECK(second >= 0);
	close(second);
	CHECK(unlink(node) == 0);
	if (mknod(node, S_IFCHR | 0600, status.st_rdev))
		skip("no node of the device in /tmp: %s", strerror(errno));
	table_start();
	second = open(node, O_RDWR | O_CLOEXEC);
	if (second < 0) {
		CHECK(errno == EACCES);
		skip("no device is opened in /tmp");
	}
	CHECK(unlink(node) == 0);
	CHECK(mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, second, 0) == MAP_FAILED &&
	      errno == EINVAL);
	/* For all else the node does not matter. */
	own = device;
	device = second;
	table_check();
	device = own;
	close(second);
	table_check();
	CHECK(munmap(map(LENGTH), LENGTH) == 0);
}

TEST(unmapped_while_threads_are_attached)
{
	uint64_t id;

	table_start();
	CHECK(munmap(table, LONGER) == 0);
	/* The table is the process's until its image ends. */
	CHECK(proc_exists(5));
	CHECK_ERR(try_convert(0, &id), EEXIST);
	table = map(LONGER);
	table_check();
}

/* Reached by the memory of the process: the same words, no other way to write to them. */
TEST(read_and_written_by_another_process)
{
	char path[48];
	pid_t pid = -1, parent = getpid();
	int fd, status;

	table_start();
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		uint64_t word = 78;
		struct iovec here = { &word, 8 }, there = { (void *)&slot(table, 5)[1], 8 };

		if (process_vm_writev(parent, &here, 1, &there, 1, 0) == 8) {
			word = 77;
			CHECK(process_vm_writev(parent, &here, 1, &there, 1, 0) == 8);
		}
		snprintf(path, sizeof(path), "/proc/%d/mem", parent);
		fd = open(path, O_RDWR);
		if (fd >= 0) {
			char byte;

			(void)!pread(fd, &byte, 1, (off_t)(uintptr_t)table);
			(void)!pread(fd, &byte, 1, (off_t)(uintptr_t)table + LONGER - PAGE);
			(void)!pwrite(fd, &byte, 0, (off_t)(uintptr_t)table);
		}
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && !status);
	table_check();
}

/* Processes that share the memory */

static int first_in_own_table(void *arg)
{
	char **start = arg;

	device = device_open();
	*start = map(LONGER);
	CHECK_OK(request(device, FIBER_IOC_COMMIT, SLOTS));
	CHECK_OK(request(device, FIBER_IOC_ATTACH, 1));
	*slot(*start, 9) = 9;
	syscall(SYS_exit, 0);
	return 0;
}

static void sharing_child(int (*run)(void *), void *arg)
{
	char *stack = stack_new(STACK_SIZE);
	int status;
	pid_t pid = clone(run, stack + STACK_SIZE, CLONE_VM | SIGCHLD, arg);

	CHECK(pid > 0);
	CHECK(waitpid(pid, &status, 0) == pid && !status);
	CHECK(munmap(stack, STACK_SIZE) == 0);
}

/* The child's table is not ours although it lies in our memory. */
TEST(what_a_sharing_child_leaves)
{
	char *left;
	int own;

	table_start();
	own = device;
	sharing_child(first_in_own_table, &left);
	/* Its number is the child's. */
	device = own;
	CHECK(left != table);
	CHECK(!proc_exists(9));
	table_check();
	CHECK(munmap(left, LONGER) == 0);
	table_check();
}

#define LEFT_SLOTS 5000
#define LEFT_LENGTH FIBER_TABLE_SIZE(LEFT_SLOTS)

static struct {
	char *start;
	long commit;
} left_table;

static int commits_much(void *arg)
{
	(void)arg;
	device = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
	left_table.start = MAP_FAILED;
	left_table.commit = -EDQUOT;
	if (device < 0)
		syscall(SYS_exit, 0);
	left_table.start = mmap(NULL, LEFT_LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	if (left_table.start != MAP_FAILED)
		left_table.commit = request(device, FIBER_IOC_COMMIT, LEFT_SLOTS);
	/* Used, so that they are mapped when the table ends. */
	if (!left_table.commit)
		for (size_t at = FIBER_TABLE_SLOTS_AT; at < LEFT_LENGTH; at += PAGE)
			left_table.start[at] = 1;
	syscall(SYS_exit, 0);
	return 0;
}

/* 32 times 938 KiB are more than the limit of 4 MiB. */
#define LEFT_MAX 32

/* Without dying of it. */
static bool can_be_read(const char *place)
{
	bool can;
	int ends[2];

	CHECK(pipe(ends) == 0);
	can = write(ends[1], place, 1) == 1;
	CHECK(can || errno == EFAULT);
	close(ends[0]);
	close(ends[1]);
	return can;
}

/* What an ended process has left in our memory shows nothing, and costs nobody anything. */
static void leaves_tables(void)
{
	char *starts[LEFT_MAX];

	become(USER_A);
	for (unsigned int i = 0; i < LEFT_MAX; i++) {
		WAIT_FOR((sharing_child(commits_much, NULL), !left_table.commit));
		starts[i] = left_table.start;
	}
	for (unsigned int i = 0; i < LEFT_MAX; i++) {
		WAIT_FOR(!can_be_read(starts[i] + FIBER_TABLE_SLOTS_AT));
		CHECK(!can_be_read(starts[i]));
		CHECK(munmap(starts[i], LEFT_LENGTH) == 0);
	}
}

TEST(tables_left_behind_are_empty)
{
	run_with("max_user_kib", "4096", leaves_tables);
}

/* 2,438 KiB: more than half of the limit. */
#define MOST_SLOTS 13000

static pid_t *child_of_the_dead;

static void takes_most(void)
{
	become(USER_A);
	device = device_open();
	table = map(LENGTH);
	if (madvise(table, LENGTH, MADV_DOFORK))
		skip("the kernel refuses the advice");
	CHECK_OK(request(device, FIBER_IOC_COMMIT, MOST_SLOTS));
}

static void leaves_a_child(void)
{
	pid_t pid;

	takes_most();
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		for (;;)
			pause();
	*child_of_the_dead = pid;
}

static void inherit(void)
{
	child_of_the_dead = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(child_of_the_dead != MAP_FAILED);
	in_child(leaves_a_child);
	WAIT_FOR(child_status(takes_most) == 0);
	CHECK(kill(*child_of_the_dead, SIGKILL) == 0);
}

/* What a child has of it is a bus error, and costs nobody anything. */
TEST(an_inherited_table_holds_nothing)
{
	run_with("max_user_kib", "4096", inherit);
}

#define ALL_AREAS_KIB (FIBER_THREAD_AREAS * sizeof(struct fiber_thread_area) / 1024)

/* Each thread area's page is paid for, too: 64 of them, and the limit is 128 KiB. */
static void attaches_everywhere(void)
{
	unsigned int attached = 0;
	long err = 0;

	become(USER_A);
	device = device_open();
	table = map(LENGTH);
	for (unsigned int area = 1; area < FIBER_THREAD_AREAS && !err; area += 64) {
		err = request(device, FIBER_IOC_ATTACH, area);
		if (err)
			break;
		table[FIBER_TABLE_AREAS_AT + area * 64 + 40] = 1;
		attached++;
		CHECK_OK(request(device, FIBER_IOC_DETACH, 0));
	}
	CHECK_ERR(err, EDQUOT);
	CHECK(attached > 4 && attached < 32);
}

TEST(thread_areas_are_paid_for)
{
	_Static_assert(ALL_AREAS_KIB > 128, "more than the limit");
	run_with("max_user_kib", "128", attaches_everywhere);
}
