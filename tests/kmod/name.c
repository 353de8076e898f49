/* SPDX-License-Identifier: MIT */
/* FIBER_IOC_SET_NAME, and the name given at creation. */
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "harness.h"

#define NAME_63 "123456789 123456789 123456789 123456789 123456789 123456789 123"
_Static_assert(sizeof(NAME_63) == FIBER_NAME_SIZE, "the longest name");

static void idle(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_OK(fiber_switch(1));
}

TEST(empty_unless_given)
{
	convert(0);
	CHECK(proc_is(1, "Name", ""));
	CHECK(proc_is(create(idle, NULL, 0, NULL), "Name", ""));
}

TEST(given_at_creation)
{
	convert(0);
	CHECK(proc_is(create(idle, NULL, 0, "a name: with 2 words"), "Name",
		      "a name: with 2 words"));
	CHECK(proc_is(create(idle, NULL, 0, NAME_63), "Name", NAME_63));
}

TEST(set_by_id_and_for_oneself)
{
	uint64_t id;

	convert(0);
	id = create(idle, NULL, 0, "before");
	CHECK_OK(fiber_rename(id, "after"));
	CHECK_OK(fiber_rename(0, "mine"));
	CHECK(proc_is(id, "Name", "after"));
	CHECK(proc_is(1, "Name", "mine"));
	CHECK_OK(fiber_rename(id, NAME_63));
	CHECK(proc_is(id, "Name", NAME_63));
	CHECK_OK(fiber_rename(id, ""));
	CHECK(proc_is(id, "Name", ""));
}

TEST(what_could_drive_a_terminal_is_shown_in_octal)
{
	convert(0);
	CHECK_OK(fiber_rename(0, "\033[2J \n \\ \177"));
	CHECK(proc_is(1, "Name", "\\033[2J \\012 \\134 \\177"));
	/* U+0080 to U+009F, of which terminals obey some; U+00A0 and others are text. */
	CHECK_OK(fiber_rename(0, "\302\200 \302\233 \302\237 \302\240 \303\233"));
	CHECK(proc_is(1, "Name", "\\302\\200 \\302\\233 \\302\\237 \302\240 \303\233"));
}

static void *rename_thread(void *arg)
{
	CHECK_ERR(fiber_rename(0, "nobody"), EPERM);
	CHECK_OK(fiber_rename(*(uint64_t *)arg, "by a thread"));
	return NULL;
}

TEST(thread_that_is_no_fiber_may_name_others)
{
	uint64_t id = 1;

	convert(0);
	thread_join(thread_start(rename_thread, &id));
	CHECK(proc_is(1, "Name", "by a thread"));
}

TEST(refused_names_change_nothing)
{
	struct fiber_name args = { .size = sizeof(args), .id = 1 };

	convert(0);
	CHECK_OK(fiber_rename(1, "kept"));
	memset(args.name, 'x', sizeof(args.name));
	CHECK_ERR(request(device, FIBER_IOC_SET_NAME, (unsigned long)&args), EINVAL);
	args.id = 0;
	CHECK_ERR(request(device, FIBER_IOC_SET_NAME, (unsigned long)&args), EINVAL);
	CHECK_ERR(request(device, FIBER_IOC_SET_NAME, 0), EFAULT);
	CHECK_ERR(request(device, FIBER_IOC_SET_NAME, UINT64_C(1) << 63), EFAULT);
	CHECK_ERR(fiber_rename(2, "nobody"), ESRCH);
	CHECK_ERR(fiber_rename(UINT64_MAX, "nobody"), ESRCH);
	CHECK_ERR(fiber_rename((UINT64_C(1) << FIBER_SLOT_BITS) | 1, "nobody"), ESRCH);
	CHECK(proc_is(1, "Name", "kept"));
}

TEST(bytes_behind_the_terminator_are_not_shown)
{
	struct fiber_name args = { .size = sizeof(args), .id = 1, .name = "short\0secret" };
	struct fiber_create create_args = {
		.size = sizeof(create_args),
		.entry = (uintptr_t)idle,
		.stack_start = 65536,
		.stack_size = STACK_SIZE,
		.name = "brief\0secret",
	};
	uint64_t id;

	convert(0);
	CHECK_OK(request(device, FIBER_IOC_SET_NAME, (unsigned long)&args));
	CHECK(proc_is(1, "Name", "short"));
	CHECK_OK(try_create(&create_args, &id));
	CHECK(proc_is(id, "Name", "brief"));
	/* A longer one before leaves nothing either. */
	CHECK_OK(fiber_rename(id, NAME_63));
	CHECK_OK(fiber_rename(id, "x"));
	CHECK(proc_is(id, "Name", "x"));
}

#define OTHER_63 "abcdefghi abcdefghi abcdefghi abcdefghi abcdefghi abcdefghi abc"

static atomic_bool stop;

static void *renamer(void *arg)
{
	while (!atomic_load(&stop)) {
		CHECK_OK(fiber_rename(1, NAME_63));
		CHECK_OK(fiber_rename(1, OTHER_63));
	}
	return arg;
}

TEST(reader_never_sees_half_a_name)
{
	pthread_t thread;
	int seen[2] = { 0, 0 };

	convert(0);
	CHECK_OK(fiber_rename(1, NAME_63));
	thread = thread_start(renamer, NULL);
	for (int i = 0; i < 300; i++) {
		char value[PROC_LINE];

		CHECK(proc_line(getpid(), 1, "Name", value));
		CHECK(!strcmp(value, NAME_63) || !strcmp(value, OTHER_63));
		seen[!strcmp(value, OTHER_63)]++;
	}
	atomic_store(&stop, true);
	thread_join(thread);
	CHECK(seen[0] + seen[1] == 300);
}
