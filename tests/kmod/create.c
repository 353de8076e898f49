/* SPDX-License-Identifier: MIT */
/* FIBER_IOC_CREATE: what it gives, and what it refuses. */
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

/* The end of what a process can map: 47 bits, 56 with five levels of page tables. */
static uint64_t user_end(void)
{
	char line[4096];
	bool five = false;
	FILE *file = fopen("/proc/cpuinfo", "r");

	CHECK(file);
	while (!five && fgets(line, sizeof(line), file))
		five = !strncmp(line, "flags", 5) && strstr(line, " la57");
	fclose(file);
	return (UINT64_C(1) << (five ? 56 : 47)) - 4096;
}

static void idle(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_OK(fiber_switch(1));
}

static struct fiber_create good_arguments(void)
{
	return (struct fiber_create) {
		.size = sizeof(struct fiber_create),
		.entry = (uintptr_t)idle,
		.stack_start = (uintptr_t)stack_new(STACK_SIZE),
		.stack_size = STACK_SIZE,
	};
}

TEST(ids_count_up)
{
	convert(0);
	for (uint64_t id = 2; id < 10; id++)
		CHECK_EQ(create(idle, NULL, 0, NULL), id);
}

TEST(new_fiber_waits_before_its_first_instruction)
{
	uint64_t id;

	convert(0);
	id = create(idle, NULL, 0, NULL);
	CHECK(proc_is(id, "Running", "no"));
	CHECK(proc_is(id, "State", "new"));
	CHECK(proc_is(id, "Thread id", "0"));
	CHECK_EQ(proc_number(id, "Number of activations"), 0);
	CHECK_EQ(proc_number(id, "Initial entry point"), (uintptr_t)idle);
	CHECK_EQ(proc_number(id, "Saved instruction pointer"), (uintptr_t)idle);
}

static uint64_t seen;

static void note_argument(void *arg)
{
	seen = (uintptr_t)arg;
	CHECK_OK(fiber_switch(1));
}

/* A library's own code before the function that tools show. */
TEST(it_may_begin_elsewhere_than_shown)
{
	struct fiber_create args = good_arguments();
	uint64_t id;

	convert(0);
	args.start = (uintptr_t)note_argument;
	args.arg = POISON;
	CHECK_OK(try_create(&args, &id));
	CHECK_EQ(proc_number(id, "Initial entry point"), (uintptr_t)idle);
	CHECK_EQ(proc_number(id, "Saved instruction pointer"), (uintptr_t)note_argument);
	CHECK_OK(fiber_switch(id));
	CHECK_EQ(seen, POISON);
}

TEST(argument_is_passed_whole)
{
	convert(0);
	CHECK_OK(fiber_switch(create(note_argument, (void *)POISON, 0, NULL)));
	CHECK_EQ(seen, POISON);
}

TEST(stack_is_not_written)
{
	struct fiber_create args = good_arguments();
	static const char zeros[STACK_SIZE];
	uint64_t id;

	convert(0);
	memset((void *)args.stack_start, 0, STACK_SIZE);
	CHECK_OK(try_create(&args, &id));
	CHECK(!memcmp((void *)args.stack_start, zeros, STACK_SIZE));
}

TEST(stack_need_not_be_mapped_at_creation)
{
	struct fiber_create args = good_arguments();
	uint64_t id;

	convert(0);
	CHECK(munmap((void *)args.stack_start, STACK_SIZE) == 0);
	CHECK_OK(try_create(&args, &id));
	CHECK(mmap((void *)args.stack_start, STACK_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (void *)args.stack_start);
	CHECK_OK(fiber_switch(id));
}

/* Reaches down to the last page of a stack of that many bytes. */
static __attribute__((noinline)) uintptr_t descend(uintptr_t floor)
{
	volatile char frame[1024];

	frame[0] = 1;
	if ((uintptr_t)frame > floor + 8192)
		return descend(floor) + (uintptr_t)frame[0];
	return 1;
}

static void use_all_of_the_stack(void *arg)
{
	seen = descend((uintptr_t)arg);
	CHECK_OK(fiber_switch(1));
}

/* The report's module began each stack 8 KiB above its start. */
TEST(stack_size_is_honoured)
{
	static const size_t sizes[] = { 65536, 1 << 20, (1 << 20) + 4096, 8 << 20 };

	convert(0);
	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		void *stack = stack_new(sizes[i]);
		struct fiber_create args = {
			.size = sizeof(args),
			.entry = (uintptr_t)use_all_of_the_stack,
			.arg = (uintptr_t)stack,
			.stack_start = (uintptr_t)stack,
			.stack_size = sizes[i],
		};
		uint64_t id;

		CHECK_OK(try_create(&args, &id));
		CHECK_EQ(proc_number(id, "Stack size"), sizes[i]);
		CHECK_EQ(proc_number(id, "Saved stack pointer"), stack_top(stack, sizes[i]));
		seen = 0;
		CHECK_OK(fiber_switch(id));
		CHECK(seen >= (sizes[i] - 12288) / 2048);
	}
}

/* Start and end may be any address; rsp is as after a call. */
TEST(stack_bounds_need_no_alignment)
{
	struct fiber_create args = good_arguments();
	uint64_t start = args.stack_start, id;

	convert(0);
	for (unsigned int odd = 0; odd < 32; odd++) {
		args.stack_start = start + odd;
		args.stack_size = STACK_SIZE - 64 - odd / 3;
		CHECK_OK(try_create(&args, &id));
		CHECK_EQ(proc_number(id, "Saved stack pointer"),
			 stack_top((void *)args.stack_start, args.stack_size));
		CHECK_EQ(proc_number(id, "Stack start"), args.stack_start);
	}
}

TEST(smallest_stack_is_4096_bytes)
{
	struct fiber_create args = good_arguments();
	uint64_t id;

	convert(0);
	args.stack_size = FIBER_STACK_MIN;
	CHECK_OK(try_create(&args, &id));
	args.stack_size = FIBER_STACK_MIN - 1;
	CHECK_ERR(try_create(&args, &id), EINVAL);
	CHECK_EQ(id, POISON);
	args.stack_size = 0;
	CHECK_ERR(try_create(&args, &id), EINVAL);
	CHECK_EQ(id, POISON);
}

static void *create_thread(void *arg)
{
	struct fiber_create args = good_arguments();
	uint64_t id;

	CHECK_ERR(try_create(&args, &id), EPERM);
	CHECK_EQ(id, POISON);
	return arg;
}

TEST(only_fibers_create)
{
	convert(0);
	thread_join(thread_start(create_thread, NULL));
}

struct refusal {
	struct fiber_create args;
	int err;
};

/* One wrong field at a time. */
static struct refusal with_entry(uint64_t entry, int err)
{
	struct refusal refusal = { good_arguments(), err };

	refusal.args.entry = entry;
	return refusal;
}

static struct refusal with_start(uint64_t start)
{
	struct refusal refusal = { good_arguments(), EFAULT };

	refusal.args.start = start;
	return refusal;
}

static struct refusal with_stack(uint64_t start, uint64_t size, int err)
{
	struct refusal refusal = { good_arguments(), err };

	refusal.args.stack_start = start;
	refusal.args.stack_size = size;
	return refusal;
}

static struct refusal with_flags(uint32_t flags)
{
	struct refusal refusal = { good_arguments(), EINVAL };

	refusal.args.flags = flags;
	return refusal;
}

TEST(bad_arguments_are_refused)
{
	uint64_t end = user_end();
	struct refusal refusals[] = {
		with_entry(0, EFAULT),
		with_entry(end, EFAULT),
		with_entry(end + 4096, EFAULT),
		with_entry(UINT64_C(1) << 62, EFAULT),
		with_entry(UINT64_C(0xffffffff81000000), EFAULT),
		with_entry(UINT64_MAX, EFAULT),
		with_start(end),
		with_start(UINT64_MAX),
		with_stack(0, STACK_SIZE, EFAULT),
		with_stack(end - STACK_SIZE + 1, STACK_SIZE, EFAULT),
		with_stack(end, STACK_SIZE, EFAULT),
		with_stack(UINT64_C(1) << 62, STACK_SIZE, EFAULT),
		with_stack(UINT64_C(0xffff888000000000), STACK_SIZE, EFAULT),
		with_stack(65536, end, EFAULT),
		with_stack(65536, UINT64_C(1) << 62, EFAULT),
		with_stack(65536, UINT64_MAX, EINVAL),
		with_stack(65536, UINT64_MAX - 65535, EINVAL),
		with_stack(UINT64_MAX - 4095, 4096, EINVAL),
		with_stack(UINT64_MAX, UINT64_MAX, EINVAL),
		with_flags(2),
		with_flags(FIBER_FLAG_FPU | 2),
		with_flags(UINT32_C(1) << 31),
		with_flags(UINT32_MAX),
	};
	struct counters before;
	uint64_t id;

	counters_wait_none();
	convert(0);
	before = counters_read();
	for (unsigned int i = 0; i < ARRAY_SIZE(refusals); i++) {
		long err = try_create(&refusals[i].args, &id);

		if (err != -refusals[i].err)
			check_failed(__FILE__, __LINE__, "refusal %u: %ld instead of %d", i, err,
				     -refusals[i].err);
		CHECK_EQ(id, POISON);
	}
	counters_wait(before);
	/* Not even an id is lost. */
	CHECK_EQ(create(idle, NULL, 0, NULL), 2);
}

TEST(all_of_user_space_may_be_named)
{
	struct fiber_create args = good_arguments();
	uint64_t end = user_end(), id;

	convert(0);
	args.entry = end - 1;
	CHECK_OK(try_create(&args, &id));
	args.entry = 1;
	CHECK_OK(try_create(&args, &id));
	args.stack_start = end - STACK_SIZE;
	CHECK_OK(try_create(&args, &id));
}

TEST(arguments_that_cannot_be_read_or_answered)
{
	struct fiber_create args = good_arguments();
	char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct counters before;

	CHECK(pages != MAP_FAILED);
	counters_wait_none();
	convert(0);
	before = counters_read();
	CHECK_ERR(request(device, FIBER_IOC_CREATE, 0), EFAULT);
	CHECK_ERR(request(device, FIBER_IOC_CREATE, UINT64_C(1) << 63), EFAULT);
	/* All but its last byte can be read. */
	CHECK(munmap(pages + 4096, 4096) == 0);
	memcpy(pages + 4096 - sizeof(args) + 1, &args, sizeof(args) - 1);
	CHECK_ERR(request(device, FIBER_IOC_CREATE,
			  (unsigned long)pages + 4096 - sizeof(args) + 1), EFAULT);
	/* It can be read, but takes no id. */
	memcpy(pages, &args, sizeof(args));
	CHECK(mprotect(pages, 4096, PROT_READ) == 0);
	CHECK_ERR(request(device, FIBER_IOC_CREATE, (unsigned long)pages), EFAULT);
	counters_wait(before);
	CHECK_EQ(create(idle, NULL, 0, NULL), 2);
}

TEST(unterminated_name_is_refused)
{
	struct fiber_create args = good_arguments();
	uint64_t id;

	convert(0);
	memset(args.name, 'x', sizeof(args.name));
	CHECK_ERR(try_create(&args, &id), EINVAL);
	CHECK_EQ(id, POISON);
	args.name[FIBER_NAME_SIZE - 1] = '\0';
	CHECK_OK(try_create(&args, &id));
}

static atomic_int ended_tid;

static void return_at_once(void *arg)
{
	(void)arg;
	atomic_store(&ended_tid, gettid());
}

static void *run_returning(void *arg)
{
	convert(0);
	fiber_switch(*(uint64_t *)arg);
	check_failed(__FILE__, __LINE__, "a fiber's end came back to its thread");
}

/* The address on top of its stack is what it returns to. */
TEST(fiber_that_returns_ends_its_thread)
{
	uint64_t id;
	pid_t tid;

	convert(0);
	id = create(return_at_once, NULL, 0, NULL);
	thread_join(thread_start(run_returning, &id));
	tid = atomic_load(&ended_tid);
	CHECK(tid && tid != gettid());
	WAIT_FOR(thread_state(tid) == 'X');
}
