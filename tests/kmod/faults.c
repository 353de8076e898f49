/* SPDX-License-Identifier: MIT */
/*
 * Each allocation of each request fails once (the kernel's fault injection,
 * /proc/self/task/TID/fail-nth): ENOMEM, nothing half-made, and the next try
 * works. Needs a kernel with CONFIG_FAULT_INJECTION; the debug kernel has it.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define MOST_ALLOCATIONS 40

static int fail_nth = -1;

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		skip("cannot open %s: fault injection needs debugfs and CONFIG_FAILSLAB", path);
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static void injection_start(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/fail-nth", gettid());
	fail_nth = open(path, O_RDWR);
	if (fail_nth < 0)
		skip("this kernel has no fault injection (no %s)", path);
	/* Allocations that may sleep fail, too, and the kernel says nothing. */
	write_text("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	write_text("/sys/kernel/debug/failslab/verbose", "0");
	write_text("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	write_text("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	write_text("/sys/kernel/debug/fail_page_alloc/verbose", "0");
}

static void fail_the(int nth)
{
	char text[16];

	CHECK(pwrite(fail_nth, text, (size_t)snprintf(text, sizeof(text), "%d", nth), 0) > 0);
}

/* Ends the injection; says whether the allocation existed, and so has failed. */
static bool has_failed(void)
{
	char text[16] = "";

	CHECK(pread(fail_nth, text, sizeof(text) - 1, 0) > 0);
	fail_the(0);
	return atoi(text) == 0;
}

static struct fiber_create idle_arguments(uint32_t flags)
{
	return (struct fiber_create) {
		.entry = 65536, .stack_start = 65536, .stack_size = STACK_SIZE, .flags = flags,
	};
}

/*
 * Repeats @attempt, failing its first allocation, its second and so on, until
 * it makes fewer. An error but ENOMEM, or a changed number of objects after one,
 * fails the test. @undo takes a success back.
 */
static void each_allocation_fails(long (*attempt)(void), void (*undo)(void))
{
	struct counters before = counters_read();
	int nth, failures = 0;

	for (nth = 1; nth < MOST_ALLOCATIONS; nth++) {
		bool injected;
		long err;

		fail_the(nth);
		err = attempt();
		injected = has_failed();
		if (err) {
			CHECK(injected);
			CHECK_ERR(err, ENOMEM);
			failures++;
			counters_wait(before);
			continue;
		}
		undo();
		counters_wait(before);
		if (!injected)
			break;
	}
	CHECK(nth < MOST_ALLOCATIONS);
	/* The first allocation of each of these requests matters. */
	CHECK(failures > 0);
}

/* Exit statuses; 1 is that of a failed check. */
enum { NOTHING_FAILED = 0, OPEN_FAILED = 2, SOMETHING_ELSE_FAILED = 3 };

static int open_nth;

/* In a process that has no entry yet. */
static void open_once(void)
{
	bool injected;
	int err;

	injection_start();
	fail_the(open_nth);
	device = open(FIBER_DEVICE, O_RDWR);
	err = errno;
	injected = has_failed();
	if (device >= 0) {
		CHECK_EQ(convert(0), 1);
		_exit(injected ? SOMETHING_ELSE_FAILED : NOTHING_FAILED);
	}
	CHECK(injected);
	/* The latter is what the kernel says where it has no memory for the file. */
	CHECK(err == ENOMEM || err == ENFILE);
	counters_wait_none();
	device = device_open();
	CHECK_EQ(convert(0), 1);
	_exit(OPEN_FAILED);
}

TEST(first_open_without_memory)
{
	int outcome = OPEN_FAILED, failures = 0;

	injection_start();
	for (open_nth = 1; open_nth < MOST_ALLOCATIONS && outcome != NOTHING_FAILED; open_nth++) {
		int status;

		counters_wait_none();
		status = child_status(open_once);
		CHECK(WIFEXITED(status));
		outcome = WEXITSTATUS(status);
		CHECK(outcome != 1 && outcome <= SOMETHING_ELSE_FAILED);
		failures += outcome == OPEN_FAILED;
	}
	CHECK(outcome == NOTHING_FAILED);
	CHECK(failures > 0);
	counters_wait_none();
}

static uint32_t attempt_flags;
static uint64_t attempt_id;

static long attempt_convert(void)
{
	long err = try_convert(attempt_flags, &attempt_id);

	if (err)
		CHECK_EQ(attempt_id, POISON);
	return err;
}

TEST(conversion_without_memory)
{
	counters_wait_none();
	device = device_open();
	injection_start();
	for (attempt_flags = 0; attempt_flags <= FIBER_FLAG_FPU; attempt_flags++)
		each_allocation_fails(attempt_convert, revert);
}

static long attempt_create(void)
{
	struct fiber_create args = idle_arguments(attempt_flags);
	long err = try_create(&args, &attempt_id);

	if (err)
		CHECK_EQ(attempt_id, POISON);
	return err;
}

static void undo_create(void)
{
	CHECK_OK(fiber_delete(attempt_id));
}

TEST(creation_without_memory)
{
	counters_wait_none();
	convert(0);
	injection_start();
	for (attempt_flags = 0; attempt_flags <= FIBER_FLAG_FPU; attempt_flags++)
		each_allocation_fails(attempt_create, undo_create);
}

/* Where a new chunk of slots is needed, too. */
TEST(creation_beyond_a_chunk_without_memory)
{
	struct fiber_create args = idle_arguments(0);
	uint64_t id;

	counters_wait_none();
	convert(0);
	for (int i = 2; i < 512; i++)
		CHECK_OK(try_create(&args, &id));
	CHECK_EQ(id, 511);
	injection_start();
	each_allocation_fails(attempt_create, undo_create);
	CHECK_OK(try_create(&args, &id));
	CHECK_EQ(id & ((1 << FIBER_SLOT_BITS) - 1), 512);
}

TEST(storage_without_memory)
{
	uint64_t index, value;
	int failures = 0;

	convert(0);
	injection_start();
	for (uint64_t i = 0; i < 200; i++) {
		long err;

		fail_the(1);
		err = fls_alloc(&index);
		has_failed();
		if (err) {
			CHECK_ERR(err, ENOMEM);
			CHECK_EQ(index, POISON);
			failures++;
			CHECK_OK(fls_alloc(&index));
		}
		CHECK_EQ(index, i);
		CHECK_OK(fls_set(index, i));
	}
	/* Once for each time that the storage grew. */
	CHECK(failures >= 3);
	for (uint64_t i = 0; i < 200; i++) {
		CHECK_OK(fls_get(i, &value));
		CHECK_EQ(value, i);
	}
}

/* Look-ups, listings and reads of /proc: an error or the truth, and no crash. */
TEST(proc_without_memory)
{
	char text[2048];
	int nth;

	convert(0);
	injection_start();
	for (nth = 1; nth < 2 * MOST_ALLOCATIONS; nth++) {
		ssize_t size = -1;
		bool injected;
		int fd;

		fail_the(nth);
		fd = open("/proc/self/fiber/1", O_RDONLY);
		if (fd >= 0)
			size = read(fd, text, sizeof(text) - 1);
		injected = has_failed();
		if (fd >= 0)
			close(fd);
		if (size > 0) {
			text[size] = '\0';
			CHECK(!strncmp(text, "Running: yes\n", 13));
			CHECK(strstr(text, "\nEngine: kernel\n"));
		}
		if (!injected)
			break;
	}
	CHECK(nth > 1 && nth < 2 * MOST_ALLOCATIONS);
	for (nth = 1; nth < 2 * MOST_ALLOCATIONS; nth++) {
		bool injected;
		DIR *directory;

		fail_the(nth);
		directory = opendir("/proc/self/fiber");
		if (directory) {
			while (readdir(directory))
				;
			closedir(directory);
		}
		injected = has_failed();
		if (!injected)
			break;
	}
	CHECK(nth > 1 && nth < 2 * MOST_ALLOCATIONS);
}
