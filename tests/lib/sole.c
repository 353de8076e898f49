/* SPDX-License-Identifier: MIT */
/*
 * A thread that is the only fiber thread switches without locked instructions, until there is
 * another one. It is stopped by its trap flag before each instruction of a switch:
 *
 *	the sole thread		switches to `contested`, and stops before the instruction `stop`
 *	the rival		becomes a fiber meanwhile and switches to `contested` as well
 */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "check.h"

#define TRAP 0x100

static volatile int stop, steps, locked;
static volatile int go, rival_is_done, tried, entered;
static fiber_id_t contested;
static _Thread_local fiber_id_t root;
static _Thread_local bool is_rival;

/* Not inlined: the fiber may be on another thread than before. */
static __attribute__((noinline)) fiber_id_t root_here(void)
{
	__asm__ volatile("" : : : "memory");
	return root;
}

static void trap(bool on)
{
	if (on)
		__asm__ volatile("pushfq; orq %0, (%%rsp); popfq" : : "i"(TRAP) : "memory", "cc");
	else
		__asm__ volatile("pushfq; andq %0, (%%rsp); popfq" : : "i"(~TRAP) : "memory", "cc");
}

/* Until the flag is raised, but for some of them no longer than 50 ms. */
static void wait_a_moment(const volatile int *flag)
{
	int i;

	for (i = 0; i < 500 && !__atomic_load_n(flag, __ATOMIC_SEQ_CST); i++)
		nanosleep(&(struct timespec) { .tv_nsec = 100000 }, NULL);
}

static void on_step(int signal, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
	const unsigned char *code = (const unsigned char *)(uintptr_t)registers[REG_RIP];

	(void)signal;
	(void)info;
	while (*code == 0x64 || *code == 0x66 || *code == 0xf2 || *code == 0xf3)
		code++;
	locked += *code == 0xf0;
	if (++steps != stop)
		return;
	registers[REG_EFL] &= ~TRAP;
	go = 1;
	wait_a_moment(&rival_is_done);
}

static void watch_steps(void)
{
	struct sigaction action = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };

	CHECK(!sigaction(SIGTRAP, &action, NULL));
}

static void runs_once(void *unused)
{
	(void)unused;
	trap(false);
	CHECK(__atomic_add_fetch(&entered, 1, __ATOMIC_SEQ_CST) == 1);
	if (is_rival) {
		rival_is_done = 1;
		wait_for(&tried);
	} else {
		tried = 1;
		/* The switch has fewer instructions. */
		if (!go)
			_exit(2);
		wait_for(&rival_is_done);
	}
	CHECK_OK(fiber_switch(root_here()));
}

static void *rival(void *unused)
{
	int err;

	(void)unused;
	is_rival = true;
	wait_for(&go);
	CHECK_OK(fiber_convert(0, &root));
	err = fiber_switch(contested);
	CHECK(!err || err == EBUSY);
	rival_is_done = 1;
	return NULL;
}

/* Ends with status 2 if the switch has no instruction of that number. */
static void stops_there(void)
{
	pthread_t thread;
	int err;

	watch_steps();
	CHECK_OK(fiber_convert(0, &root));
	CHECK_OK(fiber_create(&contested, runs_once, NULL, NULL));
	thread = thread_start(rival, NULL);
	/* So that the loader need not look for the function. */
	CHECK_ERR(fiber_switch(0), ESRCH);
	trap(true);
	err = fiber_switch(contested);
	trap(false);
	CHECK(!err || err == EBUSY);
	tried = 1;
	thread_join(thread);
	CHECK(entered == 1);
	exit(0);
}

TEST(a_second_thread_waits_for_the_switch_of_the_first)
{
	int status = 0;

	not_on("kernel", "the module takes fibers");
	while (!status) {
		stop++;
		status = in_child(stops_there);
	}
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 2);
	CHECK(stop > 50);
}

static void comes_back(void *unused)
{
	(void)unused;
	for (;;)
		CHECK_OK(fiber_switch(root));
}

/* A fiber's life with its two switches. */
static void live(void)
{
	fiber_id_t id;

	CHECK_OK(fiber_create(&id, comes_back, NULL, NULL));
	CHECK_OK(fiber_switch(id));
	CHECK_OK(fiber_delete(id));
}

static int locked_in_a_life(void)
{
	steps = locked = 0;
	trap(true);
	live();
	trap(false);
	CHECK(steps > 200);
	return locked;
}

static volatile int may_end;

static void *is_a_fiber(void *unused)
{
	(void)unused;
	CHECK_OK(fiber_convert(0, NULL));
	go = 1;
	wait_for(&may_end);
	return NULL;
}

TEST(a_sole_thread_needs_no_locked_instruction)
{
	pthread_t thread;

	not_on("kernel", "the module takes fibers");
	watch_steps();
	CHECK_OK(fiber_convert(0, &root));
	live();
	CHECK(locked_in_a_life() == 0);
	thread = thread_start(is_a_fiber, NULL);
	wait_for(&go);
	CHECK(locked_in_a_life() >= 3);
	may_end = 1;
	thread_join(thread);
	CHECK(locked_in_a_life() == 0);
}

#define WALKERS	8
#define VISITS	20

static struct walker {
	fiber_id_t id;
	uint64_t random;
	int inside;
} walkers[WALKERS];
static long visits_left;
static _Thread_local int visits;

/* Not inlined: see root_here(). Whether a guest of the thread goes home. */
static __attribute__((noinline)) bool visits_end(void)
{
	__asm__ volatile("" : : : "memory");
	return is_rival ? --visits <= 0 : __atomic_load_n(&visits_left, __ATOMIC_RELAXED) <= 0;
}

static void walks(void *arg)
{
	struct walker *me = arg;

	for (;;) {
		fiber_id_t next;
		int err;

		CHECK(!__atomic_exchange_n(&me->inside, 1, __ATOMIC_SEQ_CST));
		me->random = me->random * UINT64_C(6364136223846793005) + 1442695040888963407;
		next = visits_end() ? root_here() : walkers[me->random >> 33 & (WALKERS - 1)].id;
		__atomic_store_n(&me->inside, 0, __ATOMIC_SEQ_CST);
		err = fiber_switch(next);
		CHECK(!err || err == EBUSY || err == EINVAL);
	}
}

/* Becomes a fiber again and again, and deletes, counts and looks as a thread that is none. */
static void *comes_and_goes(void *unused)
{
	uint64_t turn;

	(void)unused;
	is_rival = true;
	for (turn = 0; __atomic_load_n(&visits_left, __ATOMIC_RELAXED) > 0; turn++) {
		fiber_id_t spare;
		int err;

		CHECK_OK(fiber_convert(0, &root));
		CHECK_OK(fiber_create(&spare, walks, NULL, NULL));
		visits = VISITS;
		err = fiber_switch(walkers[turn % WALKERS].id);
		CHECK(!err || err == EBUSY);
		CHECK_OK(fiber_revert());
		CHECK(stat_of(spare).state == FIBER_NEW);
		CHECK_OK(fiber_delete(spare));
		__atomic_sub_fetch(&visits_left, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void walk(long turns)
{
	pthread_t thread;
	int i;

	visits_left = turns;
	CHECK_OK(fiber_convert(0, &root));
	for (i = 0; i < WALKERS; i++) {
		walkers[i].random = (uint64_t)i;
		CHECK_OK(fiber_create(&walkers[i].id, walks, &walkers[i], NULL));
	}
	thread = thread_start(comes_and_goes, NULL);
	CHECK_RESULT(switch_when_free(walkers[0].id), 0);
	thread_join(thread);
	for (i = 0; i < WALKERS; i++)
		CHECK_OK(fiber_delete(walkers[i].id));
	CHECK_OK(fiber_revert());
}

TEST(threads_become_fibers_while_others_switch)
{
	const char *words = getenv("KFIBER_STRESS");

	not_on("kernel", "the module takes fibers");
	walk(words ? strtol(words, NULL, 0) / 1000 : 20000);
}

/* As a sandbox does. */
static void forbid_barriers(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		check_skip("this kernel has no seccomp filters");
}

TEST(without_barriers_each_switch_is_locked)
{
	not_on("kernel", "the module takes fibers");
	forbid_barriers();
	watch_steps();
	CHECK_OK(fiber_convert(0, &root));
	live();
	CHECK(locked_in_a_life() >= 3);
}

TEST(barriers_that_are_forbidden_later)
{
	not_on("kernel", "the module takes fibers");
	CHECK_OK(fiber_convert(0, &root));
	CHECK_OK(fiber_revert());
	forbid_barriers();
	walk(10);
}
