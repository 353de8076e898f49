/* SPDX-License-Identifier: MIT */
/* What libfiber does where there is no module, or one of another version. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "check.h"

static const char *device_target;
static int opened;

/* The library's own open(), seen from here: /dev/fiber can be made another file, or none. */
int open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list list;

	if (flags & O_CREAT) {
		va_start(list, flags);
		mode = va_arg(list, mode_t);
		va_end(list);
	}
	if (!strcmp(path, "/dev/fiber")) {
		opened++;
		CHECK(flags & O_CLOEXEC);
		path = device_target;
	}
	return openat(AT_FDCWD, path, flags, mode);
}

static void nothing(void *arg)
{
	(void)arg;
}

TEST(no_device)
{
	fiber_id_t id = POISON;
	uint64_t value = POISON;

	CHECK_OK(fiber_set_engine("kernel"));
	device_target = "/dev/there is no such device";
	CHECK(!fiber_engine());
	CHECK_ERR(fiber_convert(0, &id), ENODEV);
	CHECK(opened == 2);
	/* Nothing is fixed until an engine is open. */
	CHECK_OK(fiber_set_engine("kernel"));
	CHECK_ERR(fiber_self(&id), EPERM);
	CHECK_ERR(fiber_create(&id, nothing, NULL, NULL), ENODEV);
	CHECK_ERR(fiber_switch(1), EPERM);
	CHECK_ERR(fiber_revert(), EPERM);
	CHECK_ERR(fiber_delete(1), ESRCH);
	CHECK_ERR(fiber_set_name(0, ""), EPERM);
	CHECK_ERR(fiber_fls_alloc(&value), EPERM);
	CHECK_ERR(fiber_fls_get(0, &value), EPERM);
	CHECK(!fiber_data());
	CHECK(id == POISON && value == POISON);
}

TEST(a_device_that_comes_later)
{
	CHECK_OK(fiber_set_engine("kernel"));
	device_target = "/dev/there is no such device";
	CHECK_ERR(fiber_convert(0, NULL), ENODEV);
	device_target = "/dev/null";
	CHECK_ERR(fiber_convert(0, NULL), EPROTO);
}

TEST(a_device_that_is_not_the_modules)
{
	CHECK_OK(fiber_set_engine("kernel"));
	device_target = "/dev/null";
	CHECK(!fiber_engine());
	CHECK_ERR(fiber_convert(0, NULL), EPROTO);
	/* It left no descriptor behind. */
	CHECK(openat(AT_FDCWD, "/dev/null", O_RDONLY) == 3);
}

TEST(a_device_that_must_not_be_opened)
{
	CHECK_OK(fiber_set_engine("kernel"));
	device_target = "/";	/* EISDIR stands for all that open() may say */
	CHECK_ERR(fiber_convert(0, NULL), EISDIR);
}

TEST(an_engine_that_does_not_exist)
{
	setenv("KFIBER_ENGINE", "nonsense", 1);
	CHECK_ERR(fiber_convert(0, NULL), EINVAL);
	CHECK(!fiber_engine());
	CHECK(opened == 0);
}

TEST(an_empty_variable_is_none)
{
	setenv("KFIBER_ENGINE", "", 1);
	device_target = "/dev/null";
	CHECK_OK(fiber_convert(0, NULL));
	CHECK(opened == 1);
}

TEST(a_choice_goes_before_the_variable)
{
	setenv("KFIBER_ENGINE", "nonsense", 1);
	device_target = "/dev/null";
	CHECK_OK(fiber_set_engine("kernel"));
	CHECK_ERR(fiber_convert(0, NULL), EPROTO);
}

static void automatic(const char *device)
{
	device_target = device;
	CHECK_OK(fiber_convert(0, NULL));
	CHECK(opened == 1);
	CHECK(!strcmp(fiber_engine(), "local"));
	/* Chosen once: a device that comes later is not asked for. */
	CHECK_OK(fiber_revert());
	CHECK_OK(fiber_convert(0, NULL));
	CHECK(opened == 1);
}

TEST(automatically_local_without_a_device)
{
	automatic("/dev/there is no such device");
}

TEST(automatically_local_with_another_version)
{
	automatic("/dev/null");
}

TEST(another_engine_may_be_chosen_after_a_failure)
{
	CHECK_OK(fiber_set_engine("mapped"));
	device_target = "/dev/there is no such device";
	CHECK(!fiber_engine());
	CHECK_OK(fiber_set_engine("local"));
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_ERR(fiber_set_engine("local"), EBUSY);
	CHECK(!strcmp(fiber_engine(), "local"));
}

/* Of the moment: the process does not stay without the module because of it. */
TEST(automatically_none_without_descriptors)
{
	struct rlimit before, none = { 0 };

	device_target = "/dev/null";
	CHECK(!getrlimit(RLIMIT_NOFILE, &before));
	none.rlim_max = before.rlim_max;
	CHECK(!setrlimit(RLIMIT_NOFILE, &none));
	CHECK_ERR(fiber_convert(0, NULL), EMFILE);
	CHECK_ERR(fiber_convert(0, NULL), EMFILE);
	CHECK(!setrlimit(RLIMIT_NOFILE, &before));
	CHECK_OK(fiber_convert(0, NULL));
	CHECK(opened == 3);
}

static void *converts_while_cancelled(void *arg)
{
	CHECK(!pthread_cancel(pthread_self()));
	CHECK_OK(fiber_convert(0, NULL));
	return arg;
}

/* open() is a cancellation point, and the library's lock is held there. */
TEST(a_cancellation_waits)
{
	pthread_t thread;
	void *result;

	device_target = "/dev/null";
	thread = thread_start(converts_while_cancelled, NULL);
	CHECK(!pthread_join(thread, &result));
	CHECK(result == NULL);
	CHECK_OK(fiber_convert(0, NULL));
}
