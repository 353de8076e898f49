/* SPDX-License-Identifier: MIT */
/*
 * Each allocation of each request fails once (the kernel's fault injection,
 * /proc/self/task/TID/fail-nth), or all do from some moment on: ENOMEM, nothing
 * half-made, and the next try works. Needs a kernel with CONFIG_FAULT_INJECTION;
 * the debug kernel has it. test_faults.py runs these with the module's parameters.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define MOST_ALLOCATIONS 40

static int fail_nth = -1, make_it_fail = -1;

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		skip("cannot open %s: fault injection needs debugfs and CONFIG_FAILSLAB", path);
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static void setting(const char *fault, const char *name, long value)
{
	char path[80], text[24];

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", fault, name);
	snprintf(text, sizeof(text), "%ld", value);
	write_text(path, text);
}

static void injection_start(void)
{
	static const char *const faults[] = { "failslab", "fail_page_alloc" };
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/fail-nth", gettid());
	fail_nth = open(path, O_RDWR);
	if (fail_nth < 0)
		skip("this kernel has no fault injection (no %s)", path);
	/* Allocations that may sleep fail, too, and the kernel says nothing. */
	for (unsigned int i = 0; i < ARRAY_SIZE(faults); i++) {
		setting(faults[i], "ignore-gfp-wait", 0);
		setting(faults[i], "verbose", 0);
		setting(faults[i], "probability", 0);
		setting(faults[i], "times", INT32_MAX);
		setting(faults[i], "interval", 1);
		setting(faults[i], "task-filter", 1);
	}
	setting("fail_page_alloc", "min-order", 0);
	snprintf(path, sizeof(path), "/proc/self/task/%d/make-it-fail", gettid());
	make_it_fail = open(path, O_RDWR);
	CHECK(make_it_fail >= 0);
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

/* All of this task's fail as soon as it has had that many bytes, or pages; -1: none fails. */
static void fail_beyond(long bytes, long pages)
{
	setting("failslab", "probability", bytes < 0 ? 0 : 100);
	setting("failslab", "space", bytes < 0 ? 0 : bytes);
	setting("fail_page_alloc", "probability", pages < 0 ? 0 : 100);
	setting("fail_page_alloc", "space", pages < 0 ? 0 : pages);
	CHECK(pwrite(make_it_fail, "1", 1, 0) == 1);
}

/* With what is open: nothing else can be opened meanwhile. */
static void fail_no_more(void)
{
	CHECK(pwrite(make_it_fail, "0", 1, 0) == 1);
}

static struct fiber_create idle_arguments(uint32_t flags)
{
	return (struct fiber_create) {
		.size = sizeof(struct fiber_create),
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

#define BYTES_STEP	64
#define MOST_BYTES	65536
#define MOST_PAGES	16
/* So many in a row are enough: it needs no more than it was given. */
#define SUCCESSES	8

/* Gives ENOMEM or 0, which @undo has taken back, and counts. */
static bool attempt_beyond(long bytes, long pages, long (*attempt)(void), void (*undo)(void),
			   struct counters before)
{
	long err;

	fail_beyond(bytes, pages);
	err = attempt();
	fail_no_more();
	if (err)
		CHECK_ERR(err, ENOMEM);
	else
		undo();
	counters_wait(before);
	return !err;
}

/* The same where all allocations fail from the first, the second... on: no fallback helps. */
static void all_allocations_fail(long (*attempt)(void), void (*undo)(void))
{
	struct counters before = counters_read();
	int failures = 0, successes = 0;

	for (long bytes = 0; bytes < MOST_BYTES && successes < SUCCESSES; bytes += BYTES_STEP) {
		bool done = attempt_beyond(bytes, -1, attempt, undo, before);

		failures += !done;
		successes = done ? successes + 1 : 0;
	}
	CHECK(failures > 0);
	CHECK_EQ((uint64_t)successes, SUCCESSES);
	/* Whether the allocator's own stock lasts is its affair. */
	for (long pages = 0; pages < MOST_PAGES; pages++)
		attempt_beyond(-1, pages, attempt, undo, before);
	CHECK(!attempt_beyond(0, 0, attempt, undo, before));
	CHECK_OK(attempt());
	undo();
	counters_wait(before);
}

/* Exit statuses; 1 is that of a failed check. */
enum { NOTHING_FAILED = 0, OPEN_FAILED = 2, SOMETHING_ELSE_FAILED = 3 };

/* Which allocation of the child fails. */
static int child_nth;

/*
 * Runs @attempt in a child for each allocation that it can make fail, until there is none left.
 * Returns how many of them made the attempt fail.
 */
static int each_allocation_fails_in_a_child(void (*attempt)(void))
{
	int outcome = OPEN_FAILED, failures = 0;

	injection_start();
	for (child_nth = 1; child_nth < MOST_ALLOCATIONS && outcome != NOTHING_FAILED; child_nth++) {
		int status;

		counters_wait_none();
		status = child_status(attempt);
		CHECK(WIFEXITED(status));
		outcome = WEXITSTATUS(status);
		CHECK(outcome != 1 && outcome <= SOMETHING_ELSE_FAILED);
		failures += outcome == OPEN_FAILED;
	}
	CHECK(outcome == NOTHING_FAILED);
	counters_wait_none();
	return failures;
}

/* In a process that has no entry yet. */
static void open_once(void)
{
	bool injected;
	int err;

	injection_start();
	fail_the(child_nth);
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
	/* No number was lost. */
	CHECK_EQ((uint64_t)device, (uint64_t)make_it_fail + 1);
	CHECK_EQ(convert(0), 1);
	_exit(OPEN_FAILED);
}

TEST(first_open_without_memory)
{
	CHECK(each_allocation_fails_in_a_child(open_once) > 0);
}

static long open_bytes, open_pages;

static void open_in_distress(void)
{
	int err;

	injection_start();
	fail_beyond(open_bytes, open_pages);
	device = open(FIBER_DEVICE, O_RDWR);
	err = errno;
	fail_no_more();
	if (device >= 0) {
		CHECK_EQ(convert(0), 1);
		_exit(NOTHING_FAILED);
	}
	CHECK(err == ENOMEM || err == ENFILE);
	counters_wait_none();
	device = device_open();
	CHECK_EQ((uint64_t)device, (uint64_t)make_it_fail + 1);
	CHECK_EQ(convert(0), 1);
	_exit(OPEN_FAILED);
}

static int open_outcome(long bytes, long pages)
{
	int status;

	counters_wait_none();
	open_bytes = bytes;
	open_pages = pages;
	status = child_status(open_in_distress);
	CHECK(WIFEXITED(status));
	CHECK(WEXITSTATUS(status) == OPEN_FAILED || WEXITSTATUS(status) == NOTHING_FAILED);
	return WEXITSTATUS(status);
}

/* The tables of the look-ups hash and scan are large: vmalloc() stands in, unless it fails, too. */
TEST(first_open_without_any_memory)
{
	int outcome = OPEN_FAILED;

	injection_start();
	for (long pages = 0; pages < 64 && outcome != NOTHING_FAILED; pages++)
		outcome = open_outcome(-1, pages);
	CHECK(outcome == NOTHING_FAILED);
	CHECK(open_outcome(0, -1) == OPEN_FAILED);
	outcome = OPEN_FAILED;
	for (long bytes = 0; bytes < MOST_BYTES && outcome != NOTHING_FAILED; bytes += 256)
		outcome = open_outcome(bytes, -1);
	CHECK(outcome == NOTHING_FAILED);
	for (long bytes = 0; bytes < 4096; bytes += 256)
		open_outcome(bytes, 0);
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

TEST(conversion_without_any_memory)
{
	counters_wait_none();
	device = device_open();
	injection_start();
	for (attempt_flags = 0; attempt_flags <= FIBER_FLAG_FPU; attempt_flags++)
		all_allocations_fail(attempt_convert, revert);
}

/* The process's first makes what all of its fibers share. */
static void convert_first(void)
{
	bool injected;
	long err;

	device = device_open();
	injection_start();
	fail_the(child_nth);
	err = try_convert(0, &attempt_id);
	injected = has_failed();
	if (err) {
		CHECK(injected);
		CHECK_ERR(err, ENOMEM);
		CHECK_EQ(attempt_id, POISON);
		CHECK_ERR(try_self(&attempt_id), EPERM);
		CHECK(!proc_exists(1));
		counters_wait((struct counters) { 1, 0, 0 });
		CHECK_EQ(convert(0), 1);
	}
	CHECK_EQ(self(), 1);
	counters_wait((struct counters) { 1, 1, 1 });
	_exit(err ? OPEN_FAILED : injected ? SOMETHING_ELSE_FAILED : NOTHING_FAILED);
}

TEST(first_conversion_without_memory)
{
	each_allocation_fails_in_a_child(convert_first);
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

TEST(creation_without_any_memory)
{
	counters_wait_none();
	convert(0);
	injection_start();
	for (attempt_flags = 0; attempt_flags <= FIBER_FLAG_FPU; attempt_flags++)
		all_allocations_fail(attempt_create, undo_create);
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

static uint64_t partner;

static void bounce(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_OK(fiber_switch(1));
}

/* All other requests, while not a byte is to be had. */
TEST(requests_that_need_no_memory)
{
	uint64_t index, value;
	struct counters before;

	counters_wait_none();
	convert(0);
	partner = create(bounce, NULL, FIBER_FLAG_FPU, NULL);
	CHECK_OK(fls_alloc(&index));
	injection_start();
	before = counters_read();
	fail_beyond(0, 0);
	for (int i = 0; i < 100; i++)
		CHECK_OK(fiber_switch(partner));
	CHECK_EQ((uint64_t)request(device, FIBER_IOC_VERSION, 0), FIBER_ABI_VERSION);
	CHECK_OK(fls_set(index, 5));
	CHECK_OK(fls_get(index, &value));
	CHECK_EQ(value, 5);
	CHECK_OK(fls_free(index));
	/* Where the storage is there already. */
	CHECK_OK(fls_alloc(&index));
	CHECK_OK(fiber_rename(partner, "in need"));
	CHECK_OK(fiber_rename(0, "in need, too"));
	CHECK_EQ(self(), 1);
	CHECK_ERR(fiber_switch(99), ESRCH);
	CHECK_ERR(fiber_switch(1), EINVAL);
	CHECK_ERR(request(device, FIBER_IOC_RETIRE, 0), EINVAL);
	CHECK_OK(fiber_delete(partner));
	revert();
	fail_no_more();
	before.threads--;
	before.fibers -= 2;
	counters_wait(before);
}

static struct fiber_table *table;

static struct fiber_slot *table_slots(void)
{
	return (void *)((char *)table + FIBER_TABLE_SLOTS_AT);
}

/* The kernel reads the byte: where there is none, write() gives EFAULT and no signal comes. */
static bool readable(const void *address)
{
	int ends[2];
	bool done;

	CHECK(!pipe(ends));
	done = write(ends[1], address, 1) == 1;
	CHECK(done || errno == EFAULT);
	close(ends[0]);
	close(ends[1]);
	return done;
}

static void *try_table(void)
{
	return mmap(NULL, FIBER_TABLE_SIZE(1024), PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
}

/* In a process that has none yet: without memory it has not chosen its engine either. */
static void map_once(void)
{
	void *start;
	bool injected;
	int err;

	device = device_open();
	injection_start();
	fail_the(child_nth);
	start = try_table();
	err = errno;
	injected = has_failed();
	if (start != MAP_FAILED) {
		CHECK(!((struct fiber_table *)start)->magic);
		_exit(injected ? SOMETHING_ELSE_FAILED : NOTHING_FAILED);
	}
	CHECK(injected);
	CHECK_EQ((uint64_t)err, ENOMEM);
	if (child_nth % 2)
		CHECK_EQ(convert(0), 1);
	else
		CHECK(try_table() != MAP_FAILED);
	_exit(OPEN_FAILED);
}

TEST(table_without_memory)
{
	CHECK(each_allocation_fails_in_a_child(map_once) > 1);
}

/* The allocations of a request that makes something new, in turn: some failures are harmless. */
#define NEW_ALLOCATIONS 12

/* Makes that allocation of the request fail. Returns whether the request gave ENOMEM. */
static bool gives_enomem(int nth, unsigned long number, unsigned long argument)
{
	bool injected;
	long err;

	fail_the(nth);
	err = request(device, number, argument);
	injected = has_failed();
	if (!err)
		return false;
	CHECK(injected);
	CHECK_ERR(err, ENOMEM);
	return true;
}

/* A commitment that fails at any of its pages adds none of them. */
TEST(commitment_without_memory)
{
	unsigned long slots = 22;
	int failures = 0;

	device = device_open();
	table = try_table();
	CHECK(table != MAP_FAILED);
	CHECK_OK(request(device, FIBER_IOC_COMMIT, slots));
	injection_start();
	for (int nth = 1; slots + 32 < 1024; nth = nth % NEW_ALLOCATIONS + 1) {
		bool failed = gives_enomem(nth, FIBER_IOC_COMMIT, slots + 32);

		CHECK(readable(&table_slots()[slots - 1]));
		if (failed) {
			failures++;
			/* The page of the last slot holds up to 21 more. */
			CHECK(!readable(&table_slots()[slots + 22]));
			CHECK_OK(request(device, FIBER_IOC_COMMIT, slots + 32));
		}
		slots += 32;
		CHECK(readable(&table_slots()[slots - 1]));
	}
	CHECK(failures > 5);
}

TEST(attachment_without_memory)
{
	int failures = 0, nth = 0;

	device = device_open();
	table = try_table();
	CHECK(table != MAP_FAILED);
	injection_start();
	/* Each in a page of its own. */
	for (unsigned long number = 1; number < FIBER_THREAD_AREAS; number += 64) {
		nth = nth % NEW_ALLOCATIONS + 1;
		if (gives_enomem(nth, FIBER_IOC_ATTACH, number)) {
			failures++;
			CHECK_ERR(request(device, FIBER_IOC_DETACH, 0), EPERM);
			CHECK_OK(request(device, FIBER_IOC_ATTACH, number));
		}
		CHECK_OK(request(device, FIBER_IOC_DETACH, 0));
	}
	/* The thread, the block of areas and its page, at least. */
	CHECK(failures >= 64 / NEW_ALLOCATIONS * 3);
}

/* Reads and lists without the C library's memory. */
static char proc_text[4096], proc_file[64], proc_folder[64];

static long attempt_read(void)
{
	long size = -1;
	int fd = open(proc_file, O_RDONLY);

	if (fd < 0)
		return -errno;
	size = read(fd, proc_text, sizeof(proc_text) - 1);
	if (size < 0)
		size = -errno;
	close(fd);
	if (size < 0)
		return size;
	CHECK(size > 0);
	proc_text[size] = '\0';
	CHECK(strstr(proc_text, "Running: yes\n"));
	CHECK(strstr(proc_text, "\nEngine: kernel\n"));
	return 0;
}

static long attempt_list(void)
{
	long size, all = 0;
	int fd = open(proc_folder, O_RDONLY | O_DIRECTORY);

	if (fd < 0)
		return -errno;
	while ((size = syscall(SYS_getdents64, fd, proc_text, sizeof(proc_text))) > 0)
		all += size;
	if (size < 0)
		all = -errno;
	close(fd);
	if (all < 0)
		return all;
	CHECK(all > 0);
	return 0;
}

static long attempt_access(void)
{
	return access(proc_file, R_OK) ? -errno : 0;
}

static long module_references(void)
{
	char text[24] = "";
	int fd = open("/sys/module/fiber/refcnt", O_RDONLY);

	CHECK(fd >= 0);
	CHECK(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	return atol(text);
}

static void check_proc_attempt(long (*attempt)(void), long references, int descriptor)
{
	for (int mode = 0; mode < 2; mode++) {
		int nth, failures = 0, successes = 0;

		for (nth = 1; nth < 10 * MOST_ALLOCATIONS && successes < SUCCESSES; nth++) {
			bool injected = true;
			long err;
			int fd;

			if (mode)
				fail_beyond((nth - 1) * BYTES_STEP, -1);
			else
				fail_the(nth);
			err = attempt();
			if (mode)
				fail_no_more();
			else
				injected = has_failed();
			if (err) {
				CHECK(injected);
				CHECK(err == -ENOMEM || err == -ENFILE);
				failures++;
			}
			successes = err ? 0 : successes + 1;
			/* Names and open files hold the module; closed ones by and by do not. */
			WAIT_FOR(module_references() == references);
			fd = open("/", O_RDONLY | O_DIRECTORY);
			CHECK_EQ((uint64_t)fd, (uint64_t)descriptor);
			close(fd);
			if (!injected)
				break;
		}
		CHECK(failures > 0);
		CHECK(nth < 10 * MOST_ALLOCATIONS);
	}
	CHECK_OK(attempt());
}

/* Whether fibers are shown in /proc/PID/fiber; otherwise /proc/fiber has all. */
static bool shown_in_process_directory(void)
{
	return !access("/proc/self/fiber", F_OK);
}

/* Look-ups, listings and reads of /proc: ENOMEM or the truth, and nothing is held afterwards. */
TEST(proc_without_memory)
{
	struct counters before;
	long references;
	int fd;

	counters_wait_none();
	convert(0);
	if (shown_in_process_directory()) {
		snprintf(proc_file, sizeof(proc_file), "/proc/self/fiber/1");
		snprintf(proc_folder, sizeof(proc_folder), "/proc/self/fiber");
	} else {
		snprintf(proc_file, sizeof(proc_file), "/proc/fiber");
		snprintf(proc_folder, sizeof(proc_folder), "/proc");
	}
	injection_start();
	before = counters_read();
	references = module_references();
	fd = open("/", O_RDONLY | O_DIRECTORY);
	close(fd);
	check_proc_attempt(attempt_access, references, fd);
	check_proc_attempt(attempt_read, references, fd);
	check_proc_attempt(attempt_list, references, fd);
	/* The process's directory, in which ours is listed. */
	snprintf(proc_folder, sizeof(proc_folder), "/proc/self");
	check_proc_attempt(attempt_list, references, fd);
	counters_wait(before);
	CHECK_EQ(self(), 1);
}
