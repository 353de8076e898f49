/* SPDX-License-Identifier: MIT */
/*
 * How much of the kernel's memory a user can get by fibers: max_user_kib over all that he has, in
 * as many processes, threads and user namespaces as he likes; and none of it stays.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
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

#include "harness.h"
#include "setting.h"

#define LIMIT_KIB	1024
#define LIMIT		"1024"
/* No fiber takes less than that, not even without FPU state and storage. */
#define FIBER_LEAST	200
#define PROCESSES	4

static struct {
	atomic_long made[PROCESSES + 1];
	atomic_int errors[PROCESSES + 1];
	atomic_bool stop;
} *shared;

static void share(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	CHECK(shared != MAP_FAILED);
}

static void idle(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_OK(fiber_switch(1));
}

static long create_idle(uint32_t flags, uint64_t *id)
{
	struct fiber_create args = {
		.size = sizeof(args), .flags = flags, .entry = (uintptr_t)idle,
		.stack_start = 65536, .stack_size = STACK_SIZE,
	};

	return try_create(&args, id);
}

/* As many as it gets: the error, and how many there were. */
static long create_all(uint32_t flags, long *count)
{
	uint64_t id;
	long err;

	for (*count = 0; !(err = create_idle(flags, &id)); ++*count)
		;
	CHECK_EQ(id, POISON);
	return err;
}

static int number;
static uint32_t number_flags;

/* One of several processes of the user. */
static void takes_its_share(void)
{
	uint64_t id;
	long count, err;

	become(USER_A);
	device = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
	err = device < 0 ? -errno : try_convert(0, &id);
	count = 0;
	if (!err)
		err = create_all(number_flags, &count);
	atomic_store(&shared->errors[number], (int)-err);
	atomic_store(&shared->made[number], count);
}

static long take_in_processes(uint32_t flags)
{
	pid_t pids[PROCESSES];
	long sum = 0;

	share();
	number_flags = flags;
	for (number = 0; number < PROCESSES; number++)
		pids[number] = start_until_ready(takes_its_share);
	for (int i = 0; i < PROCESSES; i++) {
		CHECK_EQ(atomic_load(&shared->errors[i]), EDQUOT);
		sum += atomic_load(&shared->made[i]);
	}
	for (int i = 0; i < PROCESSES; i++)
		end(pids[i]);
	return sum;
}

static void many_processes(void)
{
	long sum = take_in_processes(0);

	CHECK(sum > 500);
	CHECK(sum < LIMIT_KIB * 1024 / FIBER_LEAST);
}

TEST(processes_of_a_user_share_his_limit)
{
	run_with("max_user_kib", LIMIT, many_processes);
}

static void many_fpu_states(void)
{
	/* At least the legacy area and the header of XSAVE. */
	CHECK(take_in_processes(FIBER_FLAG_FPU) < LIMIT_KIB * 1024 / (FIBER_LEAST + 576));
}

TEST(fpu_state_counts)
{
	run_with("max_user_kib", LIMIT, many_fpu_states);
}

/* More often than all of it at once would fit; what is freed late is waited for. */
static void fills_storage(void)
{
	uint64_t index, id;

	become(USER_A);
	device = device_open();
	for (int i = 0; i < 3 * LIMIT_KIB / 8; i++) {
		WAIT_FOR(!try_convert(FIBER_FLAG_FPU, &id));
		for (int position = 0; position < FIBER_FLS_MAX; position++)
			WAIT_FOR(!fls_alloc(&index));
		revert();
	}
}

/* A fiber whose storage is as large as can be. */
static uint64_t storage_home;
static long storage_err;

static void takes_storage(void *arg)
{
	uint64_t index;

	(void)arg;
	storage_err = 0;
	for (int i = 0; i < FIBER_FLS_MAX && !storage_err; i++)
		storage_err = fls_alloc(&index);
	for (;;)
		fiber_switch(storage_home);
}

static void storage_of_many_fibers(void)
{
	void *stack = stack_new(STACK_SIZE);
	unsigned int full = 0;
	long err = 0;

	become(USER_A);
	storage_home = convert(0);
	while (!err) {
		struct fiber_create args = {
			.size = sizeof(args), .entry = (uintptr_t)takes_storage,
			.stack_start = (uintptr_t)stack, .stack_size = STACK_SIZE,
		};
		uint64_t id;

		err = try_create(&args, &id);
		if (err)
			break;
		/* They use one stack after the other, and never come back to it. */
		CHECK_OK(fiber_switch(id));
		err = storage_err;
		full += !err;
	}
	CHECK_ERR(err, EDQUOT);
	/* 1,024 values are 8 KiB. */
	CHECK(full > 20);
	CHECK(full <= LIMIT_KIB / 8);
}

TEST(storage_counts)
{
	run_with("max_user_kib", LIMIT, storage_of_many_fibers);
}

TEST(storage_of_a_reverted_thread_is_given_back)
{
	run_with("max_user_kib", LIMIT, fills_storage);
}

static atomic_int refused, threads_done;

static void *converts(void *arg)
{
	uint64_t id;
	long err = try_convert(FIBER_FLAG_FPU, &id);

	if (err == -EDQUOT)
		atomic_fetch_add(&refused, 1);
	else
		CHECK_OK(err);
	atomic_fetch_add(&threads_done, 1);
	return arg;
}

#define THREADS 60

static void many_threads(void)
{
	pthread_t threads[THREADS];
	uint64_t id;
	long count;

	become(USER_A);
	convert(0);
	CHECK_ERR(create_all(0, &count), EDQUOT);
	CHECK(count > 100);
	for (int i = 0; i < THREADS; i++)
		threads[i] = thread_start(converts, NULL);
	for (int i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	CHECK_EQ((unsigned int)atomic_load(&refused), THREADS);
	/* What was refused has left nothing, and there is room where something goes. */
	for (int i = 0; i < 20; i++)
		CHECK_OK(fiber_delete(2 + (unsigned int)i));
	WAIT_FOR(!try_create(&(struct fiber_create) {
			.size = sizeof(struct fiber_create), .entry = 1, .stack_start = 65536,
			.stack_size = STACK_SIZE,
		}, &id));
}

TEST(threads_count)
{
	run_with("max_user_kib", LIMIT, many_threads);
}

static void opens_only(void)
{
	become(USER_A);
	device = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
	atomic_store(&shared->errors[0], device < 0 ? errno : 0);
}

static void many_openers(void)
{
	pid_t pids[200];
	unsigned int count = 0;

	share();
	while (count < ARRAY_SIZE(pids)) {
		pids[count++] = start_until_ready(opens_only);
		if (atomic_load(&shared->errors[0]))
			break;
	}
	CHECK_EQ((unsigned int)atomic_load(&shared->errors[0]), EDQUOT);
	while (count)
		end(pids[--count]);
}

/*
 * Far more than the limit in all, but two at a time: memory that waits for its readers does not
 * count, so nobody can make these requests fail by reading slowly.
 */
static void makes_and_deletes(void)
{
	uint64_t id;

	become(USER_A);
	device = device_open();
	CHECK_OK(try_convert(0, &id));
	for (int i = 0; i < 20000; i++) {
		CHECK_OK(create_idle(FIBER_FLAG_FPU, &id));
		CHECK_OK(fiber_delete(id));
	}
}

static void many_deletions(void)
{
	in_child(makes_and_deletes);
}

TEST(what_is_deleted_does_not_count)
{
	run_with("max_user_kib", LIMIT, many_deletions);
}

static void converts_only(void)
{
	uint64_t id;

	become(USER_A);
	device = device_open();
	CHECK_OK(try_convert(0, &id));
}

#define RESTARTS 20

/* Most of the limit, so that two of them are more than all of it. */
static void takes_most(void)
{
	uint64_t id;

	for (long i = 0; i < atomic_load(&shared->made[0]) * 6 / 10; i++)
		CHECK_OK(create_idle(0, &id));
}

static void lives_once(void)
{
	become(USER_A);
	convert(0);
	takes_most();
}

static void takes_all(void)
{
	long count;

	become(USER_A);
	convert(0);
	CHECK_ERR(create_all(0, &count), EDQUOT);
	atomic_store(&shared->made[0], count);
}

static int go[2];

/* Is there already, and takes its memory as soon as the other one has ended. */
static void comes_next(void)
{
	char byte;

	become(USER_A);
	convert(0);
	CHECK(read(go[0], &byte, 1) == 1);
	takes_most();
}

static void start_again(void)
{
	share();
	in_child(takes_all);
	for (int i = 0; i < RESTARTS; i++) {
		pid_t next;

		counters_wait_none();
		CHECK(pipe(go) == 0);
		next = child_start(comes_next);
		in_child(lives_once);
		CHECK(write(go[1], "x", 1) == 1);
		child_join(next);
		close(go[0]);
		close(go[1]);
	}
}

/* What the first one had waits for readers still, whom anybody can delay. */
TEST(a_process_that_starts_again_has_room)
{
	run_with("max_user_kib", LIMIT, start_again);
}

/*
 * Pages, which are there sooner than the fibers of the dying are freed: as many as there is room
 * for, until the last try.
 */
static long commit_all(void)
{
	unsigned long slots = 0;
	bool last;

	do {
		long err;

		last = atomic_load(&shared->stop);
		while (!(err = request(device, FIBER_IOC_COMMIT, slots + 64)))
			slots += 64;
		CHECK_ERR(err, EDQUOT);
	} while (!last);
	return (long)slots;
}

static void has_a_table(void)
{
	become(USER_A);
	device = device_open();
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0) != MAP_FAILED);
}

static void commits_alone(void)
{
	has_a_table();
	atomic_store(&shared->made[1], commit_all());
}

static void commits_what_is_left(void)
{
	char byte;

	has_a_table();
	CHECK(read(go[0], &byte, 1) == 1);
	atomic_store(&shared->made[2], commit_all());
}

static void takes_all_and_leaves(void)
{
	takes_all();
	CHECK(write(go[1], "x", 1) == 1);
}

static void one_after_the_other(void)
{
	share();
	atomic_store(&shared->stop, true);
	in_child(commits_alone);
	for (int i = 0; i < RESTARTS / 4; i++) {
		pid_t next;

		counters_wait_none();
		atomic_store(&shared->stop, false);
		CHECK(pipe(go) == 0);
		next = child_start(commits_what_is_left);
		in_child(takes_all_and_leaves);
		WAIT_FOR(!counters_read().fibers);
		atomic_store(&shared->stop, true);
		child_join(next);
		close(go[0]);
		close(go[1]);
		CHECK(atomic_load(&shared->made[2]) > atomic_load(&shared->made[1]) / 2);
		CHECK(atomic_load(&shared->made[2]) <= atomic_load(&shared->made[1]));
	}
}

/* Memory that is freed already does not wait: or the next one got it twice. */
TEST(the_dying_leave_no_more_than_they_had)
{
	run_with("max_user_kib", "4096", one_after_the_other);
}

/* Each entry is kept by somebody else's open directory after its process has ended. */
static void many_kept_entries(void)
{
	for (int i = 0; i < 400; i++) {
		pid_t pid = start_until_ready(converts_only);
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/fiber", pid);
		CHECK(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) >= 0);
		end(pid);
	}
	in_child(converts_only);
}

TEST(entries_that_others_keep_are_not_paid_for)
{
	run_with("max_user_kib", "256", many_kept_entries);
}

/* A process's entry takes memory before there is any fiber. */
TEST(process_entries_count)
{
	run_with("max_user_kib", "16", many_openers);
}

static void other_user(void)
{
	long count;

	become(USER_B);
	convert(0);
	CHECK_ERR(create_all(0, &count), EDQUOT);
	CHECK(count > 500);
}

static void one_at_his_limit(void)
{
	pid_t pid;

	share();
	number = 0;
	pid = start_until_ready(takes_its_share);
	CHECK_EQ((unsigned int)atomic_load(&shared->errors[0]), EDQUOT);
	/* Neither another user nor root is held by that. */
	in_child(other_user);
	convert(0);
	for (int i = 0; i < 4000; i++) {
		uint64_t id;

		CHECK_OK(create_idle(FIBER_FLAG_FPU, &id));
	}
	end(pid);
}

TEST(others_have_their_own)
{
	run_with("max_user_kib", LIMIT, one_at_his_limit);
}

static void root_without_the_capability(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2];
	long count;

	CHECK(syscall(SYS_capget, &header, sets) == 0);
	sets[0].effective &= ~(1U << CAP_SYS_RESOURCE);
	CHECK(syscall(SYS_capset, &header, sets) == 0);
	convert(0);
	CHECK_ERR(create_all(0, &count), EDQUOT);
	CHECK(count > 500);
}

TEST(root_without_its_capability_is_as_others)
{
	run_with("max_user_kib", LIMIT, root_without_the_capability);
}

/* User namespaces */

static void write_map(const char *file, pid_t pid, uid_t outside)
{
	char path[48], text[32];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	snprintf(text, sizeof(text), "0 %u 1", outside);
	CHECK_OK(file_write(path, text));
}

static int depth;

/* Root in a namespace of his own, which the user has made; and so on inwards. */
static void takes_in_a_namespace(void)
{
	uint64_t id;
	long count = 0, err;

	become(USER_A);
	for (int i = 0; i < depth; i++) {
		uid_t outside = geteuid();

		if (unshare(CLONE_NEWUSER))
			skip("this kernel gives users no namespaces: %s", strerror(errno));
		CHECK_OK(file_write("/proc/self/setgroups", "deny"));
		write_map("uid_map", getpid(), outside);
		write_map("gid_map", getpid(), outside);
		CHECK(setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0);
	}
	device = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
	err = device < 0 ? -errno : try_convert(0, &id);
	if (!err)
		err = create_all(0, &count);
	atomic_store(&shared->errors[number], (int)-err);
	atomic_store(&shared->made[number], count);
}

static void in_namespaces(void)
{
	pid_t pids[PROCESSES + 1];
	long sum = 0;

	share();
	for (number = 0; number < PROCESSES; number++) {
		depth = number + 1;
		pids[number] = start_until_ready(takes_in_a_namespace);
	}
	for (int i = 0; i < PROCESSES; i++) {
		CHECK_EQ((unsigned int)atomic_load(&shared->errors[i]), EDQUOT);
		sum += atomic_load(&shared->made[i]);
	}
	CHECK(sum > 500);
	CHECK(sum < LIMIT_KIB * 1024 / FIBER_LEAST);
	/* The user outside has nothing left either. */
	number = PROCESSES;
	pids[PROCESSES] = start_until_ready(takes_its_share);
	CHECK_EQ((unsigned int)atomic_load(&shared->errors[PROCESSES]), EDQUOT);
	CHECK(atomic_load(&shared->made[PROCESSES]) < 100);
	for (int i = 0; i <= PROCESSES; i++)
		end(pids[i]);
}

TEST(namespaces_give_no_more)
{
	run_with("max_user_kib", LIMIT, in_namespaces);
}

/*
 * What waits for its readers slows a user down in all of his namespaces together. Two have most
 * of a limit waiting each, unless a grace period ends in between: then it is tried again.
 */
#define ROUNDS 50
/* No grace period is shorter. */
#define GRACE_MS 4

static int asked[2], answered[2];

static void enter_a_namespace(void)
{
	uint64_t id;

	become(USER_A);
	if (unshare(CLONE_NEWUSER))
		skip("this kernel gives users no namespaces: %s", strerror(errno));
	device = device_open();
	CHECK_OK(try_convert(0, &id));
}

/* Makes as many as it gets, at most @most, and deletes them: how many there were. */
static long makes_and_leaves(long most)
{
	uint64_t ids[LIMIT_KIB * 1024 / FIBER_LEAST];
	long count = 0;

	while (count < most && !create_idle(0, &ids[count]))
		count++;
	for (long i = 0; i < count; i++)
		CHECK_OK(fiber_delete(ids[i]));
	return count;
}

static void leaves_most(void)
{
	makes_and_leaves(atomic_load(&shared->made[0]) * 9 / 10);
}

static long sleeps(void)
{
	struct rusage usage;

	CHECK(getrusage(RUSAGE_THREAD, &usage) == 0);
	return usage.ru_nvcsw;
}

static void second_of_two(void)
{
	char slept;
	uint64_t id;

	enter_a_namespace();
	close(asked[1]);
	while (read(asked[0], &slept, 1) == 1) {
		long before;

		leaves_most();
		before = sleeps();
		CHECK_OK(create_idle(0, &id));
		slept = sleeps() != before;
		CHECK_OK(fiber_delete(id));
		CHECK(write(answered[1], &slept, 1) == 1);
	}
}

static void first_of_two(void)
{
	uint64_t least = UINT64_MAX, began, took;
	char slept = 0;

	enter_a_namespace();
	/* There are two processes already. */
	CHECK(write(asked[1], &slept, 1) == 1);
	CHECK(read(answered[0], &slept, 1) == 1);
	atomic_store(&shared->made[0], makes_and_leaves(LONG_MAX));
	slept = 0;
	for (int i = 0; i < ROUNDS && !slept; i++) {
		/* Nothing waits any more. */
		usleep(100000);
		began = now_ms();
		leaves_most();
		CHECK(write(asked[1], &slept, 1) == 1);
		CHECK(read(answered[0], &slept, 1) == 1);
		took = now_ms() - began;
		least = took < least ? took : least;
	}
	if (!slept && least > GRACE_MS)
		skip("the machine is so slow that a grace period ends in between: %u ms",
		     (unsigned int)least);
	CHECK(slept);
}

static void in_two_namespaces(void)
{
	pid_t second;

	share();
	CHECK(pipe(asked) == 0 && pipe(answered) == 0);
	second = child_start(second_of_two);
	in_child(first_of_two);
	close(asked[1]);
	child_join(second);
}

TEST(namespaces_are_slowed_down_together)
{
	run_with("max_user_kib", "128", in_two_namespaces);
}

static void changes_its_user(void)
{
	long count, more;

	if (geteuid())
		skip("only root changes its user");
	/* Who opened the device pays, as long as this process lives. */
	CHECK(setresuid(USER_A, USER_A, 0) == 0);
	convert(0);
	CHECK_ERR(create_all(0, &count), EDQUOT);
	CHECK(setresuid(0, 0, 0) == 0);
	CHECK(setresuid(USER_B, USER_B, 0) == 0);
	CHECK_ERR(create_all(0, &more), EDQUOT);
	CHECK(more < count / 10);
	CHECK_OK(fiber_delete(2));
}

TEST(who_changes_his_user_gains_nothing)
{
	run_with("max_user_kib", LIMIT, changes_its_user);
}

/* Limits of the kernel's own count nothing of ours, and nothing breaks at them. */
static void no_locked_memory(void)
{
	static const struct rlimit none = { 0, 0 };
	char *table;

	become(USER_A);
	CHECK(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
	device = device_open();
	table = mmap(NULL, FIBER_TABLE_SIZE(100), PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	CHECK(table != MAP_FAILED);
	CHECK_OK(request(device, FIBER_IOC_COMMIT, 100));
	CHECK_OK(request(device, FIBER_IOC_ATTACH, 1));
	table[FIBER_TABLE_SLOTS_AT] = 1;
}

TEST(locked_memory_is_another_matter)
{
	if (geteuid())
		skip("only root becomes another user");
	in_child(no_locked_memory);
	counters_wait_none();
}

static void refused_by_address_space(void)
{
	struct rlimit small = { 64UL << 20, 64UL << 20 };

	become(USER_A);
	device = device_open();
	CHECK(setrlimit(RLIMIT_AS, &small) == 0);
	CHECK(mmap(NULL, FIBER_TABLE_SIZE(1UL << FIBER_SLOT_BITS), PROT_READ | PROT_WRITE,
		   MAP_SHARED, device, 0) == MAP_FAILED && errno == ENOMEM);
	convert(0);
}

TEST(address_space_is_limited)
{
	if (geteuid())
		skip("only root becomes another user");
	in_child(refused_by_address_space);
	counters_wait_none();
}
