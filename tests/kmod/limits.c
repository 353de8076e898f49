/* SPDX-License-Identifier: MIT */
/* Parameter max_fibers: EAGAIN beyond it, and nothing half-made. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define PARAMETER "/sys/module/fiber/parameters/max_fibers"

static void idle(void *arg)
{
	(void)arg;
	for (;;)
		CHECK_OK(fiber_switch(1));
}

/* No stack of its own: these never run. */
static long create_idle(uint64_t *id)
{
	struct fiber_create args = {
		.size = sizeof(args),
		.entry = (uintptr_t)idle,
		.stack_start = 65536,
		.stack_size = STACK_SIZE,
	};

	return try_create(&args, id);
}

static unsigned long parameter_read(void)
{
	FILE *file = fopen(PARAMETER, "r");
	unsigned long value;

	CHECK(file);
	CHECK(fscanf(file, "%lu", &value) == 1);
	fclose(file);
	return value;
}

static void parameter_write(unsigned long value)
{
	FILE *file = fopen(PARAMETER, "w");

	CHECK(file);
	CHECK(fprintf(file, "%lu\n", value) > 0);
	CHECK(fclose(file) == 0);
}

/* The parameter is read when the process opens the device: in the child. */
static void with_limit(unsigned long limit, void (*run)(void))
{
	unsigned long before;
	int status;

	if (geteuid())
		skip("only root sets " PARAMETER);
	before = parameter_read();
	parameter_write(limit);
	status = child_status(run);
	/* Whatever became of the child. */
	parameter_write(before);
	CHECK_EQ((unsigned int)status, 0);
	CHECK_EQ(parameter_read(), before);
}

static void *convert_beyond_the_limit(void *arg)
{
	uint64_t id;

	CHECK_ERR(try_convert(0, &id), EAGAIN);
	CHECK_EQ(id, POISON);
	CHECK_ERR(try_self(&id), EPERM);
	CHECK_EQ(id, POISON);
	return arg;
}

static void five_at_most(void)
{
	struct counters full;
	uint64_t id;

	convert(0);
	for (uint64_t i = 2; i <= 5; i++) {
		CHECK_OK(create_idle(&id));
		CHECK_EQ(id, i);
	}
	full = counters_read();
	CHECK_EQ(full.fibers, 5);
	for (int i = 0; i < 3; i++) {
		CHECK_ERR(create_idle(&id), EAGAIN);
		CHECK_EQ(id, POISON);
	}
	thread_join(thread_start(convert_beyond_the_limit, NULL));
	counters_wait(full);
	/* One goes, one may come. */
	CHECK_OK(fiber_delete(3));
	CHECK_OK(create_idle(&id));
	CHECK_EQ(id & ((1 << FIBER_SLOT_BITS) - 1), 3);
	CHECK_ERR(create_idle(&id), EAGAIN);
	CHECK_EQ(id, POISON);
	/* The others are as they were. */
	CHECK(proc_is(5, "State", "new"));
	CHECK_EQ(self(), 1);
	counters_wait(full);
}

TEST(limit_is_eagain)
{
	counters_wait_none();
	with_limit(5, five_at_most);
	counters_wait_none();
}

static void one_at_most(void)
{
	uint64_t id;

	convert(0);
	CHECK_ERR(create_idle(&id), EAGAIN);
	CHECK_EQ(id, POISON);
	thread_join(thread_start(convert_beyond_the_limit, NULL));
	/* Its place is free for the next. */
	revert();
	convert(0);
}

TEST(limit_of_one)
{
	with_limit(1, one_at_most);
}

/* As many as an id has slots for, without slot 0. */
#define MOST_FIBERS ((1UL << FIBER_SLOT_BITS) - 1)

TEST(limits_that_cannot_be_kept_are_refused)
{
	static const char *const wrong[] = {
		"0", "1048576", "5000000", "4294967297", "18446744073709551616", "-1", "", "many",
	};
	unsigned long before;
	int fd;

	if (geteuid())
		skip("only root sets " PARAMETER);
	before = parameter_read();
	for (unsigned int i = 0; i < ARRAY_SIZE(wrong); i++) {
		char line[32];
		int length = snprintf(line, sizeof(line), "%s\n", wrong[i]);

		fd = open(PARAMETER, O_WRONLY);
		CHECK(fd >= 0);
		if (write(fd, line, (size_t)length) != -1 ||
		    (errno != EINVAL && errno != ERANGE))
			check_failed(__FILE__, __LINE__, "max_fibers=%s was taken", wrong[i]);
		close(fd);
		CHECK_EQ(parameter_read(), before);
	}
	parameter_write(MOST_FIBERS);
	CHECK_EQ(parameter_read(), MOST_FIBERS);
	parameter_write(before);
}

static unsigned int listed(void)
{
	DIR *directory = opendir("/proc/self/fiber");
	unsigned int count = 0;
	struct dirent *entry;

	CHECK(directory);
	while ((entry = readdir(directory)))
		count += entry->d_name[0] != '.';
	closedir(directory);
	return count;
}

static void across_chunks(void)
{
	uint64_t id;

	convert(0);
	/* One more than a chunk of slots. */
	for (int i = 2; i <= 513; i++)
		CHECK_OK(create_idle(&id));
	CHECK_ERR(create_idle(&id), EAGAIN);
	CHECK_EQ(id, POISON);
	CHECK_EQ(listed(), 513);
	CHECK_ERR(fiber_switch(514), ESRCH);
}

TEST(limit_beyond_a_chunk)
{
	with_limit(513, across_chunks);
}

static bool scans(void)
{
	FILE *file = fopen("/sys/module/fiber/parameters/lookup", "re");
	char word[16] = "";

	CHECK(file && fgets(word, sizeof(word), file));
	fclose(file);
	return !strcmp(word, "scan\n");
}

/* The default, or whatever it is here. */
TEST(as_many_as_the_limit_allows)
{
	unsigned long limit = parameter_read();
	uint64_t id;

	if (limit > 70000)
		skip("max_fibers is %lu: that takes too long", limit);
	if (scans())
		skip("lookup=scan goes through all fibers at each creation: that takes too long");
	counters_wait_none();
	convert(0);
	for (unsigned long i = 2; i <= limit; i++)
		CHECK_OK(create_idle(&id));
	CHECK_EQ(id, limit);
	CHECK_ERR(create_idle(&id), EAGAIN);
	CHECK_EQ(id, POISON);
	CHECK_EQ(counters_read().fibers, limit);
	CHECK_EQ(listed(), limit);
	CHECK(proc_is(limit, "State", "new"));
}

TEST(default_limit_is_65536)
{

	CHECK_EQ(parameter_read(), 65536);
}
