/* SPDX-License-Identifier: MIT */
/*
 * The table of observations as hostile input: threads of a process write boundary and random
 * values into every word of it, while others commit, attach, detach and end, map it anew, sleep,
 * and read what /proc makes of it. Rounds, a process each, until there were enough requests.
 *
 * A failure is a request's error that the ABI does not name, a line in /proc that is not what a
 * fiber's file has there, a process that does not end, or one that crashed. What the kernel says
 * of itself is the business of whoever runs this on a debug kernel.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "uapi/fiber.h"

#define LENGTH		FIBER_TABLE_SIZE(1UL << FIBER_SLOT_BITS)
#define SLOTS		256	/* at least that many are committed, and written to */
#define AREAS		64
#define WRITERS		2
#define STARTERS	3
#define ROUND_REQUESTS	2000
#define ROUND_SECONDS	120

/* Over all processes. */
static struct shared {
	atomic_ulong writes, reads, requests;
	atomic_bool failed;
	char failure[256];
} *shared;

static char *table;
static int device;
static atomic_bool stop;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
	va_list args;

	if (!atomic_exchange(&shared->failed, true)) {
		va_start(args, format);
		vsnprintf(shared->failure, sizeof(shared->failure), format, args);
		va_end(args);
	}
	_exit(3);
}

static uint64_t draw(uint64_t *state)
{
	uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* Anything, and what is nearly right: ids, states, areas, times. */
static uint64_t any_word(uint64_t *state, uint64_t slot)
{
	static const uint64_t borders[] = {
		0, 1, 2, 3, 4, AREAS, FIBER_THREAD_AREAS - 1, FIBER_THREAD_AREAS,
		FIBER_THREAD_AREAS + 1, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_C(1) << 63,
		UINT64_MAX - 1, UINT64_MAX,
		(1 << FIBER_SLOT_BITS) - 1, 1 << FIBER_SLOT_BITS, UINT64_C(0x0a0a0a0a0a0a0a0a),
		UINT64_C(0xffff888000000000), UINT64_C(0xffffffff81000000),
		UINT64_C(0x00007ffffffff000), UINT64_C(0x6566696c61766e69),
	};
	uint64_t random = draw(state);

	switch (random % 8) {
	case 0:
		return random >> 8;
	case 1 ... 3:
		return borders[(random >> 8) % (sizeof(borders) / sizeof(*borders))];
	case 4:
		return (random >> 32) << FIBER_SLOT_BITS | slot;
	case 5:
		return slot;
	case 6:
		return __builtin_ia32_rdtsc() - (random >> 32);
	default:
		return (random >> 8) % AREAS << 32 | FIBER_STATE_RUNNING;
	}
}

static void *writes(void *seed)
{
	uint64_t state = (uintptr_t)seed;

	while (!stop) {
		uint64_t random = draw(&state), slot = random % SLOTS, word = random >> 32;
		volatile uint64_t *place;

		/* Leaves others some of the processor. */
		if (!(random >> 56))
			sched_yield();

		switch (random >> 24 & 15) {
		case 0:
			place = (void *)(table + word % (sizeof(struct fiber_table) / 8) * 8);
			break;
		case 1 ... 4:
			/* Only AREAS of them; their page is there as soon as one was attached. */
			place = (void *)(table + FIBER_TABLE_AREAS_AT + word % (AREAS * 8) * 8);
			break;
		default:
			place = (void *)(table + FIBER_TABLE_SLOTS_AT + slot * 192 + word % 24 * 8);
			break;
		}
		*place = any_word(&state, slot);
		/* Or else nothing would be shown: an id of its own in every eighth write. */
		if (!(random >> 28 & 7))
			*(volatile uint64_t *)(table + FIBER_TABLE_SLOTS_AT + slot * 192) =
				(word << FIBER_SLOT_BITS & INT64_MAX) | slot;
		atomic_fetch_add_explicit(&shared->writes, 1, memory_order_relaxed);
	}
	return NULL;
}

static int request(unsigned int number, unsigned long argument)
{
	atomic_fetch_add_explicit(&shared->requests, 1, memory_order_relaxed);
	return ioctl(device, number, argument) ? errno : 0;
}

static void check(const char *what, int err, int one, int other, int third)
{
	if (err && err != one && err != other && err != third)
		fail("%s gave %s, which the ABI does not name", what, strerrorname_np(err));
}

static const int advices[] = {
	MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_WILLNEED, MADV_MERGEABLE, MADV_HUGEPAGE,
	MADV_DOFORK, MADV_WIPEONFORK, MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ,
	MADV_POPULATE_WRITE,
};

#define ADVICES (sizeof(advices) / sizeof(*advices))

/* Elsewhere, if the kernel likes. */
static char *moved(char *start, size_t length)
{
	char *place = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			   -1, 0), *result;

	if (place == MAP_FAILED)
		return start;
	result = mremap(start, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, place);
	if (result != MAP_FAILED)
		return result;
	munmap(place, length);
	return start;
}

static void maps_anew(uint64_t random)
{
	size_t length = (random % (LENGTH / 4096) + 1) * 4096, half = length / 4096 / 2 * 4096;
	/* Mostly all from the head on, else a part that may reach beyond the end. */
	off_t offset = random >> 41 & 3 ? 0 : (off_t)(random >> 43) % (off_t)(LENGTH / 4096) * 4096;
	char *start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, device, offset);

	if ((start == MAP_FAILED) != ((size_t)offset + length > LENGTH))
		fail("mmap: %s", strerrorname_np(errno));
	if (start == MAP_FAILED)
		return;
	if (!offset && random >> 32 & 1)
		start[random % 4096] = (char)random;
	if (!mprotect(start, length, PROT_READ | PROT_EXEC))
		fail("the table became executable");
	if (mremap(start, length, length + 4096, MREMAP_MAYMOVE) != MAP_FAILED)
		fail("the table became longer");
	if (random >> 33 & 1)
		madvise(start, length, advices[(random >> 34) % ADVICES]);
	if (random >> 40 & 1)
		start = moved(start, length);
	if (half)
		munmap(start, half);
	munmap(start + half, length - half);
}

/* A child that has the parent's mapping has no page of it. */
static void inherits(uint64_t random)
{
	char *start = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	size_t place = random % (LENGTH / 4096) * 4096;
	int status = 0;
	pid_t pid;

	if (start == MAP_FAILED)
		fail("mmap: %s", strerrorname_np(errno));
	madvise(start, LENGTH, MADV_DOFORK);
	pid = fork();
	if (!pid) {
		/* The head is always there, for whom it is there at all. */
		*(volatile char *)(start + (random >> 32 & 1 ? place : 0)) = 1;
		_exit(0);
	}
	if (pid > 0 && waitpid(pid, &status, 0) == pid && !WIFSIGNALED(status))
		fail("a child wrote to its parent's table");
	munmap(start, LENGTH);
}

struct kin {
	char stack[16384] __attribute__((aligned(16)));
	uint64_t random;
};

/* Another process in this memory: it maps, commits and attaches for itself, and leaves that. */
static int kin_run(void *arg)
{
	const struct kin *kin = arg;
	int own = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
	char *start = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);

	if (!ioctl(device, FIBER_IOC_COMMIT, 1))
		fail("COMMIT by a process that only shares memory");
	ioctl(own, FIBER_IOC_COMMIT, kin->random % 2000);
	ioctl(own, FIBER_IOC_ATTACH, kin->random >> 16 & (AREAS - 1));
	if (start != MAP_FAILED && kin->random >> 32 & 1)
		munmap(start, LENGTH);
	else if (start != MAP_FAILED && kin->random >> 33 & 1)
		munmap(start + 4096, LENGTH - 4096);
	if (kin->random >> 34 & 1)
		syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
	syscall(SYS_exit_group, 0);
	return 0;
}

/* The thread waits meanwhile, since both have its thread-local memory. */
static void shares(uint64_t random)
{
	struct kin kin = { .random = random };
	pid_t pid = clone(kin_run, kin.stack + sizeof(kin.stack), CLONE_VM | CLONE_VFORK | SIGCHLD,
			  &kin);

	if (pid > 0)
		waitpid(pid, NULL, 0);
}

static void *starts(void *seed)
{
	uint64_t state = (uintptr_t)seed;
	int steps = (int)(draw(&state) % 200);

	while (!stop && steps--) {
		uint64_t random = draw(&state), rest = random >> 8;

		switch (random % 10) {
		case 0 ... 2:
			check("ATTACH", request(FIBER_IOC_ATTACH, rest % 8 ? rest >> 3 & (AREAS - 1) :
						any_word(&state, 1)), EINVAL, EEXIST, EBUSY);
			break;
		case 3:
			check("DETACH", request(FIBER_IOC_DETACH, rest), EPERM, EPERM, EPERM);
			break;
		case 4:
			check("COMMIT", request(FIBER_IOC_COMMIT, rest % 8 ? SLOTS + (rest >> 3) % 4096 :
						any_word(&state, 1)), EAGAIN, ENOMEM, ENOMEM);
			break;
		case 5:
			maps_anew(rest);
			break;
		case 6:
			usleep(rest % 300);
			break;
		case 7:
			if (!(rest % 8))
				inherits(rest >> 3);
			else if (!(rest % 5))
				shares(rest >> 3);
			break;
		default:
			sched_yield();
		}
	}
	if (draw(&state) % 2)
		for (;;)
			syscall(SYS_exit, 0);
	return NULL;
}

/* Threads end again and again; on stacks that stay, since some end behind the library's back. */
static void *keeps_starting(void *seed)
{
	uint64_t state = (uintptr_t)seed;

	while (!stop) {
		void *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		pthread_attr_t attr;
		pthread_t thread;

		if (stack == MAP_FAILED)
			return NULL;
		pthread_attr_init(&attr);
		pthread_attr_setstack(&attr, stack, 65536);
		if (!pthread_create(&thread, &attr, starts, (void *)(uintptr_t)draw(&state)))
			pthread_join(thread, NULL);
		pthread_attr_destroy(&attr);
	}
	return NULL;
}

static const char *const keys[] = {
	"Running: ", "Initial entry point: 0x", "Parent thread id: ", "Number of activations: ",
	"Number of failed activations: ", "Total execution time: ", "Name: ", "State: ",
	"Thread id: ", "CPU time ns: ", "Longest run ns: ", "Last switch ns ago: ",
	"Saved instruction pointer: 0x", "Saved stack pointer: 0x", "Stack start: 0x",
	"Stack size: ", "Engine: mapped\n",
};

static void check_file(const char *path)
{
	FILE *file = fopen(path, "re");
	char line[512];
	size_t i = 0;

	if (!file) {
		if (errno != ENOENT)
			fail("%s: %s", path, strerrorname_np(errno));
		return;
	}
	/* None at all if its slot was overwritten meanwhile. */
	while (fgets(line, sizeof(line), file)) {
		if (i == sizeof(keys) / sizeof(*keys) || strncmp(line, keys[i], strlen(keys[i])))
			fail("%s: line %zu is %.100s", path, i, line);
		for (const char *byte = line; *byte && *byte != '\n'; byte++)
			if ((unsigned char)*byte < ' ' || *byte == 127)
				fail("%s: line %zu has the byte %d", path, i, *byte);
		i++;
	}
	if (i && i != sizeof(keys) / sizeof(*keys))
		fail("%s: %zu lines", path, i);
	fclose(file);
	atomic_fetch_add_explicit(&shared->reads, 1, memory_order_relaxed);
}

static void read_all(pid_t pid)
{
	char path[320];
	struct dirent *entry;
	DIR *directory;

	snprintf(path, sizeof(path), "/proc/%d/fiber", pid);
	directory = opendir(path);
	if (!directory)
		return;
	while ((entry = readdir(directory))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fiber/%s", pid, entry->d_name);
		check_file(path);
	}
	closedir(directory);
}

__attribute__((noreturn)) static void round_run(uint64_t seed)
{
	unsigned long goal = shared->requests + ROUND_REQUESTS;
	uint64_t state = seed;
	pthread_t thread;
	int i;

	alarm(ROUND_SECONDS);
	device = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
	if (device < 0)
		fail("open: %s", strerrorname_np(errno));
	table = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	if (table == MAP_FAILED)
		fail("mmap: %s", strerrorname_np(errno));
	if (request(FIBER_IOC_COMMIT, SLOTS) || request(FIBER_IOC_ATTACH, 1))
		fail("no table: %s", strerrorname_np(errno));
	for (i = 0; i < WRITERS; i++)
		pthread_create(&thread, NULL, writes, (void *)(uintptr_t)draw(&state));
	for (i = 0; i < STARTERS; i++)
		pthread_create(&thread, NULL, keeps_starting, (void *)(uintptr_t)draw(&state));
	while (shared->requests < goal && !shared->failed)
		read_all(getpid());
	switch (draw(&state) % 4) {
	case 0:
		kill(getpid(), SIGKILL);
		break;
	case 1:
		execl("/bin/true", "true", NULL);
		break;
	case 2:
		/* The others go on for a while. */
		alarm(1);
		for (;;)
			syscall(SYS_exit, 0);
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	unsigned long goal = argc == 3 ? strtoul(argv[2], NULL, 0) : 0, rounds = 0;
	uint64_t seed = argc == 3 ? strtoull(argv[1], NULL, 0) : 0;

	if (!goal) {
		fprintf(stderr, "usage: table SEED REQUESTS\n");
		return 2;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	while (shared->requests < goal && !shared->failed) {
		pid_t child = fork();
		int status;

		if (!child)
			round_run(seed + rounds);
		/* Another process reads as well: it looks things up by its own dentries. */
		while (!waitpid(child, &status, WNOHANG))
			read_all(child);
		rounds++;
		if (shared->failed)
			break;
		if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL &&
		    (WTERMSIG(status) != SIGALRM || shared->requests < ROUND_REQUESTS)) {
			shared->failed = true;
			snprintf(shared->failure, sizeof(shared->failure), "round %llu: signal %d",
				 (unsigned long long)(seed + rounds - 1), WTERMSIG(status));
		}
	}
	printf("{\"seed\": %llu, \"rounds\": %lu, \"writes\": %lu, \"reads\": %lu, "
	       "\"requests\": %lu, \"failure\": ", (unsigned long long)seed, rounds,
	       shared->writes, shared->reads, shared->requests);
	/* Our own words and the kernel's; quotes and such are left out. */
	for (char *byte = shared->failure; *byte; byte++)
		if (*byte == '"' || *byte == '\\' || (unsigned char)*byte < ' ')
			*byte = '?';
	if (shared->failed)
		printf("\"%s\"}\n", shared->failure);
	else
		printf("null}\n");
	return shared->failed ? 1 : 0;
}
