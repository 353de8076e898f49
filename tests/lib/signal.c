/* SPDX-License-Identifier: MIT */
/*
 * Signal masks that travel with fibers, and handlers that switch.
 */
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#include "check.h"

static fiber_id_t home;
static int visits;

static int blocked(int signal)
{
	sigset_t mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	return sigismember(&mask, signal);
}

static void set_blocked(int signal, int how)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, signal);
	pthread_sigmask(how, &mask, NULL);
}

static void blocks_a_signal(void *arg)
{
	int mine = (int)(intptr_t)arg;
	int signal;

	/* The creator's. */
	CHECK(blocked(SIGWINCH));
	CHECK(!blocked(mine));
	set_blocked(mine, SIG_BLOCK);
	for (;;) {
		CHECK_OK(fiber_switch(home));
		for (signal = SIGRTMIN; signal < SIGRTMIN + 8; signal++)
			CHECK(blocked(signal) == (signal == mine));
		CHECK(blocked(SIGWINCH));
		visits++;
	}
}

TEST(each_fiber_has_its_mask)
{
	fiber_id_t id[8];
	int i;

	only_on("kernel", "signal masks are the threads'");
	CHECK_OK(fiber_convert(0, &home));
	set_blocked(SIGWINCH, SIG_BLOCK);
	for (i = 0; i < 8; i++)
		CHECK_OK(fiber_create(&id[i], blocks_a_signal, (void *)(intptr_t)(SIGRTMIN + i),
				      NULL));
	set_blocked(SIGWINCH, SIG_UNBLOCK);
	for (i = 0; i < 80; i++) {
		CHECK_OK(fiber_switch(id[i % 8]));
		CHECK(!blocked(SIGWINCH));
		CHECK(!blocked(SIGRTMIN + i % 8));
	}
	CHECK(visits == 72);
}

static volatile int delivered;	/* volatile: sigprocmask() is declared not to call back */

static void on_usr1(int number)
{
	(void)number;
	delivered++;
}

static void unblocks_usr1(void *arg)
{
	(void)arg;
	CHECK(delivered == 0);
	set_blocked(SIGUSR1, SIG_UNBLOCK);
	CHECK(delivered == 1);
	CHECK_OK(fiber_switch(home));
}

TEST(a_pending_signal_waits_for_a_fiber_that_takes_it)
{
	struct sigaction action = { .sa_handler = on_usr1 };
	fiber_id_t id;

	sigaction(SIGUSR1, &action, NULL);
	only_on("kernel", "signal masks are the threads'");
	CHECK_OK(fiber_convert(0, &home));
	set_blocked(SIGUSR1, SIG_BLOCK);
	CHECK_OK(fiber_create(&id, unblocks_usr1, NULL, NULL));
	raise(SIGUSR1);
	CHECK(delivered == 0);
	CHECK_OK(fiber_switch(id));
	CHECK(delivered == 1);
	CHECK(blocked(SIGUSR1));
}

/*
 * Fibers that count, and a timer whose handler goes to the next one: no fiber
 * ever switches by itself but the last, which goes home.
 */
#define SPINNERS 4

static fiber_id_t ring[SPINNERS];
static volatile uint64_t spins[SPINNERS];
static volatile int alarms, goal;

static void on_alarm(int number)
{
	fiber_id_t self;
	int i, err;

	(void)number;
	CHECK(blocked(SIGALRM));
	alarms++;
	CHECK_OK(fiber_self(&self));
	for (i = 0; i < SPINNERS - 1 && ring[i] != self; i++)
		;
	err = fiber_switch(alarms > goal ? home : ring[(i + 1) % SPINNERS]);
	CHECK(err == 0 || err == EINVAL);
	CHECK(blocked(SIGALRM));
}

static void spins_for_ever(void *arg)
{
	int me = (int)(intptr_t)arg;
	uint64_t a = 0, b = POISON;

	set_blocked(SIGRTMIN + me, SIG_BLOCK);
	for (;;) {
		a++;
		b ^= a;
		__asm__ volatile("" : "+r"(a), "+r"(b));
		b ^= a;
		CHECK(b == POISON);
		spins[me] = a;
		if (a % 4096)
			continue;
		CHECK(!blocked(SIGALRM));
		CHECK(blocked(SIGRTMIN + me));
		CHECK(!blocked(SIGRTMIN + (me + 1) % SPINNERS));
	}
}

TEST(a_handler_switches)
{
	struct itimerval timer = { { 0, 5000 }, { 0, 5000 } };
	struct sigaction action = { .sa_handler = on_alarm };
	int i;

	goal = 60;
	sigaction(SIGALRM, &action, NULL);
	only_on("kernel", "signal masks are the threads'");
	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < SPINNERS; i++)
		CHECK_OK(fiber_create(&ring[i], spins_for_ever, (void *)(intptr_t)i, NULL));
	/* Blocked here, so that home is left and entered by its own switch only. */
	set_blocked(SIGALRM, SIG_BLOCK);
	setitimer(ITIMER_REAL, &timer, NULL);
	CHECK_OK(fiber_switch(ring[0]));
	CHECK(blocked(SIGALRM));
	memset(&timer, 0, sizeof(timer));
	setitimer(ITIMER_REAL, &timer, NULL);
	CHECK(alarms > goal);
	for (i = 0; i < SPINNERS; i++)
		CHECK(spins[i] > 0);
}

/*
 * As above, but without masks: the handler can interrupt itself, and a switch,
 * where engine `local` refuses another one.
 */
static uint64_t nested;

static void on_alarm_unmasked(int number)
{
	int err, target;

	(void)number;
	target = __atomic_fetch_add(&alarms, 1, __ATOMIC_RELAXED) % SPINNERS;
	err = fiber_switch(ring[target]);
	CHECK(err == 0 || err == EINVAL || err == EAGAIN);
	nested += err == EAGAIN;
}

static void switches_for_ever(void *arg)
{
	int me = (int)(intptr_t)arg;

	for (;;) {
		int err = fiber_switch(alarms > goal ? home : ring[(me + 1) % SPINNERS]);

		CHECK(err == 0);
		spins[me]++;
	}
}

TEST(a_handler_that_is_not_masked_switches)
{
	struct itimerval timer = { { 0, 2000 }, { 0, 2000 } };
	struct sigaction action = { .sa_handler = on_alarm_unmasked, .sa_flags = SA_NODEFER };
	int i;

	goal = 300;
	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < SPINNERS; i++)
		CHECK_OK(fiber_create(&ring[i], switches_for_ever, (void *)(intptr_t)i, NULL));
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	while (alarms <= goal)
		CHECK(fiber_switch(ring[0]) == 0);
	memset(&timer, 0, sizeof(timer));
	setitimer(ITIMER_REAL, &timer, NULL);
	for (i = 0; i < SPINNERS; i++)
		CHECK(spins[i] > 0);
}

static char alternate[65536];
static int result;

static void on_alternate_stack(int number)
{
	(void)number;
	result = fiber_switch(ring[0]);
}

TEST(no_switch_from_the_alternate_stack)
{
	struct sigaction action = { .sa_handler = on_alternate_stack, .sa_flags = SA_ONSTACK };
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof(alternate) };

	CHECK_OK(fiber_convert(0, &home));
	CHECK_OK(fiber_create(&ring[0], spins_for_ever, NULL, NULL));
	CHECK(sigaltstack(&stack, NULL) == 0);
	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
	CHECK(result == EINVAL);
}
