/* SPDX-License-Identifier: MIT */
/*
 * Strangers that read a process's files in /proc all the time, at the lowest priority and behind
 * others on their processor: the process's own requests do not wait for them.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "setting.h"

#define READERS		2
#define HOGS		2
/* How often readers must have lost the processor to hogs, or for how long they tried. */
#define PREEMPTIONS	12
#define TRY_MS		40000
/* A request takes microseconds; who waits for a reader behind hogs waits for seconds. */
#define STUCK_MS	5000

static struct {
	atomic_ulong pairs;
	atomic_ulong reads;
} *shared;

static void idle(void *arg)
{
	(void)arg;
}

__attribute__((noreturn)) static void victim(void)
{
	struct fiber_create args = {
		.size = sizeof(args), .entry = (uintptr_t)idle, .stack_start = 65536,
		.stack_size = STACK_SIZE,
	};
	uint64_t id;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_to_cpu(1);
	become(USER_A);
	CHECK_EQ(convert(0), 1);
	for (;;) {
		CHECK_OK(try_create(&args, &id));
		CHECK_OK(fiber_rename(1, "victim"));
		CHECK_OK(fiber_delete(id));
		atomic_fetch_add(&shared->pairs, 1);
	}
}

__attribute__((noreturn)) static void reader(pid_t target)
{
	struct sched_param lowest = { 0 };
	char path[64], text[4096];
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_to_cpu(0);
	become(USER_B);
	snprintf(path, sizeof(path), "/proc/%d/fiber/1", target);
	fd = open(path, O_RDONLY);
	CHECK(fd >= 0);
	CHECK(sched_setscheduler(0, SCHED_IDLE, &lowest) == 0);
	for (;;) {
		CHECK(pread(fd, text, sizeof(text), 0) > 0);
		atomic_fetch_add(&shared->reads, 1);
	}
}

__attribute__((noreturn)) static void hog(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin_to_cpu(0);
	for (;;)
		__asm__ volatile("pause");
}

#define PREEMPTION "/sys/kernel/debug/sched/preempt"

/* Where the kernel can be told to: readers lose the processor in the middle of the kernel. */
static void preempt_everywhere(char before[64])
{
	char *mark;

	*before = '\0';
	if (file_read(PREEMPTION, before, 64))
		return;
	/* "none voluntary (full)" */
	mark = strchr(before, '(');
	if (mark) {
		memmove(before, mark + 1, strlen(mark));
		before[strcspn(before, ")")] = '\0';
	}
	CHECK_OK(file_write_alone(PREEMPTION, "full", 0));
}

/* How often it has lost the processor although it wanted to run. */
static unsigned long preemptions(pid_t pid)
{
	unsigned long count = 0;
	char path[48], line[128];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "r");
	CHECK(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "nonvoluntary_ctxt_switches: %lu", &count) == 1)
			break;
	fclose(file);
	return count;
}

static unsigned long preemptions_of_readers(const pid_t *pids)
{
	unsigned long sum = 0;

	for (int i = 0; i < READERS; i++)
		sum += preemptions(pids[1 + i]);
	return sum;
}

static void victim_and_strangers(void)
{
	pid_t pids[1 + READERS + HOGS];
	unsigned long seen, before;
	unsigned int count = 0;
	uint64_t since, begin;

	pids[count] = fork();
	if (!pids[count++])
		victim();
	WAIT_FOR(atomic_load(&shared->pairs) > 0);
	for (int i = 0; i < READERS; i++) {
		pids[count] = fork();
		if (!pids[count++])
			reader(pids[0]);
	}
	WAIT_FOR(atomic_load(&shared->reads) > 100);
	for (int i = 0; i < HOGS; i++) {
		pids[count] = fork();
		if (!pids[count++])
			hog();
	}
	pin_to_cpu(1);
	seen = atomic_load(&shared->pairs);
	before = preemptions_of_readers(pids);
	since = begin = now_ms();
	while (preemptions_of_readers(pids) < before + PREEMPTIONS && now_ms() - begin < TRY_MS) {
		unsigned long now;

		pause_briefly();
		now = atomic_load(&shared->pairs);
		if (now != seen) {
			seen = now;
			since = now_ms();
		}
		if (now_ms() - since > STUCK_MS)
			check_failed(__FILE__, __LINE__, "no request came back for %d ms", STUCK_MS);
	}
	while (count)
		end(pids[--count]);
}

TEST(readers_behind_hogs_hold_up_no_request)
{
	char before[64];
	int status;

	if (geteuid())
		skip("only root becomes somebody else");
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		skip("readers and process need a processor each");
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	CHECK(shared != MAP_FAILED);
	preempt_everywhere(before);
	status = child_status(victim_and_strangers);
	if (*before)
		CHECK_OK(file_write_alone(PREEMPTION, before, 0));
	CHECK_EQ((unsigned int)status, 0);
	counters_wait_none();
}

/* Reading a file needs no lock that a stopped reader could keep. */
static void listing_reader(pid_t target)
{
	char path[64];
	DIR *directory;

	snprintf(path, sizeof(path), "/proc/%d/fiber", target);
	directory = opendir(path);
	CHECK(directory);
	for (;;) {
		struct dirent *entry;

		rewinddir(directory);
		while ((entry = readdir(directory)))
			atomic_fetch_add(&shared->reads, 1);
	}
}

TEST(stopped_readers_hold_up_no_request)
{
	pid_t reader_pid, target;

	if (geteuid())
		skip("only root becomes somebody else");
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		skip("readers and process need a processor each");
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	CHECK(shared != MAP_FAILED);
	target = fork();
	if (!target)
		victim();
	WAIT_FOR(atomic_load(&shared->pairs) > 0);
	reader_pid = fork();
	if (!reader_pid)
		listing_reader(target);
	for (int i = 0; i < 50; i++) {
		unsigned long reads = atomic_load(&shared->reads), pairs;

		WAIT_FOR(atomic_load(&shared->reads) > reads);
		CHECK(kill(reader_pid, SIGSTOP) == 0);
		CHECK(waitpid(reader_pid, NULL, WUNTRACED) == reader_pid);
		pairs = atomic_load(&shared->pairs);
		WAIT_FOR(atomic_load(&shared->pairs) > pairs + 1);
		CHECK(kill(reader_pid, SIGCONT) == 0);
	}
	end(reader_pid);
	end(target);
	counters_wait_none();
}
