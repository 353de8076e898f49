/* SPDX-License-Identifier: MIT */
/* The supervisor: keeps the workers coming, and says how it went. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

struct shared *shared;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static bool parameter_is_no(const char *name)
{
	char path[96], value = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/module/fiber/parameters/%s", name);
	file = fopen(path, "r");
	if (file) {
		value = (char)fgetc(file);
		fclose(file);
	}
	return value == 'N';
}

struct watch {
	pid_t pid;
	uint64_t round;
	double since;
	bool killed;
};

static unsigned long crashes[65];

/* For the report of a hang: where its threads are. */
static void show_threads(pid_t pid)
{
	char command[160];

	snprintf(command, sizeof(command),
		 "for t in /proc/%d/task/*; do echo $t; cat $t/comm $t/wchan $t/stack; done >&2", pid);
	if (system(command))
		return;
}

static void note(const char *format, int process, uint64_t round, int status)
{
	if (!atomic_exchange(&shared->failed, true))
		snprintf(shared->failure, sizeof(shared->failure), format, process,
			 (unsigned long long)round, (unsigned int)status);
}

static void judge(int process, uint64_t round, int status)
{
	if (!WIFSIGNALED(status)) {
		if (WEXITSTATUS(status))
			note("process %d round %llu: status 0x%x", process, round, status);
		return;
	}
	crashes[WTERMSIG(status) % 65]++;
	if (WTERMSIG(status) != SIGKILL && !round_draw(process, round).deadly)
		note("process %d round %llu: crashed, status 0x%x", process, round, status);
}

/* Runs workers until there were enough requests, and returns the number of rounds. */
static unsigned long supervise(double limit)
{
	struct watch watches[PROCESSES_MAX] = { 0 };
	struct timespec pause = { 0, 1000000 };
	unsigned long rounds = 0;
	bool ending_now = false;

	/* Children of workers that died come to us, so that none is left. */
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	for (;;) {
		bool enough = atomic_load(&shared->calls) >= shared->goal ||
			      atomic_load(&shared->failed);
		int status;
		pid_t pid;

		if (now() > limit && !ending_now) {
			note("the time is over; hint: fewer --calls or more --seconds", 0, 0, 0);
			enough = true;
		}
		if (enough) {
			ending_now = true;
			atomic_store(&shared->stop, true);
		}
		for (int i = 0; i < shared->processes; i++) {
			struct watch *watch = &watches[i];

			if (!watch->pid && !ending_now) {
				watch->pid = fork();
				if (!watch->pid)
					worker(i, watch->round);
				if (watch->pid < 0) {
					perror("fuzz: cannot fork");
					exit(2);
				}
				watch->since = now();
				atomic_store(&shared->pids[i], watch->pid);
				rounds++;
			} else if (watch->pid > 0 && now() - watch->since > ROUND_SECONDS) {
				note("process %d round %llu: stuck for %u s", i, watch->round,
				     ROUND_SECONDS);
				show_threads(watch->pid);
				/* Not even that helped: leave it to the machine's end. */
				if (watch->killed)
					return rounds;
				watch->killed = true;
				kill(watch->pid, SIGKILL);
				watch->since = now();
			}
		}
		pid = waitpid(-1, &status, WNOHANG | __WALL);
		if (pid < 0)
			return rounds;
		if (!pid) {
			nanosleep(&pause, NULL);
			continue;
		}
		for (int i = 0; i < shared->processes; i++) {
			if (watches[i].pid != pid)
				continue;
			judge(i, watches[i].round, status);
			atomic_store(&shared->pids[i], 0);
			watches[i].pid = 0;
			watches[i].round++;
		}
	}
}

static void print_summary(unsigned long rounds, double seconds)
{
	const char *separator = "";

	printf("{\"seed\": %llu, \"calls\": %lu, \"seconds\": %.1f, \"rounds\": %lu, "
	       "\"forks\": %lu, \"execs\": %lu, \"commands\": {",
	       (unsigned long long)shared->seed, atomic_load(&shared->calls), seconds, rounds,
	       atomic_load(&shared->forks), atomic_load(&shared->execs));
	for (int kind = 0; kind < REQUESTS; kind++) {
		printf("%s\"%s\": {", kind ? ", " : "", kinds[kind].name);
		separator = "";
		for (int err = 0; err < ERRNOS; err++) {
			unsigned long count = atomic_load(&shared->results[kind][err]);

			if (count) {
				printf("%s\"%s\": %lu", separator, err ? strerrorname_np(err) : "ok",
				       count);
				separator = ", ";
			}
		}
		printf("}");
	}
	printf("}, \"others\": {");
	for (int kind = REQUESTS; kind < KINDS; kind++)
		printf("%s\"%s\": %lu", kind == REQUESTS ? "" : ", ", kinds[kind].name,
		       atomic_load(&shared->steps[kind]));
	printf("}, \"crashes\": {");
	separator = "";
	for (int number = 1; number < 65; number++) {
		if (!crashes[number])
			continue;
		printf("%s\"%d\": %lu", separator, number, crashes[number]);
		separator = ", ";
	}
	printf("}, \"kcov\": %s, \"lost\": %lu, \"failure\": ", shared->kcov ? "true" : "false",
	       atomic_load(&shared->pcs_lost));
	/* Our own words, without quotes. */
	if (atomic_load(&shared->failed))
		printf("\"%s\"}\n", shared->failure);
	else
		printf("null}\n");
}

static void write_pcs(const char *path)
{
	FILE *file = fopen(path, "w");

	for (unsigned int i = 0; file && i < PCS; i++)
		if (shared->pcs[i])
			fprintf(file, "%llx\n", (unsigned long long)shared->pcs[i]);
	if (!file || fclose(file)) {
		fprintf(stderr, "fuzz: cannot write %s: %s\n", path, strerror(errno));
		exit(2);
	}
}

__attribute__((noreturn)) static void usage(void)
{
	fprintf(stderr,
		"usage: fuzz --seed N --calls M [--processes P] [--threads T] [--seconds S]\n"
		"            [--pcs FILE] [--limited] [--plan]\n"
		"P and T are 1 to 16 (default: 3). --plan prints the first steps and does nothing.\n"
		"--pcs writes the addresses of the module that KCOV saw.\n"
		"--limited gives up the right to exceed the module's max_user_kib.\n"
		"status: 0, 1 a failure (named in the last line), 2 wrong use\n");
	exit(2);
}

/* Of this process and those that it forks. */
static void give_up_resources(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2];

	if (!syscall(SYS_capget, &header, sets)) {
		sets[0].effective &= ~(1U << CAP_SYS_RESOURCE);
		sets[0].permitted &= ~(1U << CAP_SYS_RESOURCE);
		sets[0].inheritable &= ~(1U << CAP_SYS_RESOURCE);
		if (!syscall(SYS_capset, &header, sets))
			return;
	}
	fprintf(stderr, "fuzz: cannot give up a capability: %s\n", strerror(errno));
	exit(2);
}

static unsigned long long number_of(const char *text, unsigned long long least,
				    unsigned long long most)
{
	char *end;
	unsigned long long value = strtoull(text, &end, 0);

	if (!*text || *end || value < least || value > most)
		usage();
	return value;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "calls", required_argument, NULL, 'c' },
		{ "processes", required_argument, NULL, 'p' },
		{ "threads", required_argument, NULL, 't' },
		{ "seconds", required_argument, NULL, 'l' },
		{ "pcs", required_argument, NULL, 'o' },
		{ "limited", no_argument, NULL, 'q' },
		{ "plan", no_argument, NULL, 'n' },
		{ 0 },
	};
	const char *pcs = NULL;
	unsigned long rounds;
	unsigned int seconds = 600;
	double start = now();
	bool plan = false;
	int option, fd;

	if (argc == 6 && !strcmp(argv[1], "--child"))
		child_role(argv + 2);
	fd = memfd_create("fuzz", 0);
	if (fd < 0 || ftruncate(fd, sizeof(*shared)) || dup2(fd, SHARED_FD) < 0 || close(fd)) {
		fprintf(stderr, "fuzz: no shared memory: %s\n", strerror(errno));
		return 2;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, SHARED_FD, 0);
	if (shared == MAP_FAILED)
		return 2;
	shared->processes = shared->threads = 3;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			shared->seed = number_of(optarg, 0, UINT64_MAX);
			break;
		case 'c':
			shared->goal = number_of(optarg, 1, UINT32_MAX);
			break;
		case 'p':
			shared->processes = (int)number_of(optarg, 1, PROCESSES_MAX);
			break;
		case 't':
			shared->threads = (int)number_of(optarg, 1, THREADS_MAX);
			break;
		case 'l':
			seconds = (unsigned int)number_of(optarg, 1, 1000000);
			break;
		case 'o':
			pcs = optarg;
			break;
		case 'q':
			give_up_resources();
			break;
		case 'n':
			plan = true;
			break;
		default:
			usage();
		}
	}
	if (optind != argc || (!plan && !shared->goal))
		usage();
	if (plan) {
		print_plan(shared->processes, shared->threads, shared->seed);
		return 0;
	}
	if (access(FIBER_DEVICE, R_OK | W_OK)) {
		fprintf(stderr, "fuzz: no " FIBER_DEVICE "; hint: load the module, or run this in "
				"`kfiber vm run`\n");
		return 2;
	}
	shared->processors = (int)sysconf(_SC_NPROCESSORS_ONLN);
	shared->proc_pid = !parameter_is_no("proc_pid");
	shared->kcov = !access("/sys/kernel/debug/kcov", R_OK | W_OK);
	rounds = supervise(start + seconds);
	if (pcs)
		write_pcs(pcs);
	print_summary(rounds, now() - start);
	return atomic_load(&shared->failed) ? 1 : 0;
}
