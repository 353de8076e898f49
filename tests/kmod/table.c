/* SPDX-License-Identifier: MIT */
/* The table of observations: mmap() of the device, COMMIT, ATTACH, DETACH, and what /proc shows. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#include "harness.h"

#define LENGTH FIBER_TABLE_SIZE(1UL << FIBER_SLOT_BITS)

static struct fiber_table *head;
/* Others write there at any time. */
static volatile struct fiber_thread_area *areas;
static struct fiber_slot *slots;

static void *try_map(int fd, size_t length, int protection, int flags, off_t offset)
{
	return mmap(NULL, length, protection, flags, fd, offset);
}

static void place(void *start)
{
	head = start;
	areas = (void *)((char *)start + FIBER_TABLE_AREAS_AT);
	slots = (void *)((char *)start + FIBER_TABLE_SLOTS_AT);
}

static void map_table(void)
{
	void *start;

	device = device_open();
	start = try_map(device, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
	CHECK(start != MAP_FAILED);
	place(start);
}

static long commit(unsigned long number)
{
	return request(device, FIBER_IOC_COMMIT, number);
}

static long attach(unsigned long number)
{
	return request(device, FIBER_IOC_ATTACH, number);
}

static long detach(void)
{
	return request(device, FIBER_IOC_DETACH, 0);
}

static void check_map_fails(int fd, size_t length, int protection, int flags, off_t offset,
			    int wanted)
{
	CHECK(try_map(fd, length, protection, flags, offset) == MAP_FAILED);
	CHECK_EQ((unsigned int)errno, (unsigned int)wanted);
}

TEST(a_failed_conversion_chooses_no_engine)
{
	void *start;

	device = device_open();
	/* Its structure cannot be written, so that the conversion fails at its end. */
	start = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(start != MAP_FAILED);
	*(struct fiber_convert *)start = (struct fiber_convert) { .size = sizeof(struct fiber_convert) };
	CHECK(!mprotect(start, 4096, PROT_READ));
	CHECK_ERR(request(device, FIBER_IOC_CONVERT, (uintptr_t)start), EFAULT);
	start = mmap(NULL, FIBER_TABLE_SIZE(1), PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	CHECK(start != MAP_FAILED);
}

TEST(only_shared_readable_and_within_the_largest_size)
{
	const int both = PROT_READ | PROT_WRITE;

	device = device_open();
	check_map_fails(device, LENGTH, both, MAP_PRIVATE, 0, EINVAL);
	check_map_fails(device, LENGTH, both | PROT_EXEC, MAP_SHARED, 0, EINVAL);
	check_map_fails(device, LENGTH + 4096, both, MAP_SHARED, 0, EINVAL);
	check_map_fails(device, 8192, both, MAP_SHARED, LENGTH - 4096, EINVAL);
	check_map_fails(device, 4096, both, MAP_SHARED, LENGTH, EINVAL);
	check_map_fails(device, 4096, both, MAP_SHARED, INT64_MAX & ~4095L, EINVAL);
	/* None of them was one. */
	CHECK_ERR(commit(1), EINVAL);
	CHECK_ERR(attach(1), EINVAL);
	CHECK_ERR(detach(), EPERM);
	convert(0);
}

TEST(never_executable_nor_longer)
{
	map_table();
	CHECK(mprotect(head, 4096, PROT_READ | PROT_EXEC) == -1 && errno == EACCES);
	CHECK(mremap(head, LENGTH, LENGTH + 4096, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT);
}

TEST(engines_exclude_each_other)
{
	uint64_t id;

	map_table();
	CHECK_ERR(try_convert(0, &id), EBUSY);
	CHECK_EQ(id, POISON);
}

TEST(no_table_beside_the_modules_fibers)
{
	device = device_open();
	convert(0);
	check_map_fails(device, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, 0, EBUSY);
	revert();
	/* It has had some. */
	check_map_fails(device, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, 0, EBUSY);
}

TEST(all_mappings_show_the_same)
{
	struct fiber_table *first;

	map_table();
	first = head;
	first->magic = 1234;
	map_table();
	CHECK(head != first);
	CHECK_EQ(head->magic, 1234);
	CHECK(munmap(first, LENGTH) == 0);
	CHECK_EQ(head->magic, 1234);
}

static volatile char *volatile touched;

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

static volatile sig_atomic_t bus_errors;

static void on_bus_error(int number)
{
	(void)number;
	bus_errors++;
	/* Something is there from now on, so that the store goes on. */
	CHECK(mmap((void *)((uintptr_t)touched & ~4095UL), 4096, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
}

static void check_bus_error(void *address)
{
	int before = bus_errors;

	touched = address;
	touch();
	CHECK(bus_errors == before + 1);
}

TEST(what_is_not_committed_is_a_bus_error)
{
	CHECK(signal(SIGBUS, on_bus_error) != SIG_ERR);
	map_table();
	check_bus_error((void *)&areas[1]);
	check_bus_error(&slots[0]);
	CHECK_OK(commit(22));
	/* 22 slots lie in two pages. The first was replaced above. */
	((volatile struct fiber_slot *)slots)[21].activations = 1;
	CHECK_EQ(bus_errors, 2);
	check_bus_error(&slots[43]);
}

TEST(parts_are_of_the_same_table)
{
	const size_t first = FIBER_TABLE_SIZE(64);
	void *start, *rest;

	CHECK(signal(SIGBUS, on_bus_error) != SIG_ERR);
	device = device_open();
	start = try_map(-1, LENGTH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, 0);
	CHECK(start != MAP_FAILED);
	/* Backwards: what is not there yet cannot be touched, wherever it is mapped. */
	rest = mmap((char *)start + first, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		    device, (off_t)first);
	CHECK(rest == (char *)start + first);
	CHECK(mmap(start, first, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device, 0) == start);
	place(start);
	CHECK_OK(commit(64));
	CHECK_OK(attach(1));
	check_bus_error(rest);
	CHECK_OK(commit(128));
	slots[100].id = 100;
	CHECK(proc_exists(100));
	CHECK(!munmap(rest, 8192));
	CHECK(proc_exists(100));
}

TEST(committing_grows_and_keeps)
{
	unsigned long i;

	map_table();
	for (i = 1; i < 3000; i += 7) {
		CHECK_OK(commit(i));
		CHECK_EQ(slots[i - 1].id, 0);
		slots[i - 1].id = i;
	}
	CHECK_OK(commit(5));
	for (i = 1; i < 3000; i += 7)
		CHECK_EQ(slots[i - 1].id, i);
	CHECK_ERR(commit((1UL << FIBER_SLOT_BITS) + 1), EAGAIN);
	CHECK_ERR(commit(UINT64_MAX), EAGAIN);
}

/* Sets a parameter of the module and returns what it was, for the next call. */
static void parameter_swap(const char *path, char value[32], const char *wanted)
{
	FILE *file = fopen(path, "r");

	CHECK(file && fgets(value, 32, file));
	fclose(file);
	file = fopen(path, "w");
	CHECK(file && fprintf(file, "%s", wanted) > 0 && fclose(file) == 0);
}

/* Runs it in a child while the parameter has that value. */
static void with_parameter(const char *name, const char *value, void (*run)(void))
{
	char path[80], before[32], ignored[32];
	int status;

	snprintf(path, sizeof(path), "/sys/module/fiber/parameters/%s", name);
	if (geteuid())
		skip("only root sets %s", path);
	counters_wait_none();
	parameter_swap(path, before, value);
	status = child_status(run);
	parameter_swap(path, ignored, before);
	CHECK_EQ((unsigned int)status, 0);
}

static void beyond_the_users_limit(void)
{
	static const struct rlimit none = { 0, 0 };
	unsigned long i;

	CHECK(setgid(65534) == 0 && setuid(65534) == 0);
	/* It counts nothing of ours. */
	CHECK(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
	map_table();
	CHECK_ERR(commit(10000), EDQUOT);
	CHECK_OK(commit(300));
	CHECK_ERR(commit(10000), EDQUOT);
	for (i = 0; i < 300; i++)
		slots[i].id = i;
	/* 300 slots lie in 15 pages. */
	CHECK(signal(SIGBUS, on_bus_error) != SIG_ERR);
	check_bus_error((char *)slots + 15 * 4096);
}

TEST(its_memory_is_charged_to_the_user)
{
	with_parameter("max_user_kib", "256", beyond_the_users_limit);
}

TEST(area_numbers)
{
	map_table();
	CHECK_ERR(attach(0), EINVAL);
	CHECK_ERR(attach(FIBER_THREAD_AREAS), EINVAL);
	CHECK_ERR(attach(UINT64_MAX), EINVAL);
	CHECK_OK(attach(FIBER_THREAD_AREAS - 1));
	CHECK_EQ(areas[FIBER_THREAD_AREAS - 1].tid, (uint64_t)gettid());
	CHECK_ERR(attach(1), EEXIST);
	CHECK_OK(detach());
	CHECK_ERR(detach(), EPERM);
	CHECK_OK(attach(1));
	CHECK_EQ(areas[1].tid, (uint64_t)gettid());
}

static pthread_barrier_t barrier;
static atomic_int winners;

static void *wants_area_7(void *arg)
{
	long result;

	pthread_barrier_wait(&barrier);
	result = attach(7);
	if (!result)
		winners++;
	else
		CHECK_ERR(result, EBUSY);
	pthread_barrier_wait(&barrier);
	return arg;
}

TEST(one_of_many_rivals_gets_an_area)
{
	pthread_t threads[8];
	unsigned int i, round;

	map_table();
	for (round = 0; round < 20; round++) {
		winners = 0;
		pthread_barrier_init(&barrier, NULL, ARRAY_SIZE(threads));
		for (i = 0; i < ARRAY_SIZE(threads); i++)
			threads[i] = thread_start(wants_area_7, NULL);
		for (i = 0; i < ARRAY_SIZE(threads); i++)
			thread_join(threads[i]);
		CHECK_EQ((unsigned int)winners, 1);
		WAIT_FOR(areas[7].dead);
	}
}

static void *attaches_and_ends(void *raw)
{
	CHECK_OK(attach(3));
	CHECK_EQ(areas[3].dead, 0);
	if (raw)
		thread_exit_raw();
	return NULL;
}

static void *attaches_and_detaches(void *arg)
{
	CHECK_OK(attach(3));
	CHECK_OK(detach());
	return arg;
}

TEST(the_end_of_a_thread_is_marked)
{
	pthread_t thread;

	map_table();
	thread_join(thread_start(attaches_and_ends, NULL));
	WAIT_FOR(areas[3].dead == 1);
	/* Else the wait below could be over before this thread has begun. */
	areas[3].dead = 0;
	thread = thread_start_on_lasting_stack(attaches_and_ends, &thread);
	WAIT_FOR(areas[3].dead == 1);
	thread_join(thread_start(attaches_and_detaches, NULL));
	CHECK_EQ(areas[3].dead, 0);
}

static void *starts_and_sleeps(void *arg)
{
	CHECK_OK(attach(2));
	while (!*(volatile int *)arg)
		pause_briefly();
	return NULL;
}

TEST(time_off_the_cpu_grows_while_asleep_only)
{
	uint64_t before, begin, off;
	volatile int stop = 0;
	pthread_t sleeper;

	map_table();
	CHECK_OK(attach(1));
	CHECK_EQ(areas[1].off, 0);
	pin_to_cpu(sched_getcpu());
	begin = __rdtsc();
	before = areas[1].off;
	usleep(50000);
	off = areas[1].off - before;
	CHECK(off <= __rdtsc() - begin);
	/* Nearly all of it. */
	CHECK(off >= (__rdtsc() - begin) / 4 * 3);

	/* While it runs it may be preempted: what is off is not on. */
	begin = __rdtsc();
	before = areas[1].off;
	burn_ns(20000000);
	CHECK(areas[1].off - before < __rdtsc() - begin);

	/* It is the thread's own. */
	sleeper = thread_start(starts_and_sleeps, (void *)&stop);
	WAIT_FOR(areas[2].off > 0);
	stop = 1;
	thread_join(sleeper);
}

/* A fiber as an engine writes it down. */
static void show(uint64_t id, uint32_t state, uint32_t area, const char *name)
{
	struct fiber_slot *slot = &slots[id & ((1 << FIBER_SLOT_BITS) - 1)];

	memset(slot, 0, sizeof(*slot));
	slot->state = state;
	slot->area = area;
	slot->parent = (uint32_t)gettid();
	memcpy(slot->name, name, strlen(name));
	slot->id = id;
}

/* In cycles, by the length of a cycle that the module has stored in a table that nobody wrote to. */
static uint64_t run_time_of(uint64_t ns)
{
	CHECK(head->mult);
	return (uint64_t)(((unsigned __int128)ns << head->shift) / head->mult);
}

TEST(proc_shows_them)
{
	struct fiber_slot *slot;

	map_table();
	CHECK_OK(commit(64));
	CHECK_OK(attach(1));
	show(1, FIBER_STATE_RUNNING, 1, "");
	areas[1].fiber = 1;
	areas[1].since = __rdtsc();
	areas[1].off_since = areas[1].off;
	show(2, FIBER_STATE_SUSPENDED, 0, "second\nline: \\");
	slot = &slots[2];
	slot->activations = 3;
	slot->failed = 4;
	slot->run_time = run_time_of(5000000000);
	slot->longest_run = run_time_of(1000000000);
	slot->entry = 0x1234;
	slot->sp = 0x5678;
	slot->ip = 0x9abc;
	slot->stack_start = 0x10000;
	slot->stack_size = 0x8000;
	show(3, FIBER_STATE_NEW, 0, "third");
	show((5UL << FIBER_SLOT_BITS) + 4, FIBER_STATE_FINISHED, 0, "fourth");

	CHECK(proc_is(1, "Running", "yes"));
	CHECK(proc_is(1, "State", "running"));
	CHECK_EQ(proc_number(1, "Thread id"), (uint64_t)gettid());
	CHECK(proc_is(1, "Engine", "mapped"));
	CHECK(proc_is(2, "Running", "no"));
	CHECK(proc_is(2, "State", "suspended"));
	CHECK(proc_is(2, "Name", "second\\012line: \\134"));
	CHECK_EQ(proc_number(2, "Number of activations"), 3);
	CHECK_EQ(proc_number(2, "Number of failed activations"), 4);
	CHECK_EQ(proc_number(2, "Parent thread id"), (uint64_t)gettid());
	CHECK(proc_is(2, "Initial entry point", "0x0000000000001234"));
	CHECK(proc_is(2, "Saved stack pointer", "0x0000000000005678"));
	CHECK(proc_is(2, "Saved instruction pointer", "0x0000000000009abc"));
	CHECK(proc_is(2, "Stack start", "0x0000000000010000"));
	CHECK_EQ(proc_number(2, "Stack size"), 0x8000);
	CHECK(proc_number(2, "CPU time ns") > 4999000000);
	CHECK(proc_number(2, "CPU time ns") < 5001000000);
	CHECK(proc_number(2, "Longest run ns") > 999800000);
	CHECK(proc_number(2, "Longest run ns") < 1000200000);
	CHECK(proc_is(3, "State", "new"));
	CHECK(proc_is((5UL << FIBER_SLOT_BITS) + 4, "State", "finished"));
	CHECK(!proc_exists(4));
	CHECK(!proc_exists((6UL << FIBER_SLOT_BITS) + 4));
	CHECK(!proc_exists(5));
}

TEST(a_slot_speaks_for_itself_only)
{
	map_table();
	CHECK_OK(commit(64));
	CHECK_OK(attach(1));
	slots[7].id = 8;
	slots[0].id = 1UL << FIBER_SLOT_BITS;
	CHECK(!proc_exists(7));
	CHECK(!proc_exists(8));
	slots[8].id = 8;
	CHECK(proc_exists(8));
}

static uint32_t worker_done;

static void *runs_then_dies(void *arg)
{
	CHECK_OK(attach(5));
	__atomic_store_n(&worker_done, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&worker_done, __ATOMIC_SEQ_CST) == 1)
		pause_briefly();
	thread_exit_raw();
	return arg;
}

/* What a vanished thread ran is shown as what its next owner makes of it. */
TEST(fibers_of_dead_threads)
{
	map_table();
	CHECK_OK(commit(64));
	thread_start_on_lasting_stack(runs_then_dies, NULL);
	WAIT_FOR(__atomic_load_n(&worker_done, __ATOMIC_SEQ_CST) == 1);
	show(2, FIBER_STATE_RUNNING, 5, "own");
	show(3, FIBER_STATE_RUNNING, 5, "created");
	slots[3].stack_size = 65536;
	CHECK(proc_is(2, "State", "running"));
	CHECK(proc_is(3, "Running", "yes"));
	__atomic_store_n(&worker_done, 2, __ATOMIC_SEQ_CST);
	WAIT_FOR(areas[5].dead);
	CHECK(proc_is(2, "State", "finished"));
	CHECK(proc_is(3, "State", "new"));
	CHECK(proc_is(3, "Running", "no"));
	CHECK_EQ(proc_number(3, "Thread id"), 0);
}

/* The time of a run that goes on counts, without that off the CPU. */
TEST(cpu_time_of_a_running_fiber)
{
	uint64_t begin, shown, used;

	map_table();
	CHECK_OK(commit(64));
	CHECK_OK(attach(1));
	show(1, FIBER_STATE_RUNNING, 1, "");
	areas[1].fiber = 1;
	areas[1].since = slots[1].last_switch = __rdtsc();
	areas[1].off_since = areas[1].off;
	begin = thread_cpu_ns();
	burn_ns(100000000);
	usleep(100000);
	burn_ns(100000000);
	shown = proc_number(1, "CPU time ns");
	used = thread_cpu_ns() - begin;
	CHECK(shown <= used + used / 10);
	CHECK(shown >= 200000000 - 20000000);
	CHECK_EQ(proc_number(1, "Longest run ns") / 100000000, shown / 100000000);
}

static void child_of_fork(void)
{
	uint64_t id;
	void *start;

	/* Nothing is mapped, and the parent's descriptor serves the parent. */
	CHECK(msync(head, 4096, MS_ASYNC) == -1 && errno == ENOMEM);
	CHECK(try_map(device, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, 0) == MAP_FAILED);
	CHECK_EQ((unsigned int)errno, EPERM);
	CHECK_ERR(attach(1), EPERM);
	CHECK_ERR(commit(1), EPERM);
	device = device_open();
	start = mmap(head, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, device, 0);
	CHECK(start == head);
	CHECK_EQ(head->magic, 0);
	CHECK_OK(commit(10));
	CHECK_OK(attach(1));
	CHECK_EQ(slots[1].id, 0);
	slots[1].id = 1;
	CHECK(proc_exists(1));
	CHECK_ERR(try_convert(0, &id), EEXIST);
}

TEST(a_forked_child_has_its_own)
{
	map_table();
	CHECK_OK(commit(64));
	CHECK_OK(attach(1));
	head->magic = 99;
	slots[1].id = 1;
	slots[2].id = 2;
	CHECK(dies_by(head, SIGSEGV));
	in_child(child_of_fork);
	CHECK_EQ(head->magic, 99);
	CHECK(proc_exists(2));
	CHECK_EQ(areas[1].dead, 0);
}

static void beyond_max_fibers(void)
{
	map_table();
	CHECK_OK(commit(17));
	CHECK_ERR(commit(18), EAGAIN);
}

TEST(max_fibers_bounds_the_slots)
{
	with_parameter("max_fibers", "16", beyond_max_fibers);
}

static void maps_and_attaches(void)
{
	map_table();
	CHECK_OK(commit(1000));
	CHECK_OK(attach(1));
	CHECK_ERR(attach(1), EEXIST);
}

static void maps_and_executes(void)
{
	maps_and_attaches();
	execl("/bin/true", "true", NULL);
	_exit(9);
}

TEST(nothing_stays)
{
	int i;

	for (i = 0; i < 5; i++) {
		in_child(maps_and_attaches);
		in_child(maps_and_executes);
	}
	counters_wait_none();
}
