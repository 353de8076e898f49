/* SPDX-License-Identifier: MIT */
/*
 * What becomes of fibers when a thread ends.
 *
 *	the fiber that it was running	a created one	available, from its entry on
 *					its own		finished
 *	its own, parked				finished
 *	its own, run by another thread		finished as soon as that leaves it
 *	all others					as they were
 */
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

static atomic_int entered;
static atomic_int entered_tid;
static uint64_t entered_arg;

static void exit_inside(void *arg)
{
	entered_arg = (uintptr_t)arg;
	atomic_store(&entered_tid, gettid());
	atomic_fetch_add(&entered, 1);
	thread_exit_raw();
}

static uint64_t thread_own_id;

static void *switch_thread(void *arg)
{
	thread_own_id = convert(0);
	fiber_switch(*(uint64_t *)arg);
	check_failed(__FILE__, __LINE__, "a thread that had ended came back");
}

/* Fails unless the fiber has not begun, or has been reset. */
static void check_as_created(uint64_t id, void (*entry)(void *))
{
	CHECK(proc_is(id, "Running", "no"));
	CHECK(proc_is(id, "State", "new"));
	CHECK_EQ(proc_number(id, "Saved instruction pointer"), (uintptr_t)entry);
	CHECK_EQ(proc_number(id, "Saved stack pointer"),
		 stack_top((void *)proc_number(id, "Stack start"), STACK_SIZE));
}

TEST(created_fiber_is_available_again_from_its_entry)
{
	uint64_t id;
	pid_t first;

	convert(0);
	id = create(exit_inside, (void *)POISON, 0, NULL);
	thread_join(thread_start(switch_thread, &id));
	WAIT_FOR(proc_is(id, "Running", "no"));
	check_as_created(id, exit_inside);
	CHECK_EQ(entered_arg, POISON);
	first = atomic_load(&entered_tid);

	/* Another thread enters it from the start, and it may end that one, too. */
	entered_arg = 0;
	thread_join(thread_start(switch_thread, &id));
	WAIT_FOR(atomic_load(&entered) == 2);
	CHECK_EQ(entered_arg, POISON);
	CHECK(atomic_load(&entered_tid) != first);
	CHECK_EQ(proc_number(id, "Number of activations"), 2);
}

static void exit_by_pthread(void *arg)
{
	(void)arg;
	atomic_fetch_add(&entered, 1);
	pthread_exit(NULL);
}

TEST(pthread_exit_inside_a_created_fiber)
{
	uint64_t id;

	convert(0);
	id = create(exit_by_pthread, NULL, 0, NULL);
	for (int i = 1; i <= 3; i++) {
		thread_join(thread_start(switch_thread, &id));
		WAIT_FOR(proc_is(id, "Running", "no"));
		check_as_created(id, exit_by_pthread);
		CHECK(atomic_load(&entered) == i);
	}
}

static void half_way(void *arg)
{
	uint64_t index;

	(void)arg;
	CHECK_OK(fls_alloc(&index));
	CHECK_EQ(index, 0);
	CHECK_OK(fls_set(index, POISON));
	thread_exit_raw();
}

/* "Reset" means its storage, too: the second run finds none. */
TEST(reset_fiber_has_no_storage)
{
	uint64_t id;

	convert(0);
	id = create(half_way, NULL, FIBER_FLAG_FPU, NULL);
	for (int i = 1; i <= 2; i++) {
		thread_join(thread_start(switch_thread, &id));
		WAIT_FOR(proc_is(id, "Running", "no"));
		CHECK_EQ(proc_number(id, "Number of activations"), (unsigned int)i);
	}
}

TEST(own_parked_fiber_is_finished)
{
	uint64_t id;

	convert(0);
	id = create(exit_inside, NULL, 0, NULL);
	thread_join(thread_start(switch_thread, &id));
	WAIT_FOR(proc_is(id, "Running", "no"));
	CHECK(proc_is(thread_own_id, "State", "finished"));
	CHECK(proc_is(thread_own_id, "Thread id", "0"));
	CHECK_ERR(fiber_switch(thread_own_id), EOWNERDEAD);
	CHECK_EQ(self(), 1);
	/* No failed activation: it can never run again. */
	CHECK_EQ(proc_number(thread_own_id, "Number of failed activations"), 0);
	CHECK_OK(fiber_delete(thread_own_id));
	CHECK_ERR(fiber_switch(thread_own_id), ESRCH);
}

static void *convert_and_return(void *arg)
{
	*(uint64_t *)arg = convert(0);
	return NULL;
}

static void *convert_and_exit_raw(void *arg)
{
	*(uint64_t *)arg = convert(0);
	thread_exit_raw();
}

TEST(own_running_fiber_is_finished)
{
	static void *(*const ways[])(void *) = { convert_and_return, convert_and_exit_raw };

	convert(0);
	for (unsigned int i = 0; i < ARRAY_SIZE(ways); i++) {
		uint64_t id;

		thread_join(thread_start(ways[i], &id));
		CHECK_ERR(switch_when_free(id), EOWNERDEAD);
		CHECK(proc_is(id, "State", "finished"));
		CHECK(proc_is(id, "Running", "no"));
		CHECK_OK(fiber_delete(id));
	}
}

/*
 *	thread A: own fiber a, created fiber c	thread B: own fiber b
 *
 *	A: a -> c, which waits			B: b -> a, which waits
 *	A ends inside c				B still runs a on A's stack
 *						B: a -> b; a is finished
 */
static struct {
	uint64_t a, b, c;
	atomic_bool a_is_on_b, a_may_leave, c_may_end, c_is_there;
	atomic_int tid_a, tid_b;
	long result;
} trade;

static void trade_c(void *arg)
{
	(void)arg;
	atomic_store(&trade.c_is_there, true);
	WAIT_FOR(atomic_load(&trade.c_may_end));
	thread_exit_raw();
}

static void *trade_thread_a(void *arg)
{
	atomic_store(&trade.tid_a, gettid());
	trade.a = convert(0);
	CHECK_OK(fiber_switch(trade.c));
	/* On thread B now. */
	CHECK(gettid() == atomic_load(&trade.tid_b));
	atomic_store(&trade.a_is_on_b, true);
	WAIT_FOR(atomic_load(&trade.a_may_leave));
	CHECK_EQ(self(), trade.a);
	CHECK_OK(fiber_switch(trade.b));
	check_failed(__FILE__, __LINE__, "a fiber that was finished ran");
	return arg;
}

static void *trade_thread_b(void *arg)
{
	atomic_store(&trade.tid_b, gettid());
	trade.b = convert(0);
	WAIT_FOR(atomic_load(&trade.c_is_there));
	CHECK_OK(switch_when_free(trade.a));
	trade.result = fiber_switch(trade.a);
	return arg;
}

TEST(own_fiber_that_another_thread_runs_is_finished_when_left)
{
	pthread_t b;

	convert(0);
	trade.c = create(trade_c, NULL, 0, NULL);
	thread_start_on_lasting_stack(trade_thread_a, NULL);
	b = thread_start(trade_thread_b, NULL);
	WAIT_FOR(atomic_load(&trade.a_is_on_b));

	atomic_store(&trade.c_may_end, true);
	WAIT_FOR(thread_state(atomic_load(&trade.tid_a)) == 'X');
	WAIT_FOR(proc_is(trade.c, "State", "new"));
	/* Its thread is dead, but the fiber runs on. */
	CHECK(proc_is(trade.a, "State", "running"));
	CHECK_EQ(proc_number(trade.a, "Thread id"), (unsigned int)atomic_load(&trade.tid_b));
	CHECK_ERR(fiber_switch(trade.a), EBUSY);
	CHECK_ERR(fiber_delete(trade.a), EBUSY);

	atomic_store(&trade.a_may_leave, true);
	thread_join(b);
	CHECK_ERR(trade.result, EOWNERDEAD);
	CHECK(proc_is(trade.a, "State", "finished"));
	CHECK_ERR(fiber_switch(trade.a), EOWNERDEAD);
	CHECK_OK(fiber_delete(trade.a));
}

static void *end_on_a(void *arg)
{
	trade.a = convert(0);
	CHECK_OK(fiber_switch(trade.c));
	/* On thread B: ends that. */
	atomic_store(&trade.a_is_on_b, true);
	thread_exit_raw();
	return arg;
}

/* Thread B ends while it runs A's own fiber: both threads' own fibers are finished. */
TEST(end_on_another_threads_own_fiber)
{
	convert(0);
	trade.c = create(trade_c, NULL, 0, NULL);
	thread_start_on_lasting_stack(end_on_a, NULL);
	thread_start_on_lasting_stack(trade_thread_b, NULL);
	WAIT_FOR(atomic_load(&trade.a_is_on_b));
	CHECK_ERR(switch_when_free(trade.a), EOWNERDEAD);
	CHECK_ERR(switch_when_free(trade.b), EOWNERDEAD);
	/* A lives on, without a fiber to come home to. */
	CHECK(proc_is(trade.c, "State", "running"));
	atomic_store(&trade.c_may_end, true);
	WAIT_FOR(proc_is(trade.c, "State", "new"));
}

static long retire(void)
{
	return request(device, FIBER_IOC_RETIRE, 0);
}

TEST(retire_on_the_own_fiber_is_einval)
{
	convert(0);
	CHECK_ERR(retire(), EINVAL);
	CHECK_EQ(self(), 1);
	CHECK(proc_is(1, "State", "running"));
}

static long retire_results[3];
static uint64_t second_id;

static void retire_inside(void *arg)
{
	(void)arg;
	retire_results[0] = retire();
	retire_results[1] = fiber_switch(thread_own_id);
	retire_results[2] = retire();
	/* It goes on as before. */
	CHECK_EQ(self(), second_id);
	atomic_store(&entered, 1);
	WAIT_FOR(atomic_load(&entered) == 2);
	thread_exit_raw();
}

TEST(retire_finishes_a_parked_fiber)
{
	convert(0);
	second_id = create(retire_inside, NULL, 0, NULL);
	thread_start(switch_thread, &second_id);
	WAIT_FOR(atomic_load(&entered) == 1);
	CHECK_OK(retire_results[0]);
	CHECK_ERR(retire_results[1], EOWNERDEAD);
	CHECK_OK(retire_results[2]);
	CHECK(proc_is(thread_own_id, "State", "finished"));
	CHECK_ERR(fiber_switch(thread_own_id), EOWNERDEAD);
	/* It may be deleted before its thread ends. */
	CHECK_OK(fiber_delete(thread_own_id));
	atomic_store(&entered, 2);
	WAIT_FOR(proc_is(second_id, "State", "new"));
}

static long first_retire, second_retire;

static void on_signal(int number)
{
	(void)number;
}

static void trade_c_retires(void *arg)
{
	(void)arg;
	atomic_store(&trade.c_is_there, true);
	/* Never asleep, so that the observer knows what it sleeps in afterwards. */
	while (!atomic_load(&trade.a_is_on_b))
		sched_yield();
	first_retire = retire();
	second_retire = retire();
	atomic_store(&trade.c_may_end, true);
	thread_exit_raw();
}

TEST(retire_waits_while_another_thread_runs_the_fiber)
{
	struct sigaction action = { .sa_handler = on_signal };
	pthread_t b;
	pid_t tid;

	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	convert(0);
	trade.c = create(trade_c_retires, NULL, 0, NULL);
	thread_start_on_lasting_stack(trade_thread_a, NULL);
	b = thread_start(trade_thread_b, NULL);
	WAIT_FOR(atomic_load(&trade.a_is_on_b));
	tid = atomic_load(&trade.tid_a);
	first_retire = second_retire = 1;
	WAIT_FOR(thread_state(tid) == 'S');
	CHECK(syscall(SYS_tgkill, getpid(), tid, SIGUSR1) == 0);
	WAIT_FOR(*(volatile long *)&first_retire != 1);
	CHECK_ERR(first_retire, EINTR);

	WAIT_FOR(thread_state(tid) == 'S');
	CHECK(*(volatile long *)&second_retire == 1);
	CHECK(proc_is(trade.a, "State", "running"));
	atomic_store(&trade.a_may_leave, true);
	WAIT_FOR(atomic_load(&trade.c_may_end));
	CHECK_OK(second_retire);
	thread_join(b);
	CHECK_ERR(trade.result, EOWNERDEAD);
}

/* Takes over after the main thread's end; a failure shows in the status all the same. */
static void *survivor(void *arg)
{
	uint64_t id;

	convert(0);
	WAIT_FOR(thread_state(getpid()) == 'Z');
	CHECK(proc_is(1, "State", "finished"));
	CHECK_ERR(fiber_switch(1), EOWNERDEAD);
	id = *(uint64_t *)arg;
	CHECK(proc_is(id, "Name", "heir"));
	CHECK(proc_is(id, "State", "new"));
	CHECK_OK(fiber_delete(id));
	CHECK_EQ(counters_read().processes, 1);
	_exit(0);
}

/* The report's module freed all with the first thread. */
TEST(first_thread_ends_and_the_process_lives_on)
{
	static uint64_t id;

	counters_wait_none();
	convert(0);
	id = create(exit_inside, NULL, 0, "heir");
	thread_start(survivor, &id);
	thread_exit_raw();
}

static atomic_int ready;

static void *convert_and_wait(void *arg)
{
	convert(FIBER_FLAG_FPU);
	create(exit_inside, NULL, FIBER_FLAG_FPU, NULL);
	atomic_fetch_add(&ready, 1);
	for (;;)
		pause();
	return arg;
}

static void exit_in_order(void *arg)
{
	(void)arg;
	for (int i = 0; i < 3; i++)
		thread_exit_raw();
}

static void all_threads_end_one_by_one(void)
{
	uint64_t ids[4];

	convert(0);
	for (int i = 0; i < 4; i++) {
		ids[i] = create(exit_in_order, NULL, i & 1, NULL);
		thread_start(switch_thread, &ids[i]);
	}
	for (int i = 0; i < 4; i++)
		WAIT_FOR(proc_number(ids[i], "Number of activations") == 1 &&
			 proc_is(ids[i], "State", "new"));
	/* The last one: nobody called exit_group(). */
	thread_exit_raw();
}

TEST(last_thread_frees_everything)
{
	counters_wait_none();
	in_child(all_threads_end_one_by_one);
	counters_wait_none();
}

static void exit_with_busy_threads(void)
{
	convert(0);
	for (int i = 0; i < 4; i++)
		thread_start(convert_and_wait, NULL);
	WAIT_FOR(atomic_load(&ready) == 4);
	_exit(0);
}

TEST(exit_group_frees_everything)
{
	counters_wait_none();
	for (int i = 0; i < 10; i++)
		in_child(exit_with_busy_threads);
	counters_wait_none();
}

#define MANY 3000

static void many_fibers_then_wait(void)
{
	struct fiber_create args = {
		.size = sizeof(args),
		.entry = (uintptr_t)exit_inside,
		.stack_start = 65536,
		.stack_size = STACK_SIZE,
	};
	uint64_t id;

	convert(FIBER_FLAG_FPU);
	for (int i = 0; i < 4; i++)
		thread_start(convert_and_wait, NULL);
	for (int i = 0; i < MANY; i++) {
		args.flags = i & 1;
		CHECK_OK(try_create(&args, &id));
	}
	for (;;)
		pause();
}

TEST(kill_frees_everything)
{
	pid_t pid;
	int status;

	counters_wait_none();
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		many_fibers_then_wait();
	counters_wait((struct counters) { 1, 5, MANY + 5 + 4 });
	CHECK(kill(pid, SIGKILL) == 0);
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	counters_wait_none();
}

static void switching_for_ever(void *arg)
{
	uint64_t *home = arg;

	for (;;)
		CHECK_OK(fiber_switch(*home));
}

static void *switch_for_ever(void *arg)
{
	uint64_t home = convert(FIBER_FLAG_FPU);
	uint64_t partner = create(switching_for_ever, &home, 0, NULL);

	atomic_fetch_add(&ready, 1);
	for (;;)
		CHECK_OK(fiber_switch(partner));
	return arg;
}

static void switch_until_killed(void)
{
	convert(0);
	for (int i = 0; i < 2; i++)
		thread_start(switch_for_ever, NULL);
	WAIT_FOR(atomic_load(&ready) == 2);
	raise(SIGKILL);
}

TEST(kill_in_the_middle_of_switches)
{
	counters_wait_none();
	for (int i = 0; i < 15; i++)
		CHECK(child_status(switch_until_killed) == SIGKILL);
	counters_wait_none();
}
