/* SPDX-License-Identifier: MIT */
/*
 * C++ exceptions: each fiber handles its own, though the runtime counts them
 * by thread.
 */
#include <csignal>
#include <exception>
#include <stdexcept>
#include <string>
#include <sys/wait.h>

#include "check.h"

static fiber_id_t home;
static int visits;

/* Switches inside a catch block, and throws the same exception on afterwards. */
static void handles(void *arg)
{
	const char *mine = static_cast<const char *>(arg);

	CHECK(!std::current_exception());
	for (;;) {
		try {
			try {
				throw std::runtime_error(mine);
			} catch (const std::runtime_error &) {
				CHECK_RESULT(fiber_switch(home), 0);
				throw;
			}
		} catch (const std::exception &error) {
			CHECK(std::string(error.what()) == mine);
			CHECK_RESULT(fiber_switch(home), 0);
			CHECK(std::current_exception());
		}
		CHECK(!std::current_exception());
		visits++;
	}
}

TEST(a_switch_inside_a_catch_block)
{
	static char names[3][8] = { "one", "two", "three" };
	fiber_id_t id[3];

	CHECK_OK(fiber_convert(0, &home));
	for (int i = 0; i < 3; i++)
		CHECK_OK(fiber_create(&id[i], handles, names[i], nullptr));
	/* Not in the order of a stack: the first caught goes on first. */
	for (int i = 0; i < 99; i++) {
		CHECK_OK(fiber_switch(id[i % 3]));
		CHECK(!std::current_exception());
	}
	try {
		throw 1;
	} catch (int) {
		for (int i = 0; i < 99; i++) {
			CHECK_OK(fiber_switch(id[(i * 2) % 3]));
			CHECK(std::current_exception());
		}
	}
	CHECK(!std::current_exception());
	CHECK(visits > 60);
}

struct switches {
	~switches()
	{
		CHECK(std::uncaught_exceptions() == 1);
		CHECK_RESULT(fiber_switch(home), 0);
		CHECK(std::uncaught_exceptions() == 1);
	}
};

static void unwinds(void *arg)
{
	(void)arg;
	CHECK(std::uncaught_exceptions() == 0);
	for (;;) {
		try {
			switches guard;
			throw 1;
		} catch (int) {
		}
		CHECK(std::uncaught_exceptions() == 0);
		visits++;
	}
}

TEST(a_switch_while_unwinding)
{
	fiber_id_t id;

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&id, unwinds, nullptr, nullptr));
	for (int i = 0; i < 10; i++) {
		CHECK_OK(fiber_switch(id));
		CHECK(std::uncaught_exceptions() == 0);
	}
	CHECK(visits == 9);
}

static fiber_id_t traveller;

static void *goes_on_elsewhere(void *arg)
{
	(void)arg;
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_switch(traveller));
	CHECK_OK(fiber_switch(traveller));
	CHECK(!std::current_exception());
	return nullptr;
}

TEST(caught_here_rethrown_there)
{
	static char name[] = "traveller";

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&traveller, handles, name, nullptr));
	CHECK_OK(fiber_switch(traveller));
	CHECK(!std::current_exception());
	thread_join(thread_start(goes_on_elsewhere, nullptr));
	CHECK(visits == 1);
	CHECK(!std::current_exception());
}

/* A fiber's stack is unwound when its thread ends, objects and all. */
struct counts {
	~counts()
	{
		visits++;
	}
};

static void exits(void *arg)
{
	counts object;

	(void)arg;
	pthread_exit(nullptr);
}

static void *ends_in_a_fiber(void *arg)
{
	fiber_id_t id;

	(void)arg;
	CHECK_OK(fiber_convert(0, nullptr));
	CHECK_OK(fiber_create(&id, exits, nullptr, nullptr));
	fiber_switch(id);
	return nullptr;
}

TEST(pthread_exit_runs_destructors)
{
	thread_join(thread_start(ends_in_a_fiber, nullptr));
	CHECK(visits == 1);
}

static void throws(void *arg)
{
	(void)arg;
	throw 1;
}

static void nobody_catches()
{
	fiber_id_t id;

	CHECK_OK(fiber_convert(0, nullptr));
	CHECK_OK(fiber_create(&id, throws, nullptr, nullptr));
	fiber_switch(id);
}

TEST(an_uncaught_exception_terminates)
{
	int status = in_child(nobody_catches);

	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}
