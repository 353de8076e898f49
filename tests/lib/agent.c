/* SPDX-License-Identifier: MIT */
/*
 * A process of several threads for test_api.py. Each thread has a lane: a socket on which it
 * takes one command at a time and gives one answer, "ERROR VALUE". The thread does what the fiber
 * does that it runs. All fibers have the same function, so whichever fiber is resumed on a thread
 * answers on that thread's lane.
 */
#include <errno.h>
#include <fiber.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LANES 4
#define LINE 256

static struct {
	int fd;
	pid_t tid;
} lanes[LANES];

static fiber_key_t key;

#define CHECK(condition)						\
	do {								\
		if (!(condition)) {					\
			dprintf(2, "agent: failed: %s\n", #condition);	\
			abort();					\
		}							\
	} while (0)

/* Of the thread that runs this now. Ask again after each switch. */
static __attribute__((noinline)) int here(void)
{
	pid_t tid = (pid_t)syscall(SYS_gettid);

	for (int i = 0; i < LANES; i++)
		if (lanes[i].tid == tid)
			return i;
	CHECK(!"a thread has a lane");
	abort();
}

static void answer(int err, uint64_t value)
{
	CHECK(dprintf(lanes[here()].fd, "%d %" PRIu64 "\n", err, value) > 0);
}

static void answer_stat(uint64_t id)
{
	struct fiber_stat stat = FIBER_STAT_INIT;
	int err = fiber_get_stat(id, &stat);

	CHECK(dprintf(lanes[here()].fd, "%d %" PRIu64 " %d %u %" PRIu64 " %" PRIu64 " %s\n", err,
		      stat.id, stat.state, stat.thread, stat.activations,
		      stat.failed_activations, *stat.name ? stat.name : "-") > 0);
}

static void answer_ids(void)
{
	char line[LINE] = "0";
	fiber_id_t id = 0;
	size_t count = 0, length = 1;
	int err;

	while (!(err = fiber_next(&id)) && ++count)
		length += (size_t)snprintf(line + length, LINE - length, " %" PRIu64, id);
	CHECK(err == ESRCH && count == fiber_count());
	CHECK(dprintf(lanes[here()].fd, "%s\n", line) > 0);
}

static uint64_t blocked(const char *set)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	if (set)
		pthread_sigmask(*set == '1' ? SIG_BLOCK : SIG_UNBLOCK, &mask, NULL);
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	return (uint64_t)sigismember(&mask, SIGUSR1);
}

static void serve(void);

static void function(void *arg)
{
	answer(-1, (uintptr_t)arg);
	serve();
}

static void *begins(void *lane)
{
	int i = (int)(intptr_t)lane;

	lanes[i].tid = (pid_t)syscall(SYS_gettid);
	answer(0, (uint64_t)lanes[i].tid);
	serve();
	return NULL;
}

static void starts(int lane)
{
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, begins, (void *)(intptr_t)lane));
	CHECK(!pthread_detach(thread));
}

static int creates(uint64_t flags, uint64_t arg, fiber_id_t *id)
{
	struct fiber_attr attr = FIBER_ATTR_INIT;

	attr.flags = (unsigned int)flags;
	attr.stack_size = 64 << 10;
	return fiber_create(id, function, (void *)(uintptr_t)arg, &attr);
}

/* Until the fiber's function is to return. */
static void serve(void)
{
	for (;;) {
		char line[LINE], command[32], text[128] = "";
		uint64_t a = 0, b = 0, value = 0;
		ssize_t length = read(lanes[here()].fd, line, LINE - 1);
		void *pointer = NULL;
		int err = 0;

		if (length <= 0)
			_exit(0);
		line[length] = 0;
		CHECK(sscanf(line, "%31s %" SCNu64 " %" SCNu64, command, &a, &b) >= 1);
		sscanf(line, "%*s %*s %127s", text);
#define IS(name) (!strcmp(command, name))
		if (IS("convert"))
			err = fiber_convert((unsigned int)a, &value);
		else if (IS("revert"))
			err = fiber_revert();
		else if (IS("create"))
			err = creates(a, b, &value);
		else if (IS("switch"))
			err = fiber_switch(a);
		else if (IS("transfer"))
			err = fiber_transfer(a, (void *)(uintptr_t)b);
		else if (IS("yield"))
			err = fiber_yield((void *)(uintptr_t)a);
		else if (IS("delete"))
			err = fiber_delete(a);
		else if (IS("self"))
			err = fiber_self(&value);
		else if (IS("resumer"))
			err = fiber_resumer(&value);
		else if (IS("received"))
			value = (uintptr_t)fiber_received();
		else if (IS("set_name"))
			err = fiber_set_name(a, text);
		else if (IS("set_data"))
			err = fiber_set_data(a, (void *)(uintptr_t)b);
		else if (IS("get_data"))
			err = fiber_get_data(a, &pointer);
		else if (IS("key_set"))
			err = fiber_key_set(key, (void *)(uintptr_t)a);
		else if (IS("key_get"))
			err = fiber_key_get(key, &pointer);
		else if (IS("fls_alloc"))
			err = fiber_fls_alloc(&value);
		else if (IS("fls_free"))
			err = fiber_fls_free(a);
		else if (IS("fls_set"))
			err = fiber_fls_set(a, b);
		else if (IS("fls_get"))
			err = fiber_fls_get(a, &value);
		else if (IS("mask"))
			value = blocked(line + 5);
		else if (IS("blocked"))
			value = blocked(NULL);
		else if (IS("thread"))
			starts((int)a);
		else if (IS("exit"))
			pthread_exit(NULL);
		else if (IS("return"))
			return;
		else
			CHECK(IS("stat") || IS("ids"));
		if (IS("stat"))
			answer_stat(a);
		else if (IS("ids"))
			answer_ids();
		else
			answer(err, pointer ? (uintptr_t)pointer : value);
	}
}

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	/* The first of the lanes' sockets, which follow each other. */
	for (int i = 0; i < LANES; i++)
		lanes[i].fd = atoi(argv[1]) + i;
	lanes[0].tid = getpid();
	CHECK(!fiber_key_create(&key, NULL));
	answer(fiber_engine() ? 0 : ENODEV, (uint64_t)lanes[0].tid);
	serve();
	return 0;
}
