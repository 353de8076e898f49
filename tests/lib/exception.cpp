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

/* The thread may have been a fiber before this was loaded. */
static void convert()
{
	int err = fiber_convert(0, &home);

	if (err == EEXIST)
		CHECK_OK(fiber_self(&home));
	else
		CHECK_RESULT(err, 0);
}

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

	convert();
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

	convert();
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
	convert();
	CHECK_OK(fiber_switch(traveller));
	CHECK_OK(fiber_switch(traveller));
	CHECK(!std::current_exception());
	return nullptr;
}

TEST(caught_here_rethrown_there)
{
	static char name[] = "traveller";

	convert();
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

	convert();
	CHECK_OK(fiber_create(&id, throws, nullptr, nullptr));
	fiber_switch(id);
}

TEST(an_uncaught_exception_terminates)
{
	int status = in_child(nobody_catches);

	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* What was destroyed or caught, in order. */
static std::string trace;

struct Noted {
	char name;

	~Noted()
	{
		/* Its own exceptions are its own business. */
		try {
			throw name;
		} catch (char thrown) {
			trace += thrown;
		}
	}
};

enum way { SWITCHES, YIELDS, CATCHES, RETHROWS, GOES_HOME_ONCE, NEVER_RUNS };

struct Leaves {
	~Leaves()
	{
		CHECK_RESULT(fiber_switch(home), 0);
	}
};

static __attribute__((noinline)) void leaves(enum way way, int depth)
{
	Noted noted = { static_cast<char>('0' + depth) };

	if (depth) {
		leaves(way, depth - 1);
	} else if (way == SWITCHES) {
		fiber_switch(home);
	} else if (way == YIELDS) {
		fiber_yield(nullptr);
	} else if (way == CATCHES) {
		try {
			throw std::runtime_error("caught");
		} catch (const std::runtime_error &) {
			fiber_switch(home);
		}
	} else if (way == RETHROWS) {
		try {
			fiber_switch(home);
		} catch (...) {
			trace += '!';
			throw;
		}
	} else {
		Leaves leaves_too;

		fiber_switch(home);
	}
	check_failed(__FILE__, __LINE__, "it went on");
}

static void to_be_unwound(void *arg)
{
	leaves(*static_cast<enum way *>(arg), 3);
}

static void unwinds(enum way way, const char *expected)
{
	fiber_id_t id;

	trace.clear();
	CHECK_RESULT(fiber_create(&id, to_be_unwound, &way, nullptr), 0);
	if (way != NEVER_RUNS)
		CHECK_RESULT(fiber_switch(id), 0);
	CHECK_RESULT(fiber_set_data(id, nullptr), 0);
	if (way == GOES_HOME_ONCE) {
		CHECK_RESULT(fiber_unwind(id), EAGAIN);
		CHECK(trace.empty());
		/* By any switch; it ends and comes back. */
		CHECK_RESULT(fiber_switch(id), 0);
	} else {
		CHECK_RESULT(fiber_unwind(id), 0);
	}
	if (trace != expected)
		check_failed(__FILE__, __LINE__, trace.c_str());
	CHECK_RESULT(fiber_unwind(id), ESRCH);
}

static void unwinds_all()
{
	unwinds(SWITCHES, "0123");
	unwinds(YIELDS, "0123");
	unwinds(CATCHES, "0123");
	unwinds(RETHROWS, "!0123");
	unwinds(GOES_HOME_ONCE, "0123");
	unwinds(NEVER_RUNS, "");
}

TEST(unwinding_runs_destructors)
{
	convert();
	CHECK_ERR(fiber_unwind(home), EPERM);
	CHECK_ERR(fiber_unwind(99), ESRCH);
	unwinds_all();
	try {
		throw 1;
	} catch (int) {
		unwinds_all();
		CHECK(std::current_exception());
	}
	CHECK(!std::current_exception());
}

static fiber_id_t elsewhere;

static void *unwinds_elsewhere(void *)
{
	CHECK_ERR(fiber_unwind(elsewhere), EPERM);
	CHECK_OK(fiber_convert(0, nullptr));
	CHECK_RESULT(fiber_unwind(elsewhere), 0);
	return nullptr;
}

TEST(unwinding_on_another_thread)
{
	enum way way = CATCHES;

	convert();
	CHECK_OK(fiber_create(&elsewhere, to_be_unwound, &way, nullptr));
	CHECK_OK(fiber_switch(elsewhere));
	thread_join(thread_start(unwinds_elsewhere, nullptr));
	CHECK(trace == "0123");
}

/* The frames of a fiber that deletes itself are not unwound. */
static void deletes_itself(void *)
{
	Noted noted = { 'x' };
	fiber_id_t self;

	CHECK_OK(fiber_self(&self));
	fiber_delete(self);
	check_failed(__FILE__, __LINE__, "it came back");
}

TEST(deletion_runs_no_destructors)
{
	struct fiber_attr attr = FIBER_ATTR_INIT;
	fiber_id_t id;

	attr.flags = FIBER_RETURNS;
	convert();
	CHECK_OK(fiber_create(&id, deletes_itself, nullptr, &attr));
	CHECK_OK(fiber_switch(id));
	CHECK_RESULT(fiber_switch(id), ESRCH);
	CHECK(trace.empty());
}
