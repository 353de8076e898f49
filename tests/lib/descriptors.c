/* SPDX-License-Identifier: MIT */
/* The program closes descriptors that it did not open, and has files of its own in their place. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

#define FILES	32
#define FIBERS	3000

static fiber_id_t home, fibers[FIBERS];
static int visits;
static ino_t number;

static void visited(void *arg)
{
	(void)arg;
	for (;;) {
		visits++;
		CHECK_RESULT(fiber_switch(home), 0);
	}
}

/* From here on each of these numbers is the program's file. */
static void files_open(void)
{
	char path[] = "/tmp/kfiber-XXXXXX";
	struct stat status;
	int i, file;

	for (i = 3; i < 3 + FILES; i++)
		close(i);
	file = mkstemp(path);
	CHECK(file == 3 && !unlink(path));
	for (i = 1; i < FILES; i++)
		CHECK(dup(file) == 3 + i);
	CHECK(write(file, "mine", 4) == 4);
	CHECK(!fstat(file, &status));
	number = status.st_ino;
}

static void files_check(void)
{
	char text[8];
	struct stat status;
	int i;

	for (i = 3; i < 3 + FILES; i++)
		CHECK(!fstat(i, &status) && status.st_ino == number && status.st_size == 4);
	CHECK(pread(3, text, sizeof(text), 0) == 4 && !memcmp(text, "mine", 4));
}

static void *converts(void *arg)
{
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_OK(fiber_revert());
	return arg;
}

static void uses_all(void)
{
	int i, before = visits;

	for (i = 0; i < FIBERS; i++)
		CHECK_OK(fiber_create(&fibers[i], visited, NULL, NULL));
	for (i = 0; i < FIBERS; i++) {
		CHECK_OK(fiber_switch(fibers[i]));
		CHECK(stat_of(fibers[i]).activations == 1);
	}
	CHECK(visits == before + FIBERS);
	thread_join(thread_start(converts, NULL));
	for (i = 0; i < FIBERS; i++)
		CHECK_OK(fiber_delete(fibers[i]));
}

static void child(void)
{
	files_check();
	if (!strcmp(fiber_engine(), "kernel"))
		CHECK_OK(fiber_convert(0, &home));
	uses_all();
	files_check();
}

TEST(a_programs_file_in_the_devices_place)
{
	CHECK_OK(fiber_convert(0, &home));
	files_open();
	/* Before the device is opened anew, too. */
	CHECK(in_child(child) == 0);
	files_check();
	uses_all();
	files_check();
	CHECK(in_child(child) == 0);
	files_check();
}
