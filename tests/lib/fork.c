/* SPDX-License-Identifier: MIT */
/*
 * fork(): the child has no fibers until it converts, and the parent never notices.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static fiber_id_t home, created;
static int visits;

static void visited(void *arg)
{
	(void)arg;
	for (;;) {
		visits++;
		CHECK_OK(fiber_switch(home));
	}
}

static void starts_anew(void)
{
	fiber_id_t id = POISON;

	CHECK_ERR(fiber_self(&id), EPERM);
	CHECK_ERR(fiber_switch(created), EPERM);
	CHECK_ERR(fiber_delete(created), ESRCH);
	CHECK_ERR(fiber_revert(), EPERM);
	CHECK_ERR(fiber_create(&id, visited, NULL, NULL), EPERM);
	CHECK(id == POISON);
	CHECK(!fiber_data());

	CHECK_OK(fiber_convert(0, &home));
	CHECK(home == 1);
	CHECK_ERR(fiber_switch(created), ESRCH);
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	CHECK(created == 2);
	visits = 0;
	CHECK_OK(fiber_switch(created));
	CHECK_OK(fiber_switch(created));
	CHECK(visits == 2);
	CHECK_OK(fiber_delete(created));
}

static void parent_is_whole(int visits_before)
{
	CHECK_OK(fiber_switch(created));
	CHECK_OK(fiber_switch(created));
	CHECK(visits == visits_before + 2);
}

TEST(the_child_has_no_fibers)
{
	int status;

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	CHECK_OK(fiber_switch(created));
	status = in_child(starts_anew);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	parent_is_whole(1);
}

static int child_status;

static void forks(void *arg)
{
	(void)arg;
	child_status = in_child(starts_anew);
	CHECK_OK(fiber_switch(home));
}

TEST(from_inside_a_created_fiber)
{
	fiber_id_t forker;

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	CHECK_OK(fiber_create(&forker, forks, NULL, NULL));
	CHECK_OK(fiber_switch(forker));
	CHECK(WIFEXITED(child_status) && WEXITSTATUS(child_status) == 0);
	parent_is_whole(0);
}

static pid_t child;

static void forks_and_returns(void *arg)
{
	(void)arg;
	child = fork();
	CHECK(child >= 0);
	if (child)
		CHECK_OK(fiber_switch(home));
}

/* There the function is only a function on some stack: its end is the main thread's. */
TEST(the_child_returns_from_the_fibers_function)
{
	fiber_id_t forker;
	int status;

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&forker, forks_and_returns, NULL, NULL));
	CHECK_OK(fiber_switch(forker));
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK_OK(fiber_delete(forker));
}

static void grandchild(void)
{
	int status;

	CHECK_OK(fiber_convert(0, NULL));
	status = in_child(starts_anew);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(grandchildren)
{
	int status;

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&created, visited, NULL, NULL));
	status = in_child(grandchild);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	parent_is_whole(0);
}
