/* SPDX-License-Identifier: MIT */
/*
 * The workload of the report: a cellular network, a cell to a fiber.
 *
 *	main thread	converts, creates the other fibers, is the first cell itself
 *	other threads	convert, wait until all exist, jump to random fibers for ever
 *	a fiber		handles its cell's events until enough calls have ended, adds its
 *			time to the total and switches to random fibers from then on
 *	SIGALRM		makes the fiber that it hits switch to a random one, from the handler
 *	the last fiber	checks the books of all cells, prints and ends the process
 *
 * As in the report's workload, each operation on the event queue, taking an event or putting one
 * in, gets the queue from the fiber's storage, and each event gets the cell's state from there.
 *
 * What is checked all along: both fiber-local values of a fiber at each read;
 * every event's owner; the registers that a call preserves, over each switch;
 * the signal mask, which differs from fiber to fiber; the fiber's own id.
 *
 * A handler may leave a fiber anywhere. So fibers take no lock and allocate
 * nothing while SIGALRM is not blocked; counters are atomic because the
 * handler counts too.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "backend.h"
#include "cell.h"

#define FIBERS_MAX	BACKEND_FIBERS_MAX
#define THREADS_MAX	1024
#define PROCESSES_MAX	64
#define STACK_SIZE	(64 << 10)

/* A fiber's number, in binary over these signals, is what its mask blocks. */
#define MASK_BITS	16

/* Events between two looks at the signal mask, which is a system call. */
#define MASK_INTERVAL	256

static struct {
	unsigned int fibers, threads, processes;
	uint64_t calls, seed;
	double alarm;
	const char *engine, *sabotage;
	bool json;
} options = {
	.fibers = 512, .processes = 1, .calls = 15000, .seed = 1, .alarm = 1.0, .engine = "auto",
};

enum problem {
	PROBLEM_FLS, PROBLEM_OWNER, PROBLEM_REGISTER, PROBLEM_MASK, PROBLEM_IDENTITY,
	PROBLEM_SWITCH, PROBLEM_BOOKS, PROBLEMS
};

static const char *const problem_text[PROBLEMS] = {
	[PROBLEM_FLS] = "a fiber-local value was not the fiber's own",
	[PROBLEM_OWNER] = "an event reached a cell that is not its own",
	[PROBLEM_REGISTER] = "a register had changed over a switch",
	[PROBLEM_MASK] = "the signal mask was not the fiber's own",
	[PROBLEM_IDENTITY] = "a fiber was told that it is another one",
	[PROBLEM_SWITCH] = "a switch failed in a way that it must not",
	[PROBLEM_BOOKS] = "a cell's books do not balance",
};

/* What one process measured; in memory that all processes share. */
struct result {
	bool complete;
	char engine[16];
	double init_seconds, work_seconds, active_seconds;
	_Atomic uint64_t switches, busy, alarms, fls_reads;
	uint64_t events, completed, blocked, in_progress;
	/* How often, and which fiber was the first. */
	_Atomic uint64_t problems[PROBLEMS];
	uint32_t first[PROBLEMS];
};

struct station {
	struct cell cell;
	struct queue queue;
	uint64_t id;		/* set before any other thread can run fibers */
	sigset_t mask;
	double seconds;		/* until its calls had ended */
	double suspended;	/* by the handler, in that time and after it */
	double active;		/* seconds without what it was suspended until then */
	uint64_t targets;	/* generator of where to go; the handler has its own */
	uint64_t queue_slot, cell_slot;
};

/* Which fibers it is run on. */
static const struct backend *fibers;

/* This process's. Set up before the first switch, then constant but for what is atomic. */
static struct station *stations;
static struct result *result;
static pthread_barrier_t all_exist;
static _Atomic uint32_t unfinished;
static _Atomic uint64_t alarm_targets;
static atomic_bool sabotage_due;

static double seconds_now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void found(enum problem problem, uint32_t fiber)
{
	if (!atomic_fetch_add(&result->problems[problem], 1))
		result->first[problem] = fiber;
}

static _Noreturn void give_up(const char *what, int err)
{
	fprintf(stderr, "cells: %s: %s%s\n", what, strerror(err),
		err == ENODEV ? " (hint: load the module: kfiber module load)" : "");
	_exit(1);
}

/* True once, if this kind of damage was asked for. */
static bool sabotage(const char *kind)
{
	return options.sabotage && !strcmp(options.sabotage, kind) &&
	       atomic_exchange(&sabotage_due, false);
}

/*
 * int canary_switch(uint64_t id, uint64_t value[6], int (*function)(uint64_t))
 *
 * Loads rbx, rbp and r12 to r15 with the values, calls the function with the
 * id, and stores what is in the registers then.
 *
 * leaky_switch() calls leaky_target and loses r12: what --sabotage register is for.
 */
int canary_switch(uint64_t id, uint64_t value[6], int (*function)(uint64_t));
int leaky_switch(uint64_t id);
extern int (*leaky_target)(uint64_t);
int (*leaky_target)(uint64_t);

__asm__(
	".pushsection .text\n"
	".type canary_switch, @function\n"
	"canary_switch:\n\t"
	".cfi_startproc\n\t"
	"push %rbx\n\t"
	".cfi_adjust_cfa_offset 8\n\t.cfi_rel_offset rbx, 0\n\t"
	"push %rbp\n\t"
	".cfi_adjust_cfa_offset 8\n\t.cfi_rel_offset rbp, 0\n\t"
	"push %r12\n\t"
	".cfi_adjust_cfa_offset 8\n\t.cfi_rel_offset r12, 0\n\t"
	"push %r13\n\t"
	".cfi_adjust_cfa_offset 8\n\t.cfi_rel_offset r13, 0\n\t"
	"push %r14\n\t"
	".cfi_adjust_cfa_offset 8\n\t.cfi_rel_offset r14, 0\n\t"
	"push %r15\n\t"
	".cfi_adjust_cfa_offset 8\n\t.cfi_rel_offset r15, 0\n\t"
	"push %rsi\n\t"			/* and the stack is aligned for a call */
	".cfi_adjust_cfa_offset 8\n\t"
	"mov 0(%rsi), %rbx\n\t"
	"mov 8(%rsi), %rbp\n\t"
	"mov 16(%rsi), %r12\n\t"
	"mov 24(%rsi), %r13\n\t"
	"mov 32(%rsi), %r14\n\t"
	"mov 40(%rsi), %r15\n\t"
	"call *%rdx\n\t"
	"pop %rsi\n\t"
	".cfi_adjust_cfa_offset -8\n\t"
	"mov %rbx, 0(%rsi)\n\t"
	"mov %rbp, 8(%rsi)\n\t"
	"mov %r12, 16(%rsi)\n\t"
	"mov %r13, 24(%rsi)\n\t"
	"mov %r14, 32(%rsi)\n\t"
	"mov %r15, 40(%rsi)\n\t"
	"pop %r15\n\t"
	".cfi_adjust_cfa_offset -8\n\t.cfi_restore r15\n\t"
	"pop %r14\n\t"
	".cfi_adjust_cfa_offset -8\n\t.cfi_restore r14\n\t"
	"pop %r13\n\t"
	".cfi_adjust_cfa_offset -8\n\t.cfi_restore r13\n\t"
	"pop %r12\n\t"
	".cfi_adjust_cfa_offset -8\n\t.cfi_restore r12\n\t"
	"pop %rbp\n\t"
	".cfi_adjust_cfa_offset -8\n\t.cfi_restore rbp\n\t"
	"pop %rbx\n\t"
	".cfi_adjust_cfa_offset -8\n\t.cfi_restore rbx\n\t"
	"ret\n\t"
	".cfi_endproc\n"
	".size canary_switch, . - canary_switch\n"
	".type leaky_switch, @function\n"
	"leaky_switch:\n\t"
	".cfi_startproc\n\t"
	"sub $8, %rsp\n\t"
	".cfi_adjust_cfa_offset 8\n\t"
	"call *leaky_target(%rip)\n\t"
	"add $8, %rsp\n\t"
	".cfi_adjust_cfa_offset -8\n\t"
	"not %r12\n\t"
	"ret\n\t"
	".cfi_endproc\n"
	".size leaky_switch, . - leaky_switch\n"
	".popsection");

/* Switches and checks what must have survived it. Its own fiber is `me`. */
static int switch_and_check(struct station *me, struct station *target)
{
	uint64_t set[6], got[6];
	uint64_t self;
	int i, err;

	for (i = 0; i < 6; i++)
		got[i] = set[i] = me->id << 32 ^ target->id << 8 ^ (uint64_t)i;
	atomic_fetch_add_explicit(&result->switches, 1, memory_order_relaxed);
	err = canary_switch(target->id, got, sabotage("register") ? leaky_switch : fibers->switch_to);
	if (err) {
		atomic_fetch_sub_explicit(&result->switches, 1, memory_order_relaxed);
		/* EAGAIN: from a handler that interrupted a switch. */
		if (err == EBUSY || err == EAGAIN)
			atomic_fetch_add_explicit(&result->busy, 1, memory_order_relaxed);
		else if (err != EINVAL || target != me)
			found(PROBLEM_SWITCH, me->cell.index);
	}
	if (memcmp(set, got, sizeof(set)))
		found(PROBLEM_REGISTER, me->cell.index);
	if (fibers->self(&self) || self != me->id)
		found(PROBLEM_IDENTITY, me->cell.index);
	return err;
}

/* Not by memcmp(): of a sigset_t only the part is ever written that the kernel knows. */
static bool masks_differ(const sigset_t *one, const sigset_t *other)
{
	int i;

	for (i = 1; i <= SIGRTMAX; i++)
		if (sigismember(one, i) != sigismember(other, i))
			return true;
	return false;
}

static void check_mask(struct station *me)
{
	sigset_t mask;

	if (!fibers->masks_travel)
		return;
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	if (sabotage("mask")) {
		/* As if the fiber before had left its own behind. */
		mask = stations[(me->cell.index + 1) % options.fibers].mask;
		pthread_sigmask(SIG_SETMASK, &mask, NULL);
	}
	if (masks_differ(&mask, &me->mask)) {
		found(PROBLEM_MASK, me->cell.index);
		pthread_sigmask(SIG_SETMASK, &me->mask, NULL);
	}
}

static struct station *random_station(uint64_t *state)
{
	return &stations[random_next(state) % options.fibers];
}

static void on_alarm(int number)
{
	uint64_t seed = atomic_fetch_add(&alarm_targets, 1) ^ options.seed;
	sigset_t before, after;
	double left;
	uint64_t self;
	uint32_t i;

	(void)number;
	atomic_fetch_add(&result->alarms, 1);
	if (fibers->self(&self))
		return;
	for (i = 0; i < options.fibers && stations[i].id != self; i++)
		;
	if (i == options.fibers)
		return;		/* a thread's own fiber: looks for a cell to run already */
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	left = seconds_now();
	switch_and_check(&stations[i], random_station(&seed));
	stations[i].suspended += seconds_now() - left;
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	if (fibers->masks_travel && masks_differ(&before, &after))
		found(PROBLEM_MASK, i);
}

/*
 * A value of the fiber's storage, which must be `own`. If it is not, the fiber goes on with its own,
 * so that a leak is counted and does no more damage.
 */
static void *read_storage(struct station *me, uint64_t slot, void *own)
{
	uint64_t value = 0;
	int err = fibers->fls_get(slot, &value);

	atomic_fetch_add_explicit(&result->fls_reads, 1, memory_order_relaxed);
	if (!err && value == (uintptr_t)own)
		return own;
	found(PROBLEM_FLS, me->cell.index);
	fibers->fls_set(slot, (uintptr_t)own);
	return own;
}

static struct queue *read_queue(struct station *me)
{
	return read_storage(me, me->queue_slot, &me->queue);
}

static struct cell *read_cell(struct station *me)
{
	return read_storage(me, me->cell_slot, &me->cell);
}

static void prepare_storage(struct station *me)
{
	int err;

	err = fibers->fls_alloc(&me->queue_slot);
	if (!err)
		err = fibers->fls_alloc(&me->cell_slot);
	if (!err)
		err = fibers->fls_set(me->queue_slot, (uintptr_t)&me->queue);
	if (!err)
		err = fibers->fls_set(me->cell_slot, (uintptr_t)&me->cell);
	if (err)
		give_up("fiber-local storage", err);
}

static void handle_events(struct station *me)
{
	struct event event, news[CELL_NEWS];
	unsigned int i, count;
	uint64_t handled;

	for (handled = 0; me->cell.completed < options.calls; handled++) {
		if (cell_next(read_queue(me), &event) != me->cell.index)
			found(PROBLEM_OWNER, me->cell.index);
		count = cell_handle(read_cell(me), &event, news);
		for (i = 0; i < count; i++)
			cell_schedule(read_queue(me), &news[i]);
		if (handled % MASK_INTERVAL)
			continue;
		check_mask(me);
		if (sabotage("fls")) {
			struct station *other = &stations[(me->cell.index + 1) % options.fibers];

			fibers->fls_set(me->queue_slot, (uintptr_t)&other->queue);
		}
	}
}

static _Noreturn void finish(void);

static void open_up(const struct station *me)
{
	sigset_t alarm;

	if (fibers->masks_travel) {
		pthread_sigmask(SIG_SETMASK, &me->mask, NULL);
	} else {
		sigemptyset(&alarm);
		sigaddset(&alarm, SIGALRM);
		pthread_sigmask(SIG_UNBLOCK, &alarm, NULL);
	}
}

static void run_station(void *arg)
{
	struct station *me = arg;
	double started = seconds_now();

	prepare_storage(me);
	/* SIGALRM may come from here on, if it did not before. */
	open_up(me);
	handle_events(me);
	me->seconds = seconds_now() - started;
	me->active = me->seconds - me->suspended;
	if (atomic_fetch_sub(&unfinished, 1) == 1)
		finish();
	for (;;) {
		switch_and_check(me, random_station(&me->targets));
		check_mask(me);
	}
}

static void set_alarm(double seconds)
{
	struct itimerval timer = {
		.it_interval = {
			.tv_sec = (time_t)seconds,
			.tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6),
		},
	};

	timer.it_value = timer.it_interval;
	setitimer(ITIMER_REAL, &timer, NULL);
}

/* Nothing else: what ends a program ends this one too, whichever thread or fiber it hits. */
static void block_alarm(void)
{
	sigset_t alarm;

	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	pthread_sigmask(SIG_SETMASK, &alarm, NULL);
}

static int report(const struct result *results);

/* Only the last fiber comes here; the others still switch, but their cells are at rest. */
static void finish(void)
{
	uint32_t i;

	block_alarm();
	set_alarm(0);
	for (i = 0; i < options.fibers; i++) {
		const struct station *station = &stations[i];

		if (cell_audit(&station->cell, &station->queue) ||
		    station->cell.completed != options.calls)
			found(PROBLEM_BOOKS, i);
		result->work_seconds += station->seconds;
		result->active_seconds += station->active;
		result->events += station->cell.events;
		result->completed += station->cell.completed;
		result->blocked += station->cell.blocked;
		result->in_progress += station->cell.used_count;
	}
	result->work_seconds /= options.fibers;
	result->active_seconds /= options.fibers;
	result->complete = true;
	if (options.processes > 1)
		_exit(0);	/* the parent reports */
	exit(report(result));
}

static void *run_thread(void *arg)
{
	uint64_t seed = options.seed ^ (uint64_t)(uintptr_t)arg << 32;
	int err;

	err = fibers->convert(NULL);
	if (err)
		give_up("convert", err);
	pthread_barrier_wait(&all_exist);
	for (;;) {
		err = fibers->switch_to(random_station(&seed)->id);
		if (!err || err != EBUSY)
			break;
		atomic_fetch_add_explicit(&result->busy, 1, memory_order_relaxed);
	}
	/* Nobody knows this fiber, so nobody can have come back to it. */
	found(PROBLEM_SWITCH, options.fibers);
	return NULL;
}

static void prepare_station(struct station *me, uint32_t index, uint64_t seed)
{
	int bit;

	cell_start(&me->cell, &me->queue, index, seed);
	me->targets = seed + index;
	sigemptyset(&me->mask);
	for (bit = 0; bit < MASK_BITS; bit++)
		if ((index + 1) >> bit & 1)
			sigaddset(&me->mask, SIGRTMIN + bit);
}

static void create_fibers(void)
{
	char name[32];
	double started = seconds_now();
	uint32_t i;
	int err;

	for (i = 1; i < options.fibers; i++) {
		snprintf(name, sizeof(name), "cell %u", i);
		err = fibers->create(&stations[i].id, run_station, &stations[i], name, STACK_SIZE);
		if (err)
			give_up("create", err);
	}
	result->init_seconds = seconds_now() - started;
}

static _Noreturn void run_process(unsigned int number)
{
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	uint64_t seed = options.seed + (uint64_t)number * 1000003;
	pthread_t thread;
	uintptr_t i;
	int err;

	fibers = backend_open();
	leaky_target = fibers->switch_to;
	if (!fibers->masks_travel) {
		if (options.sabotage && !strcmp(options.sabotage, "mask"))
			give_up("--sabotage mask: this engine's masks are the threads'", EINVAL);
		/* The handler's mask would stay with the thread when it switches. */
		action.sa_flags |= SA_NODEFER;
	}
	/* Threads and fibers inherit it; each fiber opens up when it is ready. */
	block_alarm();
	sigaction(SIGALRM, &action, NULL);

	stations = mmap(NULL, options.fibers * sizeof(*stations), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stations == MAP_FAILED)
		give_up("memory for the cells", errno);
	for (i = 0; i < options.fibers; i++)
		prepare_station(&stations[i], (uint32_t)i, seed);
	atomic_store(&unfinished, options.fibers);
	atomic_store(&sabotage_due, true);

	pthread_barrier_init(&all_exist, NULL, options.threads);
	for (i = 1; i < options.threads; i++) {
		err = pthread_create(&thread, NULL, run_thread, (void *)i);
		if (err)
			give_up("pthread_create", err);
	}
	err = fibers->convert(&stations[0].id);
	if (err)
		give_up("convert", err);
	snprintf(result->engine, sizeof(result->engine), "%s", fibers->name);
	create_fibers();
	pthread_barrier_wait(&all_exist);
	set_alarm(options.alarm);
	run_station(&stations[0]);
	abort();	/* it does not return */
}

/* The numbers of all processes: times are means, all else is added up. */
static void add_up(struct result *sum, const struct result *results)
{
	unsigned int i;
	int p;

	memset(sum, 0, sizeof(*sum));
	sum->complete = true;
	strcpy(sum->engine, results[0].engine);
	for (i = 0; i < options.processes; i++) {
		const struct result *one = &results[i];

		sum->complete &= one->complete;
		sum->init_seconds += one->init_seconds / options.processes;
		sum->work_seconds += one->work_seconds / options.processes;
		sum->active_seconds += one->active_seconds / options.processes;
		sum->switches += one->switches;
		sum->busy += one->busy;
		sum->alarms += one->alarms;
		sum->fls_reads += one->fls_reads;
		sum->events += one->events;
		sum->completed += one->completed;
		sum->blocked += one->blocked;
		sum->in_progress += one->in_progress;
		for (p = 0; p < PROBLEMS; p++)
			sum->problems[p] += one->problems[p];
	}
}

static void print_json(const struct result *sum, const struct result *results, bool verified)
{
	unsigned int i;

	printf("{\"workload\": \"cells\", \"engine\": \"%s\", \"fibers\": %u, \"calls\": %" PRIu64
	       ", \"threads\": %u, \"processes\": %u, \"seed\": %" PRIu64 ", \"alarm_seconds\": %g",
	       sum->engine, options.fibers, options.calls, options.threads, options.processes,
	       options.seed, options.alarm);
	printf(", \"init_seconds\": %.9f, \"work_per_fiber_seconds\": %.9f"
	       ", \"active_per_fiber_seconds\": %.9f",
	       sum->init_seconds, sum->work_seconds, sum->active_seconds);
	printf(", \"switches\": %" PRIu64 ", \"switches_busy\": %" PRIu64 ", \"alarms\": %" PRIu64
	       ", \"fls_reads\": %" PRIu64 ", \"events\": %" PRIu64
	       ", \"calls_completed\": %" PRIu64 ", \"calls_blocked\": %" PRIu64
	       ", \"calls_in_progress\": %" PRIu64,
	       sum->switches, sum->busy, sum->alarms, sum->fls_reads, sum->events, sum->completed,
	       sum->blocked, sum->in_progress);
	printf(", \"per_process\": [");
	for (i = 0; i < options.processes; i++)
		printf("%s{\"init_seconds\": %.9f, \"work_per_fiber_seconds\": %.9f}",
		       i ? ", " : "", results[i].init_seconds, results[i].work_seconds);
	printf("], \"verified\": %s}\n", verified ? "true" : "false");
}

static void print_table(const struct result *sum, bool verified)
{
	printf("cells: %u fibers, %" PRIu64 " calls each, %u threads, %u processes, engine %s\n\n",
	       options.fibers, options.calls, options.threads, options.processes, sum->engine);
	printf("  time to initialise      %14.6f s\n", sum->init_seconds);
	printf("  work per fiber          %14.6f s\n", sum->work_seconds);
	printf("  without suspension      %14.6f s\n", sum->active_seconds);
	printf("  switches                %14" PRIu64 "\n", sum->switches);
	printf("  switches to busy fibers %14" PRIu64 "\n", sum->busy);
	printf("  alarms                  %14" PRIu64 "\n", sum->alarms);
	printf("  FLS reads               %14" PRIu64 "\n", sum->fls_reads);
	printf("  events                  %14" PRIu64 "\n", sum->events);
	printf("  calls completed         %14" PRIu64 "\n", sum->completed);
	printf("  calls blocked           %14" PRIu64 "\n", sum->blocked);
	printf("  calls in progress       %14" PRIu64 "\n", sum->in_progress);
	printf("  verified                %14s\n", verified ? "yes" : "NO");
}

/* Prints the whole and gives the exit status. */
static int report(const struct result *results)
{
	struct result sum;
	bool verified;
	unsigned int i;
	int p;

	add_up(&sum, results);
	verified = sum.complete;
	for (i = 0; i < options.processes; i++) {
		for (p = 0; p < PROBLEMS; p++) {
			if (!results[i].problems[p])
				continue;
			verified = false;
			fprintf(stderr,
				"cells: process %u: %s (%" PRIu64 " times, first in cell %u)\n",
				i + 1, problem_text[p], results[i].problems[p],
				results[i].first[p]);
		}
		if (!results[i].complete)
			fprintf(stderr, "cells: process %u: ended early\n", i + 1);
	}
	if (options.json)
		print_json(&sum, results, verified);
	else
		print_table(&sum, verified);
	return verified ? 0 : 1;
}

/* The calling process is killed when its parent ends, however that happens. */
static void end_with(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		give_up("prctl", errno);
	/* It may have ended before. */
	if (getppid() != parent)
		_exit(1);
}

/* Children wait for the end of the pipe, so that they start together. */
static int run_processes(struct result *results)
{
	const pid_t parent = getpid();
	int gate[2], status, failed = 0;
	unsigned int i;
	char byte;
	pid_t pid;

	if (pipe(gate))
		give_up("pipe", errno);
	for (i = 0; i < options.processes; i++) {
		pid = fork();
		if (pid < 0)
			give_up("fork", errno);
		if (pid)
			continue;
		result = &results[i];
		close(gate[1]);
		end_with(parent);
		if (read(gate[0], &byte, 1) < 0)
			give_up("read", errno);
		run_process(i);
	}
	close(gate[1]);
	close(gate[0]);
	while (wait(&status) > 0)
		failed |= status;
	status = report(results);
	return failed ? 1 : status;
}

static const char usage[] =
	"usage: cells [options]\n"
	"\n"
	"Simulates a cellular network with a fiber for each cell, and checks that no\n"
	"fiber ever sees another one's events, storage, registers or, with engines kernel\n"
	"and swapcontext, signal mask.\n"
	"\n"
	"  --fibers N      cells, one a fiber (512)\n"
	"  --calls N       calls that each cell completes (15000)\n"
	"  --threads N     threads that run the fibers (one a CPU)\n"
	"  --processes N   processes that do all of it at once (1)\n"
	"  --engine E      of libfiber: kernel, mapped, local, auto; or swapcontext, the\n"
	"                  C library's own at user level (auto)\n"
	"  --seed N        what happens in the cells follows from it (1)\n"
	"  --alarm SEC     time between switches from the SIGALRM handler, 0 for none (1)\n"
	"  --json          one JSON object instead of a table\n"
	"  --sabotage WHAT damages fls, register or mask once, to show that the checks\n"
	"                  can fail\n"
	"  --help          this text\n"
	"\n"
	"Exit status: 0 all checks passed, 1 some failed or there are no fibers, 2 usage.\n"
	"\n"
	"examples:\n"
	"  cells --fibers 1024 --processes 3       # the largest case of the report\n"
	"  cells --fibers 64 --calls 1000 --alarm 0.01 --json\n"
	"  cells --calls 1000 --sabotage mask      # must fail\n";

static _Noreturn void usage_error(const char *what, const char *value)
{
	fprintf(stderr, "cells: %s%s%s (cells --help shows the options)\n", what,
		value ? ": " : "", value ? value : "");
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

static double parse_seconds(const char *text)
{
	char *end;
	double seconds = strtod(text, &end);

	if (*text < '0' || *text > '9' || *end || !(seconds >= 0 && seconds <= 1e6) ||
	    (seconds > 0 && seconds < 1e-3))
		usage_error("--alarm is 0 or from 0.001 to 1000000 seconds", text);
	return seconds;
}

static void parse_options(int argc, char **argv)
{
	enum { FIBERS = 256, CALLS, THREADS, PROCESSES, ENGINE, SEED, ALARM, JSON, SABOTAGE, HELP };
	static const struct option known[] = {
		{ "fibers", required_argument, NULL, FIBERS },
		{ "calls", required_argument, NULL, CALLS },
		{ "threads", required_argument, NULL, THREADS },
		{ "processes", required_argument, NULL, PROCESSES },
		{ "engine", required_argument, NULL, ENGINE },
		{ "seed", required_argument, NULL, SEED },
		{ "alarm", required_argument, NULL, ALARM },
		{ "json", no_argument, NULL, JSON },
		{ "sabotage", required_argument, NULL, SABOTAGE },
		{ "help", no_argument, NULL, HELP },
		{ NULL, 0, NULL, 0 }
	};
	long cpus;
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case FIBERS:
			options.fibers = (unsigned int)parse_number(optarg, 2, FIBERS_MAX,
								    "--fibers is from 2 to 65000");
			break;
		case CALLS:
			options.calls = parse_number(optarg, 1, UINT32_MAX, "--calls is 1 or more");
			break;
		case THREADS:
			options.threads = (unsigned int)parse_number(optarg, 1, THREADS_MAX,
								     "--threads is from 1 to 1024");
			break;
		case PROCESSES:
			options.processes = (unsigned int)parse_number(optarg, 1, PROCESSES_MAX,
								       "--processes is 1 to 64");
			break;
		case ENGINE:
			options.engine = optarg;
			break;
		case SEED:
			options.seed = parse_number(optarg, 0, UINT64_MAX, "--seed is a number");
			break;
		case ALARM:
			options.alarm = parse_seconds(optarg);
			break;
		case JSON:
			options.json = true;
			break;
		case SABOTAGE:
			options.sabotage = optarg;
			if (strcmp(optarg, "fls") && strcmp(optarg, "register") &&
			    strcmp(optarg, "mask"))
				usage_error("--sabotage is fls, register or mask", optarg);
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
	if (!options.threads) {
		cpus = sysconf(_SC_NPROCESSORS_ONLN);
		options.threads = cpus < 1 ? 1 : (unsigned int)cpus;
		if (options.threads > options.fibers)
			options.threads = options.fibers;
	}
	if (options.threads > options.fibers)
		usage_error("--threads is more than there are fibers", NULL);
	if (!backend_choose(options.engine))
		usage_error("--engine is one of " BACKEND_NAMES ", not", options.engine);
}

int main(int argc, char **argv)
{
	struct result *results;

	parse_options(argc, argv);
	results = mmap(NULL, options.processes * sizeof(*results), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED)
		give_up("memory for the results", errno);
	if (options.processes > 1)
		return run_processes(results);
	result = results;
	run_process(0);
}
