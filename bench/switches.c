/* SPDX-License-Identifier: MIT */
/*
 * The rate of switches: fibers that do nothing but switch to random others, on some threads. The
 * report's workload cannot show it, since it hardly switches.
 *
 *	main thread	waits, reads the fibers' counters at two moments, prints and ends all
 *	first thread	converts, creates the fibers, and runs each once, one after the other
 *	the others	convert, wait for that, then jump to random ones
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend.h"
#include "cell.h"

#define THREADS_MAX	64
#define STACK_SIZE	(64 << 10)

static struct {
	unsigned int fibers, threads;
	double seconds;
	uint64_t seed;
	const char *engine;
} options = { .fibers = 512, .threads = 1, .seconds = 0.5, .seed = 1, .engine = "auto" };

/* A cache line of its own; only the thread that runs the fiber writes it. */
struct walker {
	uint64_t id;
	uint64_t targets;
	_Atomic uint64_t switches, refused;
} __attribute__((aligned(64)));

static const struct backend *fibers;
static struct walker *walkers;
static pthread_barrier_t all_exist;

static _Noreturn void give_up(const char *what, int err)
{
	fprintf(stderr, "switches: %s: %s\n", what, strerror(err));
	_exit(1);
}

static inline void count(_Atomic uint64_t *counter)
{
	uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);

	atomic_store_explicit(counter, value + 1, memory_order_relaxed);
}

static void walk(void *arg)
{
	struct walker *me = arg;

	/* A first lap, so that nothing is measured of a fiber's first run, which touches its stack. */
	if (me + 1 < walkers + options.fibers) {
		int err = fibers->switch_to(me[1].id);

		if (err)
			give_up("first lap", err);
	} else {
		pthread_barrier_wait(&all_exist);
	}
	for (;;) {
		const struct walker *target = &walkers[random_next(&me->targets) % options.fibers];
		int err;

		if (target == me)
			continue;
		err = fibers->switch_to(target->id);
		if (!err)
			count(&me->switches);
		else if (err == EBUSY)
			count(&me->refused);
		else
			give_up("switch", err);
	}
}

static void create_fibers(void)
{
	unsigned int i;
	int err;

	for (i = 0; i < options.fibers; i++) {
		walkers[i].targets = options.seed + i;
		err = fibers->create(&walkers[i].id, walk, &walkers[i], NULL, STACK_SIZE);
		if (err)
			give_up("create", err);
	}
}

static void *run_thread(void *arg)
{
	uintptr_t number = (uintptr_t)arg;
	uint64_t targets = options.seed ^ (uint64_t)number << 32;
	int err = fibers->convert(NULL);

	if (err)
		give_up("convert", err);
	if (!number) {
		create_fibers();
		err = fibers->switch_to(walkers[0].id);
		give_up("the first thread's own fiber was resumed", err);
	}
	pthread_barrier_wait(&all_exist);
	do {
		err = fibers->switch_to(walkers[random_next(&targets) % options.fibers].id);
	} while (err == EBUSY);
	give_up("a thread's own fiber was resumed", err);
}

struct counts {
	uint64_t switches, refused;
	double time;
};

static struct counts look(void)
{
	struct counts sum = { 0 };
	struct timespec now;
	unsigned int i;

	for (i = 0; i < options.fibers; i++) {
		sum.switches += atomic_load_explicit(&walkers[i].switches, memory_order_relaxed);
		sum.refused += atomic_load_explicit(&walkers[i].refused, memory_order_relaxed);
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	sum.time = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
	return sum;
}

static void wait_seconds(double seconds)
{
	struct timespec time = { .tv_sec = (time_t)seconds };

	time.tv_nsec = (long)((seconds - (double)time.tv_sec) * 1e9);
	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &time, &time) == EINTR)
		;
}

static const char usage[] =
	"usage: switches [options]\n"
	"\n"
	"Measures how long a switch to a random fiber takes, in ns of a thread's time.\n"
	"Prints one JSON object.\n"
	"\n"
	"  --fibers N      fibers that switch to each other (512)\n"
	"  --threads N     threads that run them (1)\n"
	"  --seconds SEC   time of the measurement (0.5)\n"
	"  --engine E      of libfiber: kernel, mapped, local, auto; or swapcontext (auto)\n"
	"  --seed N        the targets follow from it (1)\n"
	"  --help          this text\n"
	"\n"
	"Exit status: 0 measured, 1 there are no fibers here, 2 usage.\n";

static _Noreturn void usage_error(const char *what, const char *value)
{
	fprintf(stderr, "switches: %s: %s (switches --help shows the options)\n", what, value);
	exit(2);
}

static uint64_t parse_number(const char *text, uint64_t min, uint64_t max, const char *what)
{
	char *end;
	uint64_t number;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || number < min || number > max)
		usage_error(what, text);
	return number;
}

static void parse_options(int argc, char **argv)
{
	enum { FIBERS = 256, THREADS, SECONDS, ENGINE, SEED, HELP };
	static const struct option known[] = {
		{ "fibers", required_argument, NULL, FIBERS },
		{ "threads", required_argument, NULL, THREADS },
		{ "seconds", required_argument, NULL, SECONDS },
		{ "engine", required_argument, NULL, ENGINE },
		{ "seed", required_argument, NULL, SEED },
		{ "help", no_argument, NULL, HELP },
		{ NULL, 0, NULL, 0 }
	};
	char *end;
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case FIBERS:
			options.fibers = (unsigned int)parse_number(optarg, 2, BACKEND_FIBERS_MAX,
								    "--fibers is from 2 to 65000");
			break;
		case THREADS:
			options.threads = (unsigned int)parse_number(optarg, 1, THREADS_MAX,
								     "--threads is from 1 to 64");
			break;
		case SECONDS:
			options.seconds = strtod(optarg, &end);
			if (*end || !(options.seconds >= 0.001 && options.seconds <= 3600))
				usage_error("--seconds is from 0.001 to 3600", optarg);
			break;
		case ENGINE:
			options.engine = optarg;
			break;
		case SEED:
			options.seed = parse_number(optarg, 0, UINT64_MAX, "--seed is a number");
			break;
		case HELP:
			fputs(usage, stdout);
			exit(0);
		default:
			exit(2);	/* getopt has said why */
		}
	}
	if (optind < argc)
		usage_error("no arguments are expected", argv[optind]);
	if (options.threads >= options.fibers)
		usage_error("--threads must be less than there are fibers", "with none to switch to");
	if (!backend_choose(options.engine))
		usage_error("--engine is one of " BACKEND_NAMES ", not", options.engine);
}

int main(int argc, char **argv)
{
	struct counts from, to;
	pthread_t thread;
	uintptr_t i;
	int err;

	parse_options(argc, argv);
	fibers = backend_open();
	walkers = aligned_alloc(64, options.fibers * sizeof(*walkers));
	if (!walkers)
		give_up("memory for the fibers", ENOMEM);
	memset(walkers, 0, options.fibers * sizeof(*walkers));
	pthread_barrier_init(&all_exist, NULL, options.threads + 1);
	for (i = 0; i < options.threads; i++) {
		err = pthread_create(&thread, NULL, run_thread, (void *)i);
		if (err)
			give_up("pthread_create", err);
	}
	pthread_barrier_wait(&all_exist);
	/* Until the processor knows the way. */
	wait_seconds(options.seconds / 5);
	from = look();
	wait_seconds(options.seconds);
	to = look();
	if (to.switches == from.switches)
		give_up("no switch in all that time", ETIME);
	printf("{\"workload\": \"switches\", \"engine\": \"%s\", \"fibers\": %u, \"threads\": %u"
	       ", \"seconds\": %.6f, \"switches\": %" PRIu64 ", \"refused\": %" PRIu64
	       ", \"ns\": %.3f}\n",
	       fibers->name, options.fibers, options.threads, to.time - from.time,
	       to.switches - from.switches, to.refused - from.refused,
	       (to.time - from.time) * 1e9 * options.threads /
	       (double)(to.switches - from.switches));
	fflush(stdout);
	_exit(0);	/* the threads never end */
}
