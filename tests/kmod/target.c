/* SPDX-License-Identifier: MIT */
/*
 * A process with fibers for the tests in Python to look at. It obeys one command
 * a line on standard input and answers each with one line: "ok" and numbers, or
 * "error" and an errno.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "harness.h"

static uint64_t home;

/* The holder's threads stay in their fiber until told otherwise. */
static uint64_t holder_home;
static atomic_int holding, release;

static void bounce(void *arg)
{
	(void)arg;
	for (;;)
		fiber_switch(home);
}

static void hold(void *arg)
{
	(void)arg;
	for (;;) {
		atomic_store(&holding, gettid());
		while (!atomic_load(&release))
			pause_briefly();
		fiber_switch(holder_home);
	}
}

static void *holder(void *arg)
{
	holder_home = convert(0);
	CHECK_OK(fiber_switch(*(uint64_t *)arg));
	return NULL;
}

__attribute__((format(printf, 2, 3)))
static void answer(long err, const char *format, ...)
{
	char text[256] = "";
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (err)
		printf("error %ld\n", -err);
	else
		printf("ok %s\n", text);
}

static void answer_id(long err, uint64_t id)
{
	answer(err, "%llu", (unsigned long long)id);
}

static void name_from_hex(char name[FIBER_NAME_SIZE], const char *hex)
{
	unsigned int byte;

	memset(name, 0, FIBER_NAME_SIZE);
	for (int i = 0; i < FIBER_NAME_SIZE && sscanf(hex + 2 * i, "%2x", &byte) == 1; i++)
		name[i] = (char)byte;
}

static void do_open(char **words)
{
	(void)words;
	device = open(FIBER_DEVICE, O_RDWR);
	answer(device < 0 ? -errno : 0, "%d", device);
}

static void do_close(char **words)
{
	(void)words;
	answer(close(device) ? -errno : 0, "%s", "");
	device = -1;
}

static void do_convert(char **words)
{
	(void)words;
	home = convert(0);
	answer_id(0, home);
}

static void do_revert(char **words)
{
	(void)words;
	answer(request(device, FIBER_IOC_REVERT, 0), "%s", "");
}

/* create bounce|hold HEXNAME */
static void do_create(char **words)
{
	uintptr_t entry = (uintptr_t)(!strcmp(words[1], "hold") ? hold : bounce);
	struct fiber_create args = {
		.size = sizeof(args),
		.entry = entry,
		.stack_start = (uintptr_t)stack_new(STACK_SIZE),
		.stack_size = STACK_SIZE,
	};
	uint64_t id;
	long err;

	if (words[2])
		name_from_hex(args.name, words[2]);
	err = try_create(&args, &id);
	answer(err, "%llu %llu %llu %lu %llu", (unsigned long long)id, (unsigned long long)entry,
	       (unsigned long long)args.stack_start, STACK_SIZE,
	       (unsigned long long)stack_top((void *)args.stack_start, STACK_SIZE));
}

/* crowd N: that many fibers, which never run. */
static void do_crowd(char **words)
{
	struct fiber_create args = {
		.size = sizeof(args),
		.entry = (uintptr_t)bounce, .stack_start = 65536, .stack_size = STACK_SIZE,
	};
	uint64_t id = 0;
	long err = 0;

	for (int i = atoi(words[1]); i && !err; i--)
		err = try_create(&args, &id);
	answer_id(err, id);
}

/* Answers where it goes on, and its rsp there: of a fiber that only bounces. */
static void do_enter(char **words)
{
	long err = fiber_switch(strtoull(words[1], NULL, 0));

	answer(err, "%llu %llu", (unsigned long long)(uintptr_t)fiber_switch_resume,
	       (unsigned long long)fiber_switch_sp);
}

static void do_hold(char **words)
{
	static uint64_t id;

	id = strtoull(words[1], NULL, 0);
	thread_start(holder, &id);
	WAIT_FOR(atomic_load(&holding));
	answer(0, "%d %llu", atomic_load(&holding), (unsigned long long)holder_home);
}

static void do_delete(char **words)
{
	answer(fiber_delete(strtoull(words[1], NULL, 0)), "%s", "");
}

static void do_name(char **words)
{
	struct fiber_name args = { .size = sizeof(args), .id = strtoull(words[1], NULL, 0) };

	name_from_hex(args.name, words[2] ? words[2] : "");
	answer(request(device, FIBER_IOC_SET_NAME, (unsigned long)&args), "%s", "");
}

static void do_burn(char **words)
{
	burn_ns(strtoull(words[1], NULL, 0) * 1000000);
	answer(0, "%llu", (unsigned long long)thread_cpu_ns());
}

static void do_ids(char **words)
{
	uid_t id = (uid_t)atoi(words[1]);

	if (setresgid(id, id, id) || setresuid(id, id, id))
		answer(-errno, "%s", "");
	else
		answer(0, "%s", "");
}

static void do_dumpable(char **words)
{
	answer(prctl(PR_SET_DUMPABLE, atoi(words[1])) ? -errno : 0, "%s", "");
}

static void do_exec(char **words)
{
	(void)words;
	execl("/proc/self/exe", "target", "obey", (char *)NULL);
	answer(-errno, "%s", "");
}

static void do_pid(char **words)
{
	(void)words;
	answer(0, "%d", getpid());
}

static const struct {
	const char *word;
	void (*run)(char **words);
	int arguments;
} commands[] = {
	{ "open", do_open, 0 }, { "close", do_close, 0 }, { "convert", do_convert, 0 },
	{ "revert", do_revert, 0 }, { "create", do_create, 1 }, { "crowd", do_crowd, 1 },
	{ "enter", do_enter, 1 }, { "hold", do_hold, 1 }, { "delete", do_delete, 1 },
	{ "name", do_name, 1 }, { "burn", do_burn, 1 }, { "ids", do_ids, 1 },
	{ "dumpable", do_dumpable, 1 }, { "exec", do_exec, 0 }, { "pid", do_pid, 0 },
};

static void obey_line(char *line)
{
	char *words[4] = { NULL }, *rest = line;
	int count = 0;

	while (count < 3 && (words[count] = strtok_r(rest, " \n", &rest)))
		count++;
	for (unsigned int i = 0; i < ARRAY_SIZE(commands); i++)
		if (count > commands[i].arguments && !strcmp(words[0], commands[i].word)) {
			commands[i].run(words);
			return;
		}
	check_failed(__FILE__, __LINE__, "no such command: %s", line);
}

TEST(obey)
{
	char line[512];

	/* Not buffered: after exec the next image reads on. */
	for (;;) {
		size_t length = 0;

		while (length < sizeof(line) - 1 && read(STDIN_FILENO, line + length, 1) == 1 &&
		       line[length] != '\n')
			length++;
		if (!length)
			return;
		line[length] = '\0';
		obey_line(line);
		fflush(stdout);
	}
}
