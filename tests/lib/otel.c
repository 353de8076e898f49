/* SPDX-License-Identifier: MIT */
/* OpenTelemetry's pointer otel_thread_ctx_v1, which this program exports: the fiber's, not the thread's. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

_Thread_local void *otel_thread_ctx_v1;

struct record {
	unsigned char trace_id[16], span_id[8], valid, flags;
	uint16_t size;
	unsigned char attributes[100];
};

/* Not inlined: a fiber asks on one thread and then on another one. */
static __attribute__((noinline)) void *pointer(void)
{
	return *(void *volatile *)&otel_thread_ctx_v1;
}

static __attribute__((noinline)) void point(void *to)
{
	*(void *volatile *)&otel_thread_ctx_v1 = to;
}

static bool shows(const struct record *record, const char *id, const char *name)
{
	unsigned char text[100];
	size_t size = 0;

	text[size++] = 0;
	text[size++] = (unsigned char)strlen(id);
	memcpy(text + size, id, strlen(id));
	size += strlen(id);
	if (*name) {
		text[size++] = 1;
		text[size++] = (unsigned char)strlen(name);
		memcpy(text + size, name, strlen(name));
		size += strlen(name);
	}
	return record && record->valid == 1 && record->size == size &&
	       !memcmp(record->attributes, text, size);
}

static fiber_id_t home;
static char spans[64];

static void has_a_span(void *arg)
{
	for (int i = 0; i < 3; i++) {
		CHECK(pointer() == (i ? arg : NULL));
		point(arg);
		CHECK_OK(fiber_switch(home));
	}
	CHECK(pointer() == arg);
	point(NULL);
	CHECK_OK(fiber_switch(home));
}

TEST(goes_along)
{
	fiber_id_t fibers[8];

	point(&spans[63]);
	CHECK_OK(fiber_convert(0, &home));
	CHECK(pointer() == &spans[63]);
	for (int i = 0; i < 8; i++)
		CHECK_OK(fiber_create(&fibers[i], has_a_span, &spans[i], NULL));
	for (int round = 0; round < 4; round++)
		for (int i = 0; i < 8; i++) {
			CHECK_OK(fiber_switch(fibers[i]));
			CHECK(pointer() == &spans[63]);
		}
	for (int i = 0; i < 8; i++)
		CHECK_OK(fiber_delete(fibers[i]));
	/* In the same place as one that was left with a span. */
	CHECK_OK(fiber_create(&fibers[0], has_a_span, &spans[0], NULL));
	CHECK_OK(fiber_switch(fibers[0]));
	CHECK_OK(fiber_delete(fibers[0]));
	CHECK_OK(fiber_create(&fibers[0], has_a_span, &spans[1], NULL));
	CHECK_OK(fiber_switch(fibers[0]));
	CHECK(pointer() == &spans[63]);
	CHECK_OK(fiber_revert());
	CHECK(pointer() == &spans[63]);
}

static void switched(fiber_id_t from, fiber_id_t to, void *data)
{
	(void)from;
	(void)to;
	(void)data;
}

TEST(goes_along_where_an_observer_is_told)
{
	static const struct fiber_observer observer = {
		.size = sizeof(observer), .switched = switched,
	};
	fiber_id_t fiber;

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&fiber, has_a_span, &spans[0], NULL));
	CHECK_OK(fiber_switch(fiber));
	CHECK_OK(fiber_set_observer(&observer, NULL));
	CHECK_OK(fiber_switch(fiber));
	CHECK(!pointer());
	CHECK_OK(fiber_set_observer(NULL, NULL));
	CHECK_OK(fiber_switch(fiber));
	CHECK(!pointer());
}

TEST(stays_where_a_switch_fails)
{
	CHECK_OK(fiber_convert(0, &home));
	point(&spans[0]);
	CHECK_ERR(fiber_switch(99), ESRCH);
	CHECK_ERR(fiber_switch(home), EINVAL);
	CHECK(pointer() == &spans[0]);
}

/* Threads that take any of these fibers, each of which has a span of its own all the time. */
#define THREADS	4
#define FIBERS	16
#define ROUNDS	2000

static fiber_id_t fibers[FIBERS];

static void roams(void *arg)
{
	for (;;) {
		point(arg);
		/* To any thread's own fiber: the one that resumed it. */
		CHECK_RESULT(fiber_yield(NULL), 0);
		CHECK(pointer() == arg);
	}
}

static void *resumes(void *arg)
{
	uintptr_t seed = (uintptr_t)arg + 1;
	int err;

	CHECK_OK(fiber_convert(0, NULL));
	point(&spans[32 + (uintptr_t)arg]);
	for (int i = 0; i < ROUNDS; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		err = fiber_switch(fibers[seed >> 60]);
		CHECK(!err || err == EBUSY);
		CHECK(pointer() == &spans[32 + (uintptr_t)arg]);
	}
	return NULL;
}

TEST(goes_along_between_threads)
{
	pthread_t threads[THREADS];

	for (int i = 0; i < FIBERS; i++)
		CHECK_OK(fiber_create(&fibers[i], roams, &spans[i], NULL));
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK_OK(pthread_create(&threads[i], NULL, resumes, (void *)i));
	for (int i = 0; i < THREADS; i++)
		CHECK_OK(pthread_join(threads[i], NULL));
}

static void shows_itself(void *arg)
{
	const struct record *mine = pointer();

	(void)arg;
	CHECK(shows(mine, "2", "second"));
	CHECK_OK(fiber_set_name(0, "another"));
	CHECK(pointer() == mine && shows(mine, "2", "another"));
	CHECK_OK(fiber_otel_set_span((const void *)"0123456789abcdef", (const void *)"ghijklmn", 1));
	CHECK(!memcmp(mine->trace_id, "0123456789abcdefghijklmn", 24));
	CHECK(mine->valid == 1 && mine->flags == 1 && shows(mine, "2", "another"));
	CHECK_ERR(fiber_otel_set_span(NULL, (const void *)"ghijklmn", 1), EINVAL);
	CHECK_OK(fiber_switch(home));
	CHECK(pointer() == mine);
	CHECK_OK(fiber_otel_set_span(NULL, NULL, 0));
	CHECK(!mine->trace_id[0] && !mine->flags);
	/* An SDK's span has precedence while it lasts. */
	point(&spans[0]);
	CHECK_OK(fiber_switch(home));
	CHECK(pointer() == &spans[0]);
	point(NULL);
	CHECK_OK(fiber_switch(home));
	CHECK(pointer() == mine);
	CHECK_OK(fiber_switch(home));
}

TEST(records_of_fibers)
{
	struct fiber_attr attr = FIBER_ATTR_INIT;
	const struct record *mine;
	fiber_id_t second, third;

	CHECK_ERR(fiber_otel_set_span(NULL, NULL, 0), EPERM);
	CHECK_OK(fiber_convert(0, &home));
	CHECK_ERR(fiber_otel_set_span(NULL, NULL, 0), ENOENT);
	attr.name = "second";
	/* Also of fibers that are there already. */
	CHECK_OK(fiber_create(&second, shows_itself, NULL, &attr));
	CHECK(!pointer());
	CHECK_OK(fiber_otel_enable());
	CHECK_OK(fiber_otel_enable());
	mine = pointer();
	CHECK(shows(mine, "1", ""));
	for (int i = 0; i < 5; i++) {
		CHECK_OK(fiber_switch(second));
		CHECK(pointer() == mine);
	}
	CHECK_OK(fiber_create(&third, shows_itself, NULL, NULL));
	CHECK_OK(fiber_delete(second));
	CHECK(shows(mine, "1", ""));
	CHECK_OK(fiber_revert());
	CHECK(!pointer());
}

/* A header of OTEP 4719, found as a reader finds it. */
static void *published(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];
	void *found = NULL;

	CHECK(maps);
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "/memfd:OTEL_CTX") || strstr(line, "[anon_shmem:OTEL_CTX]"))
			CHECK(sscanf(line, "%p-", &found) == 1);
	fclose(maps);
	return found;
}

TEST(names_the_keys)
{
	struct {
		char signature[8];
		uint32_t version, size;
		uint64_t time;
		const char *payload;
	} *header;
	int status;
	pid_t child;

	CHECK(!published());
	CHECK_OK(fiber_otel_enable());
	header = published();
	CHECK(header && !memcmp(header->signature, "OTEL_CTX", 8));
	CHECK(header->version == 2 && header->time);
	CHECK(memmem(header->payload, header->size, "threadlocal.attribute_key_map", 29));
	CHECK(memmem(header->payload, header->size, "\x0a\x08" "fiber.id", 10));
	CHECK(memmem(header->payload, header->size, "\x0a\x0a" "fiber.name", 12));
	/* A child has its own. */
	CHECK_OK(fiber_convert(0, &home));
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		header = published();
		_exit(!header || memcmp(header->signature, "OTEL_CTX", 8));
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(!status);
}

TEST(an_sdk_was_first)
{
	int file = memfd_create("OTEL_CTX", 0);

	CHECK(file >= 0 && !ftruncate(file, 32));
	CHECK(mmap(NULL, 32, PROT_READ, MAP_PRIVATE, file, 0) != MAP_FAILED);
	CHECK_ERR(fiber_otel_enable(), EEXIST);
	CHECK_OK(fiber_convert(0, &home));
	CHECK(!pointer());
}

TEST(by_the_environment)
{
	CHECK(!setenv("KFIBER_OTEL", "1", 1));
	CHECK_OK(fiber_convert(0, &home));
	CHECK(shows(pointer(), "1", ""));
}
