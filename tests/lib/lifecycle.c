/* SPDX-License-Identifier: MIT */
/*
 * Convert, create, switch, delete, revert: results, errors, names, ids.
 *
 *	main --switch--> created --switch--> main
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

static fiber_id_t home, other;
static int count;

/* Counts its turns and goes home. */
static void turns(void *arg)
{
	int *turn = arg;

	for (;;) {
		++*turn;
		CHECK_RESULT(fiber_switch(home), 0);
	}
}

static void nothing(void *arg)
{
	(void)arg;
}

TEST(a_thread_that_is_no_fiber)
{
	fiber_id_t id = POISON;
	uint64_t value = POISON;

	CHECK(fiber_engine());
	CHECK_ERR(fiber_self(&id), EPERM);
	CHECK_ERR(fiber_switch(1), EPERM);
	CHECK_ERR(fiber_revert(), EPERM);
	CHECK_ERR(fiber_set_name(0, "x"), EPERM);
	CHECK_ERR(fiber_set_name(1, "x"), ESRCH);
	CHECK_ERR(fiber_fls_alloc(&value), EPERM);
	CHECK_ERR(fiber_fls_free(0), EPERM);
	CHECK_ERR(fiber_fls_set(0, 1), EPERM);
	CHECK_ERR(fiber_fls_get(0, &value), EPERM);
	CHECK_ERR(fiber_delete(1), ESRCH);
	CHECK(!fiber_data());
	CHECK(id == POISON && value == POISON);
}

static void *switches_to(void *arg)
{
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_switch(*(fiber_id_t *)arg));
	CHECK_OK(fiber_revert());
	return NULL;
}

/* Threads that are no fibers make fibers, for others to run, and delete them. */
TEST(made_and_deleted_without_conversion)
{
	fiber_id_t self, id;
	int i;

	for (i = 0; i < 100; i++) {
		CHECK_OK(fiber_create(&id, turns, &count, NULL));
		CHECK_ERR(fiber_self(&self), EPERM);
		CHECK_ERR(fiber_switch(id), EPERM);
		thread_join(thread_start(switches_to, &id));
		CHECK(count == i + 1);
		CHECK_OK(fiber_delete(id));
		CHECK_ERR(fiber_delete(id), ESRCH);
	}
	CHECK_OK(fiber_convert(0, &id));
	CHECK((id & 0xfffff) < 8);
}

static void checks_its_data(void *arg)
{
	void *data;

	for (;;) {
		CHECK(fiber_data() == arg);
		CHECK_OK(fiber_get_data(other, &data));
		CHECK(data == arg);
		CHECK_OK(fiber_switch(home));
		arg = &other;
	}
}

TEST(user_data)
{
	void *data = &data;

	CHECK(!fiber_data());
	CHECK_ERR(fiber_set_data(0, &count), EPERM);
	CHECK_ERR(fiber_get_data(0, &data), EPERM);
	CHECK_ERR(fiber_set_data(1, &count), ESRCH);
	CHECK_ERR(fiber_get_data(1, &data), ESRCH);
	CHECK_ERR(fiber_get_data(0, NULL), EINVAL);
	CHECK(data == &data);
	CHECK_OK(fiber_convert(0, &home));
	CHECK(!fiber_data());
	CHECK_OK(fiber_set_data(0, &count));
	CHECK(fiber_data() == &count);
	CHECK_OK(fiber_create(&other, checks_its_data, &home, NULL));
	CHECK_OK(fiber_switch(other));
	CHECK_OK(fiber_set_data(other, &other));
	CHECK_OK(fiber_switch(other));
	CHECK_OK(fiber_get_data(home, &data));
	CHECK(data == &count);
	/* The next one in that slot has its own. */
	CHECK_OK(fiber_delete(other));
	CHECK_OK(fiber_create(&other, checks_its_data, &count, NULL));
	CHECK_OK(fiber_switch(other));
	CHECK_OK(fiber_set_data(0, NULL));
	CHECK(!fiber_data());
}

/* The sum of all ids, and how many there are, by two ways. */
static fiber_id_t sum_of_ids(size_t *number)
{
	fiber_id_t id = 0, sum = 0;

	for (*number = 0; !fiber_next(&id); ++*number)
		sum += id;
	CHECK(*number == fiber_count());
	return sum;
}

TEST(all_are_found)
{
	fiber_id_t ids[100], sum, none = POISON;
	size_t number, i;

	CHECK(!sum_of_ids(&number) && !number);
	CHECK_ERR(fiber_next(NULL), EINVAL);
	CHECK_ERR(fiber_next(&none), ESRCH);
	CHECK(none == POISON);
	CHECK_OK(fiber_convert(0, &sum));
	for (i = 0; i < 100; i++) {
		CHECK_OK(fiber_create(&ids[i], nothing, NULL, NULL));
		sum += ids[i];
	}
	CHECK(sum_of_ids(&number) == sum && number == 101);
	for (i = 0; i < 100; i += 2) {
		CHECK_OK(fiber_delete(ids[i]));
		sum -= ids[i];
	}
	CHECK(sum_of_ids(&number) == sum && number == 51);
}

TEST(convert)
{
	fiber_id_t id = POISON, self = POISON;

	CHECK_ERR(fiber_convert(~0u, &id), EINVAL);
	CHECK_ERR(fiber_convert(FIBER_FPU << 1, &id), EINVAL);
	CHECK(id == POISON);
	CHECK_OK(fiber_convert(0, &id));
	CHECK(id == 1);
	CHECK_OK(fiber_self(&self));
	CHECK(self == id);
	CHECK(!fiber_data());
	id = POISON;
	CHECK_ERR(fiber_convert(0, &id), EEXIST);
	CHECK(id == POISON);
}

TEST(convert_without_asking_for_the_id)
{
	CHECK_OK(fiber_convert(FIBER_FPU, NULL));
}

static void *convert_other(void *arg)
{
	CHECK_OK(fiber_convert(0, arg));
	return NULL;
}

TEST(each_thread_has_its_own)
{
	fiber_id_t mine, theirs;

	CHECK_OK(fiber_convert(0, &mine));
	thread_join(thread_start(convert_other, &theirs));
	CHECK(mine != theirs);
}

TEST(revert)
{
	fiber_id_t first, second, created, self;

	CHECK_OK(fiber_convert(0, &first));
	CHECK_OK(fiber_create(&created, turns, &count, NULL));
	CHECK_OK(fiber_revert());
	CHECK_ERR(fiber_revert(), EPERM);
	CHECK_ERR(fiber_self(&self), EPERM);
	CHECK_OK(fiber_convert(0, &second));
	CHECK(second != first);
	CHECK_ERR(fiber_switch(first), ESRCH);

	/* The others have stayed. */
	home = second;
	CHECK_OK(fiber_switch(created));
	CHECK(count == 1);
	CHECK_OK(fiber_revert());
	CHECK_OK(fiber_delete(created));
}

static void reverts(void *arg)
{
	(void)arg;
	CHECK_ERR(fiber_revert(), EINVAL);
	count++;
	fiber_switch(home);
}

TEST(revert_only_on_the_own_fiber)
{
	fiber_id_t id;

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&id, reverts, NULL, NULL));
	CHECK_OK(fiber_switch(id));
	CHECK(count == 1);
}

TEST(create_checks_its_arguments)
{
	struct fiber_attr attr = FIBER_ATTR_INIT;
	char name[FIBER_NAME_MAX + 2];
	fiber_id_t id = POISON;

	CHECK_OK(fiber_convert(0, NULL));
	CHECK_ERR(fiber_create(NULL, nothing, NULL, NULL), EINVAL);
	CHECK_ERR(fiber_create(&id, NULL, NULL, NULL), EINVAL);
	attr.flags = FIBER_RETURNS << 1;
	CHECK_ERR(fiber_create(&id, nothing, NULL, &attr), EINVAL);
	attr.flags = 0;
	attr.stack_size = 16 * 1024 - 1;
	CHECK_ERR(fiber_create(&id, nothing, NULL, &attr), EINVAL);
	attr.stack_size = SIZE_MAX;
	CHECK_ERR(fiber_create(&id, nothing, NULL, &attr), ENOMEM);
	attr.stack_size = 0;
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = 0;
	attr.name = name;
	CHECK_ERR(fiber_create(&id, nothing, NULL, &attr), EINVAL);
	CHECK(id == POISON);
	name[FIBER_NAME_MAX] = 0;
	CHECK_OK(fiber_create(&id, nothing, NULL, &attr));
	CHECK(id == 2);
}

TEST(ids_count_up_and_are_not_used_again)
{
	fiber_id_t id[3], again;
	int i;

	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < 3; i++) {
		CHECK_OK(fiber_create(&id[i], turns, &count, NULL));
		CHECK(id[i] == (fiber_id_t)(i + 2));
	}
	CHECK_OK(fiber_delete(id[1]));
	CHECK_ERR(fiber_delete(id[1]), ESRCH);
	CHECK_ERR(fiber_switch(id[1]), ESRCH);
	CHECK_ERR(fiber_set_name(id[1], "x"), ESRCH);
	for (i = 0; i < 100; i++) {
		CHECK_OK(fiber_create(&again, turns, &count, NULL));
		CHECK(again != id[1]);
		CHECK_ERR(fiber_switch(id[1]), ESRCH);
		CHECK_OK(fiber_switch(again));
		CHECK(count == i + 1);
		CHECK_OK(fiber_delete(again));
	}
}

TEST(switch_there_and_back)
{
	int turn[2] = { 0, 0 };
	fiber_id_t id[2];
	int i;

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&id[0], turns, &turn[0], NULL));
	CHECK_OK(fiber_create(&id[1], turns, &turn[1], NULL));
	for (i = 0; i < 100; i++) {
		CHECK_OK(fiber_switch(id[i % 2]));
		CHECK(turn[i % 2] == i / 2 + 1);
	}
}

static void reports_itself(void *arg)
{
	fiber_id_t self;

	CHECK(arg == &count);
	CHECK(fiber_data() == arg);
	CHECK_OK(fiber_self(&self));
	CHECK(self == other);
	CHECK_ERR(fiber_switch(self), EINVAL);
	CHECK_ERR(fiber_delete(self), EBUSY);
	count = 1;
	fiber_switch(home);
}

TEST(a_fiber_knows_itself)
{
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&other, reports_itself, &count, NULL));
	CHECK_OK(fiber_switch(other));
	CHECK(count == 1);
}

TEST(switch_to_what_does_not_exist)
{
	CHECK_OK(fiber_convert(0, &home));
	CHECK_ERR(fiber_switch(0), ESRCH);
	CHECK_ERR(fiber_switch(2), ESRCH);
	CHECK_ERR(fiber_switch(home + (UINT64_C(1) << 20)), ESRCH);
	CHECK_ERR(fiber_switch(UINT64_MAX), ESRCH);
	CHECK_ERR(fiber_switch(home), EINVAL);
}

static int entered, leave;

static void stays(void *arg)
{
	(void)arg;
	__atomic_store_n(&entered, 1, __ATOMIC_SEQ_CST);
	wait_for(&leave);
	CHECK_RESULT(fiber_switch(home), 0);
}

static void *enters_other(void *arg)
{
	(void)arg;
	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_switch(other));
	return NULL;
}

TEST(a_running_fiber_is_busy)
{
	pthread_t thread;
	uint64_t failed;

	CHECK_OK(fiber_convert(0, NULL));
	CHECK_OK(fiber_create(&other, stays, NULL, NULL));
	thread = thread_start(enters_other, NULL);
	wait_for(&entered);
	failed = stat_of(other).failed_activations;
	CHECK_ERR(fiber_switch(other), EBUSY);
	CHECK_ERR(fiber_switch(other), EBUSY);
	CHECK_ERR(fiber_delete(other), EBUSY);
	CHECK(stat_of(other).failed_activations == failed + 2);
	/* It is parked there, but it is the living thread's own. */
	CHECK_ERR(fiber_delete(home), EPERM);
	__atomic_store_n(&leave, 1, __ATOMIC_SEQ_CST);
	thread_join(thread);
	CHECK(delete_when_free(other) == 0);
}

TEST(names)
{
	struct fiber_attr attr = { .size = sizeof(attr), .name = "born with it" };
	char name[FIBER_NAME_MAX + 2];
	fiber_id_t id, self;

	CHECK_OK(fiber_convert(0, &self));
	CHECK_OK(fiber_create(&id, nothing, NULL, &attr));
	CHECK(!strcmp(stat_of(id).name, "born with it"));
	memset(name, 'n', sizeof(name));
	name[FIBER_NAME_MAX + 1] = 0;
	CHECK_ERR(fiber_set_name(id, name), EINVAL);
	CHECK_ERR(fiber_set_name(id, NULL), EINVAL);
	name[FIBER_NAME_MAX] = 0;
	CHECK_OK(fiber_set_name(id, name));
	CHECK(!strcmp(stat_of(id).name, name));
	CHECK_OK(fiber_set_name(0, "self"));
	CHECK(!strcmp(stat_of(self).name, "self"));
	CHECK_OK(fiber_set_name(0, ""));
	CHECK(!strcmp(stat_of(self).name, ""));
}

TEST(proc_shows_the_users_function)
{
	char path[64], line[256], wanted[64];
	bool found = false;
	fiber_id_t id;
	FILE *file;

	not_on("local", "/proc/PID/fiber is the module's");
	CHECK_OK(fiber_convert(0, NULL));
	CHECK_OK(fiber_create(&id, turns, &count, NULL));
	snprintf(path, sizeof(path), "/proc/self/fiber/%llu", (unsigned long long)id);
	snprintf(wanted, sizeof(wanted), "Initial entry point: 0x%016llx\n",
		 (unsigned long long)(uintptr_t)turns);
	file = fopen(path, "re");
	CHECK(file);
	while (fgets(line, sizeof(line), file))
		found |= !strcmp(line, wanted);
	fclose(file);
	CHECK(found);
}

TEST(stat_of_fibers)
{
	fiber_id_t self, id;
	struct fiber_stat stat = FIBER_STAT_INIT;

	CHECK_OK(fiber_convert(0, &self));
	CHECK_OK(fiber_create(&id, turns, &count, NULL));
	CHECK_ERR(fiber_get_stat(id, NULL), EINVAL);
	CHECK_ERR(fiber_get_stat(id + 1, &stat), ESRCH);
	stat = stat_of(id);
	CHECK(stat.id == id && stat.state == FIBER_NEW && !stat.thread);
	CHECK(!stat.activations && stat.stack_start && stat.stack_size >= 1 << 20);
	home = self;
	CHECK_OK(fiber_switch(id));
	stat = stat_of(id);
	CHECK(stat.state == FIBER_SUSPENDED && stat.activations == 1);
	CHECK((stat.cpu_time == FIBER_TIME_UNKNOWN) != (stat.run_time == FIBER_TIME_UNKNOWN));
	CHECK(stat.longest_run > 0);
	stat = stat_of(0);
	CHECK(stat.id == self && stat.state == FIBER_RUNNING && stat.thread == (uint32_t)getpid());
	CHECK(stat.activations == 1);
	CHECK_OK(fiber_delete(id));
	CHECK_ERR(fiber_get_stat(id, &stat), ESRCH);
}

TEST(engine_choice)
{
	CHECK_ERR(fiber_set_engine("nonsense"), EINVAL);
	CHECK_ERR(fiber_set_engine(NULL), EINVAL);
	CHECK_OK(fiber_set_engine("auto"));
	CHECK_OK(fiber_set_engine("local"));
	CHECK(fiber_engine() && !strcmp(fiber_engine(), "local"));
	CHECK_ERR(fiber_set_engine("local"), EBUSY);
}

TEST(engine_from_the_environment)
{
	setenv("KFIBER_ENGINE", "local", 1);
	CHECK_OK(fiber_convert(0, NULL));
	CHECK(fiber_engine() && !strcmp(fiber_engine(), "local"));
}

/* Watched by the module where it is, else none is needed. */
TEST(automatic_engine)
{
	setenv("KFIBER_ENGINE", "auto", 1);
	CHECK_OK(fiber_convert(0, NULL));
	CHECK(!strcmp(fiber_engine(), access("/dev/fiber", F_OK) ? "local" : "mapped"));
}

TEST(the_descriptor_is_closed_on_exec)
{
	char path[64], target[64];
	int fd, found = 0;
	ssize_t length;

	not_on("local", "it has no descriptor");
	CHECK_OK(fiber_convert(0, NULL));
	for (fd = 0; fd < 64; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		length = readlink(path, target, sizeof(target) - 1);
		if (length < 0)
			continue;
		target[length] = 0;
		if (strcmp(target, "/dev/fiber"))
			continue;
		CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		found++;
	}
	CHECK(found == 1);
}

struct larger_attr {
	struct fiber_attr attr;
	uint64_t more;
};

TEST(structures_grow)
{
	struct larger_attr attr = { .attr = FIBER_ATTR_INIT };
	struct {
		struct fiber_stat stat;
		uint64_t more;
	} stat = { .stat = FIBER_STAT_INIT, .more = 0 };
	const size_t bad[] = { 0, 8, sizeof(attr.attr) - 1, 4097, SIZE_MAX };
	const int error[] = { EINVAL, EINVAL, EINVAL, E2BIG, E2BIG };
	fiber_id_t id = 0;
	size_t i;

	CHECK_OK(fiber_convert(0, NULL));
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		attr.attr.size = stat.stat.size = bad[i];
		CHECK_ERR(fiber_create(&id, nothing, NULL, &attr.attr), error[i]);
		CHECK_ERR(fiber_get_stat(0, &stat.stat), error[i]);
	}
	CHECK(!id);

	/* A newer program's, with this library: only what it does not know may be refused. */
	attr.attr.size = sizeof(attr);
	stat.stat.size = sizeof(stat);
	attr.more = stat.more = 1;
	CHECK_ERR(fiber_create(&id, nothing, NULL, &attr.attr), E2BIG);
	CHECK_ERR(fiber_get_stat(0, &stat.stat), E2BIG);
	attr.more = stat.more = 0;
	attr.attr.name = "grown";
	CHECK_OK(fiber_create(&id, nothing, NULL, &attr.attr));
	CHECK_OK(fiber_get_stat(id, &stat.stat));
	CHECK(stat.stat.size == sizeof(stat));
	CHECK(!strcmp(stat.stat.name, "grown"));
	CHECK_OK(fiber_delete(id));
}

/*
 * Fibers whose stacks lie side by side resume each other, as in a circle. A checker of memory must
 * not take the short way from one stack to the next for a frame.
 */
static fiber_id_t neighbours[4];

static void keeps_its_frame(void *arg)
{
	const fiber_id_t *self = arg;
	volatile long frame[50];
	long number = self - neighbours;
	int round, i;

	for (i = 0; i < 50; i++)
		frame[i] = number + i;
	for (round = 0; round < 3; round++) {
		CHECK_RESULT(fiber_switch(neighbours[(number + 1) % 4]), 0);
		for (i = 0; i < 50; i++)
			CHECK(frame[i] == number + i);
	}
	CHECK_RESULT(fiber_switch(home), 0);
}

TEST(neighbours_keep_their_frames)
{
	struct fiber_attr attr = FIBER_ATTR_INIT;
	int i;

	attr.stack_size = 64 << 10;
	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < 4; i++)
		CHECK_OK(fiber_create(&neighbours[i], keeps_its_frame, &neighbours[i], &attr));
	CHECK_OK(fiber_switch(neighbours[0]));
	for (i = 0; i < 4; i++)
		CHECK_OK(fiber_delete(neighbours[i]));
	/* On a stack that had frames. */
	CHECK_OK(fiber_create(&other, keeps_its_frame, &neighbours[0], &attr));
	CHECK_OK(fiber_delete(other));
}
