/* SPDX-License-Identifier: MIT */
/*
 * Pages that never come, under the arguments of requests and under a lock of the memory that a
 * dying process leaves behind. Nobody else may have to wait for them.
 *
 *	FUSE		a read of the file is not answered
 *	userfaultfd	a page is missing, or may not be written to, until somebody says so
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuse.h"
#include "harness.h"
#include "setting.h"

#define PAGE 4096UL

static void idle(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_OK(fiber_switch(1));
}

static const struct {
	unsigned long cmd;
	uint32_t size;
	bool writes;
} requests[] = {
	{ FIBER_IOC_CREATE, sizeof(struct fiber_create), true },
	{ FIBER_IOC_SET_NAME, sizeof(struct fiber_name), false },
	{ FIBER_IOC_STAT, sizeof(struct fiber_snapshot), true },
	{ FIBER_IOC_FLS_SET, sizeof(struct fiber_fls), false },
	{ FIBER_IOC_FLS_GET, sizeof(struct fiber_fls), true },
	{ FIBER_IOC_SELF, 0, true },
	{ FIBER_IOC_FLS_ALLOC, 0, true },
};

#define REQUESTS ARRAY_SIZE(requests)

/* Arguments that the request accepts, in a page of its own each. */
static void fill(void *page, unsigned int which)
{
	struct fiber_create create_args = {
		.size = sizeof(create_args), .entry = (uintptr_t)idle, .stack_start = 65536,
		.stack_size = STACK_SIZE, .name = "late",
	};

	memset(page, 0, PAGE);
	if (requests[which].cmd == FIBER_IOC_CREATE)
		memcpy(page, &create_args, sizeof(create_args));
	else
		memcpy(page, &requests[which].size, sizeof(uint32_t));
}

static char *late;
static atomic_int tids[REQUESTS];
static long results[REQUESTS];

/* A fiber of its own that makes one request, whose argument is late. */
static void *asks(void *arg)
{
	unsigned int which = (unsigned int)(uintptr_t)arg;
	uint64_t index;

	convert(0);
	CHECK_OK(fls_alloc(&index));
	atomic_store(&tids[which], gettid());
	results[which] = request(device, requests[which].cmd, (unsigned long)late + which * PAGE);
	return NULL;
}

static bool sleeps(pid_t tid)
{
	char state = thread_state(tid);

	return state == 'S' || state == 'D';
}

/* All that the process and others may do with its fibers, while its other threads are stuck. */
static void check_nobody_waits(void)
{
	struct fiber_snapshot snapshot = { .size = sizeof(snapshot), .id = 1 };
	uint64_t id, index;

	for (int i = 0; i < 50; i++) {
		id = create(idle, NULL, i & FIBER_FLAG_FPU, "quick");
		CHECK_OK(fiber_switch(id));
		CHECK_OK(fiber_rename(id, "quicker"));
		CHECK_OK(request(device, FIBER_IOC_STAT, (unsigned long)&snapshot));
		CHECK(proc_is(id, "State", "suspended"));
		CHECK_OK(fls_alloc(&index));
		CHECK_OK(fls_free(index));
		CHECK_OK(fiber_delete(id));
	}
	CHECK(proc_exists(1));
}

static pthread_t askers[REQUESTS];

static void start_askers(bool writers_only)
{
	for (unsigned int i = 0; i < REQUESTS; i++)
		if (!writers_only || requests[i].writes)
			askers[i] = thread_start(asks, (void *)(uintptr_t)i);
}

static void wait_until_stuck(bool writers_only)
{
	for (unsigned int i = 0; i < REQUESTS; i++)
		if (!writers_only || requests[i].writes)
			WAIT_FOR(atomic_load(&tids[i]) && sleeps(atomic_load(&tids[i])));
}

/* FUSE */

static int file;

static void map_late_file(void)
{
	late = mmap(NULL, REQUESTS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	CHECK(late != MAP_FAILED);
}

static void stuck_in_fuse(void)
{
	convert(0);
	map_late_file();
	start_askers(false);
	wait_until_stuck(false);
	WAIT_FOR(fuse_waiting() > 0);
	check_nobody_waits();
}

TEST(requests_wait_alone_for_a_fuse_page)
{
	pid_t pid;

	counters_wait_none();
	file = fuse_file();
	pid = start_until_ready(stuck_in_fuse);
	/* It is looked at by others, and ends when it is told to. */
	for (uint64_t id = 1; id <= REQUESTS; id++) {
		char value[PROC_LINE];

		CHECK(proc_line(pid, id, "State", value));
	}
	end(pid);
	counters_wait_none();
}

static void served_late(void)
{
	uint64_t zero = 0;

	convert(0);
	map_late_file();
	start_askers(false);
	wait_until_stuck(false);
	check_nobody_waits();
	fuse_answer();
	for (unsigned int i = 0; i < REQUESTS; i++) {
		thread_join(askers[i]);
		/* The page holds zeros: a structure without a size. */
		CHECK_ERR(results[i], requests[i].size ? EINVAL : 0);
	}
	CHECK(memcmp(late + 5 * PAGE, &zero, sizeof(zero)));
}

TEST(requests_go_on_when_the_fuse_page_comes)
{
	counters_wait_none();
	file = fuse_file();
	in_child(served_late);
	counters_wait_none();
}

#define TABLE_LENGTH FIBER_TABLE_SIZE(100)

static void owns_a_table(void)
{
	char *table;

	device = device_open();
	table = mmap(NULL, TABLE_LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	CHECK(table != MAP_FAILED);
	CHECK_OK(request(device, FIBER_IOC_COMMIT, 50));
	CHECK_OK(request(device, FIBER_IOC_ATTACH, 1));
	table[FIBER_TABLE_SLOTS_AT] = 1;
}

#define DYING 12

static char *held_page;
static int memories[DYING];

/* Holds the lock of that process's memory, for which it reads a page that does not come. */
static void *reads_memory(void *arg)
{
	char byte;

	(void)!pread(memories[(uintptr_t)arg], &byte, 1, (off_t)(uintptr_t)held_page);
	return NULL;
}

static void some_fibers(void)
{
	convert(0);
	for (int i = 0; i < 20; i++)
		create(idle, NULL, FIBER_FLAG_FPU, NULL);
}

/* Whether a thread of the kernel is in the middle of a work of the module's: "kworker/u4:2+fiber". */
static bool work_is_running(void)
{
	DIR *directory = opendir("/proc");
	struct dirent *entry;
	bool running = false;

	CHECK(directory);
	while ((entry = readdir(directory))) {
		char path[288], name[64];

		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		if (*entry->d_name > '0' && *entry->d_name <= '9' &&
		    !file_read(path, name, sizeof(name)))
			running |= !!strstr(name, "+fiber");
	}
	closedir(directory);
	return running;
}

static void hold_memory_of_the_dying(void)
{
	struct counters before;

	for (uintptr_t i = 0; i < DYING; i++) {
		char path[48];
		pid_t pid;

		held_page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, (off_t)(i * PAGE));
		CHECK(held_page != MAP_FAILED);
		pid = start_until_ready(owns_a_table);
		snprintf(path, sizeof(path), "/proc/%d/mem", pid);
		memories[i] = open(path, O_RDONLY);
		CHECK(memories[i] >= 0);
		thread_start(reads_memory, (void *)i);
		WAIT_FOR(fuse_waiting() > i);
		end(pid);
	}
	/*
	 * What frees fibers waits for no user, or a few hundred of these would hold up the work
	 * queue, and with it everybody's. Their entries stay, for the memory has the descriptor.
	 */
	WAIT_FOR(!work_is_running());
	before = counters_read();
	for (int i = 0; i < 10; i++)
		in_child(some_fibers);
	counters_wait(before);
	/* Not even a signal ends the readers before. */
	fuse_answer();
}

TEST(the_dying_whose_memory_is_held_hold_up_nobody)
{
	file = fuse_file();
	counters_wait_none();
	in_child(hold_memory_of_the_dying);
	counters_wait_none();
}

/*
 * A reader of /proc/PID/cmdline, whom everybody lets in, keeps the memory of the process and so the
 * mapping of its table for as long as his own page does not come.
 */

#define LIVES 3
/* 2,438 KiB, and the limit is 4 MiB. */
#define MOST_SLOTS 13000

static void has_a_large_table(void)
{
	char *table;

	become(USER_A);
	device = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
	CHECK(device >= 0);
	table = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	CHECK(table != MAP_FAILED);
	CHECK_OK(request(device, FIBER_IOC_COMMIT, MOST_SLOTS));
	table[0]++;
}

struct reader {
	pid_t target;
	char *late_page;
};

static void *reads_arguments(void *arg)
{
	const struct reader *reader = arg;
	char path[48];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", reader->target);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	(void)!read(fd, reader->late_page, 1);
	return NULL;
}

static void live_beside_a_reader(void)
{
	static struct reader readers[LIVES];

	file = fuse_file();
	for (unsigned int i = 0; i < LIVES; i++) {
		/* What the one before had, its user has again a moment later. */
		WAIT_FOR(child_status(has_a_large_table) == 0);
		readers[i].target = start_until_ready(has_a_large_table);
		readers[i].late_page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file,
					    (off_t)(i * PAGE));
		CHECK(readers[i].late_page != MAP_FAILED);
		thread_start(reads_arguments, &readers[i]);
		WAIT_FOR(fuse_waiting() > i);
		end(readers[i].target);
	}
	WAIT_FOR(child_status(has_a_large_table) == 0);
	fuse_answer();
}

TEST(the_table_of_one_whose_memory_is_read_is_given_back)
{
	run_with("max_user_kib", "4096", live_beside_a_reader);
}

/* Readers of /proc whose own buffers are late: they wait with what they have begun. */

static const char *const read_files[] = { "fiber/1", "fiber/2", "fiber", "" };

static void *reads_late(void *arg)
{
	const struct reader *reader = arg;
	unsigned int which = (unsigned int)(reader->late_page - late) / PAGE;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", reader->target, read_files[which]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0);
	atomic_store(&tids[which], gettid());
	if (which < 2)
		(void)!read(fd, reader->late_page, PAGE);
	else
		(void)syscall(SYS_getdents64, fd, reader->late_page, PAGE);
	return NULL;
}

static pid_t read_target;

static void read_late(void)
{
	static struct reader readers[ARRAY_SIZE(read_files)];

	become(USER_B);
	late = mmap(NULL, ARRAY_SIZE(read_files) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file,
		    0);
	CHECK(late != MAP_FAILED);
	for (unsigned int i = 0; i < ARRAY_SIZE(read_files); i++) {
		readers[i] = (struct reader) { read_target, late + i * PAGE };
		thread_start(reads_late, &readers[i]);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(read_files); i++)
		WAIT_FOR(atomic_load(&tids[i]) && sleeps(atomic_load(&tids[i])));
	WAIT_FOR(fuse_waiting() > 0);
}

static atomic_ulong *target_rounds;
static int target_ready[2];

/* In the only thread that works, so that fiber 1 is its root. */
static void works_while_it_is_read(void)
{
	become(USER_A);
	convert(0);
	create(idle, NULL, 0, NULL);
	CHECK(write(target_ready[1], "x", 1) == 1);
	for (;;) {
		check_nobody_waits();
		atomic_fetch_add(target_rounds, 1);
	}
}

/* They hold up neither the process, nor other readers, nor what frees its memory. */
TEST(readers_with_late_buffers_wait_alone)
{
	char value[PROC_LINE], byte;
	unsigned long before;
	pid_t reader_pid;

	counters_wait_none();
	target_rounds = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(target_rounds != MAP_FAILED);
	file = fuse_file();
	CHECK(pipe(target_ready) == 0);
	read_target = child_start(works_while_it_is_read);
	close(target_ready[1]);
	CHECK(read(target_ready[0], &byte, 1) == 1);
	reader_pid = start_until_ready(read_late);
	before = atomic_load(target_rounds);
	WAIT_FOR(atomic_load(target_rounds) > before + 2);
	for (int i = 0; i < 20; i++)
		CHECK(proc_line(read_target, 2, "State", value));
	end(read_target);
	/* The readers have its entry open: an empty shell. */
	WAIT_FOR(!counters_read().fibers && !counters_read().threads);
	CHECK_EQ((unsigned int)counters_read().processes, 1);
	end(reader_pid);
	counters_wait_none();
}

/* userfaultfd */

static int faults;

static void watch_pages(uint64_t mode)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = {
		.range = { .start = (uintptr_t)late, .len = REQUESTS * PAGE }, .mode = mode,
	};

	faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (faults < 0 && (errno == ENOSYS || errno == EPERM))
		skip("this kernel gives no userfaultfd: %s", strerror(errno));
	CHECK(faults >= 0);
	if (mode == UFFDIO_REGISTER_MODE_WP)
		api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	if (ioctl(faults, UFFDIO_API, &api))
		skip("this kernel has no such userfaultfd: %s", strerror(errno));
	if (ioctl(faults, UFFDIO_REGISTER, &range))
		skip("this kernel does not watch such pages: %s", strerror(errno));
}

static void map_late_pages(void)
{
	late = mmap(NULL, REQUESTS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	CHECK(late != MAP_FAILED);
}

static void protect(bool on)
{
	struct uffdio_writeprotect range = {
		.range = { .start = (uintptr_t)late, .len = REQUESTS * PAGE },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	CHECK(ioctl(faults, UFFDIO_WRITEPROTECT, &range) == 0);
}

static void stuck_before_reading(void)
{
	convert(0);
	map_late_pages();
	watch_pages(UFFDIO_REGISTER_MODE_MISSING);
	start_askers(false);
	wait_until_stuck(false);
	check_nobody_waits();
}

static void stuck_before_writing(void)
{
	convert(0);
	map_late_pages();
	for (unsigned int i = 0; i < REQUESTS; i++)
		fill(late + i * PAGE, i);
	watch_pages(UFFDIO_REGISTER_MODE_WP);
	protect(true);
	start_askers(true);
	wait_until_stuck(true);
	check_nobody_waits();
}

static void supply_pages(void)
{
	static char page[PAGE] __attribute__((aligned(4096)));

	stuck_before_reading();
	for (unsigned int i = 0; i < REQUESTS; i++) {
		struct uffdio_copy copy = {
			.dst = (uintptr_t)late + i * PAGE, .src = (uintptr_t)page, .len = PAGE,
		};

		fill(page, i);
		CHECK(ioctl(faults, UFFDIO_COPY, &copy) == 0);
	}
	for (unsigned int i = 0; i < REQUESTS; i++) {
		thread_join(askers[i]);
		CHECK_OK(results[i]);
	}
}

TEST(requests_wait_alone_for_a_missing_page)
{
	counters_wait_none();
	in_child(supply_pages);
	counters_wait_none();
}

static void allow_writing(void)
{
	stuck_before_writing();
	protect(false);
	for (unsigned int i = 0; i < REQUESTS; i++) {
		if (!requests[i].writes)
			continue;
		thread_join(askers[i]);
		CHECK_OK(results[i]);
	}
}

/* The answer cannot be written yet: the request has done all else, and holds nothing meanwhile. */
TEST(requests_wait_alone_for_leave_to_write)
{
	counters_wait_none();
	in_child(allow_writing);
	counters_wait_none();
}

TEST(killed_while_a_page_is_missing)
{
	pid_t pid;

	counters_wait_none();
	pid = start_until_ready(stuck_before_reading);
	CHECK(kill(pid, SIGTERM) == 0);
	CHECK(waitpid(pid, NULL, 0) == pid);
	counters_wait_none();
}

TEST(killed_while_an_answer_cannot_be_written)
{
	pid_t pid;

	counters_wait_none();
	pid = start_until_ready(stuck_before_writing);
	CHECK(kill(pid, SIGTERM) == 0);
	CHECK(waitpid(pid, NULL, 0) == pid);
	counters_wait_none();
}

/* The stack of a fiber is late: that concerns whoever runs it. */

static void uses_its_stack(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_OK(fiber_switch(1));
}

static uint64_t late_fiber;
static atomic_int entered;

static void *enters(void *arg)
{
	convert(0);
	atomic_store(&entered, gettid());
	fiber_switch(late_fiber);
	return arg;
}

static void stuck_on_its_stack(void)
{
	struct fiber_create args = {
		.size = sizeof(args), .entry = (uintptr_t)uses_its_stack,
		.stack_size = REQUESTS * PAGE,
	};

	convert(0);
	map_late_pages();
	watch_pages(UFFDIO_REGISTER_MODE_MISSING);
	args.stack_start = (uintptr_t)late;
	CHECK_OK(try_create(&args, &late_fiber));
	thread_start(enters, NULL);
	WAIT_FOR(atomic_load(&entered) && sleeps(atomic_load(&entered)) &&
		 proc_is(late_fiber, "State", "running"));
	CHECK_ERR(fiber_switch(late_fiber), EBUSY);
	CHECK_ERR(fiber_delete(late_fiber), EBUSY);
	check_nobody_waits();
}

TEST(a_fiber_whose_stack_is_missing)
{
	pid_t pid;

	counters_wait_none();
	pid = start_until_ready(stuck_on_its_stack);
	CHECK(kill(pid, SIGTERM) == 0);
	CHECK(waitpid(pid, NULL, 0) == pid);
	counters_wait_none();
}
