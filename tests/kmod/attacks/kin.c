/* SPDX-License-Identifier: MIT */
/*
 * Processes that share memory with one that has fibers: vfork() and clone(CLONE_VM). They end,
 * execute, open the device and are killed at bad moments, and the other one never notices.
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "setting.h"

static uint64_t runs;

static void count_up(void *arg)
{
	(void)arg;
	for (;;) {
		runs++;
		CHECK_OK(fiber_switch(1));
	}
}

static void family_start(void)
{
	CHECK_EQ(convert(0), 1);
	CHECK_EQ(create(count_up, NULL, FIBER_FLAG_FPU, "worker"), 2);
	CHECK_OK(fiber_switch(2));
}

static void family_check(void)
{
	uint64_t before = runs;

	CHECK_EQ(self(), 1);
	CHECK_OK(fiber_switch(2));
	CHECK_EQ(runs, before + 1);
	CHECK(proc_is(2, "State", "suspended"));
	CHECK_EQ(proc_number(2, "Number of activations"), runs);
}

/* Starts a child with our memory, on a stack of its own. */
static pid_t kin_start(int (*run)(void *), int flags)
{
	char *stack = stack_new(STACK_SIZE);
	pid_t pid = clone(run, stack + STACK_SIZE, CLONE_VM | SIGCHLD | flags, NULL);

	CHECK(pid > 0);
	return pid;
}

static int kin_join(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	return status;
}

/* Fibers of its own, in our memory; it ends in the middle of one. */
static void ends_here(void *arg)
{
	(void)arg;
	syscall(SYS_exit_group, 0);
}

/* Not by the harness's descriptor: that variable is shared. */
static int leads_its_own_life(void *arg)
{
	struct fiber_convert convert_args = { .size = sizeof(convert_args) };
	struct fiber_create create_args = {
		.size = sizeof(create_args), .entry = (uintptr_t)ends_here,
		.stack_size = STACK_SIZE,
	};
	int own = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);

	(void)arg;
	create_args.stack_start = (uintptr_t)stack_new(STACK_SIZE);
	if (own < 0 || request(own, FIBER_IOC_CONVERT, (unsigned long)&convert_args) ||
	    request(own, FIBER_IOC_CREATE, (unsigned long)&create_args))
		syscall(SYS_exit_group, 1);
	/* The parent's numbers mean ours here, and nothing of the parent's. */
	if (convert_args.id != 1 || create_args.id != 2 ||
	    request(device, FIBER_IOC_SWITCH, 2) != -EPERM)
		syscall(SYS_exit_group, 2);
	request(own, FIBER_IOC_SWITCH, 2);
	syscall(SYS_exit_group, 3);
	return 0;
}

TEST(kin_lead_their_own_lives)
{
	struct counters before;

	counters_wait_none();
	family_start();
	before = counters_read();
	for (int i = 0; i < 20; i++) {
		CHECK_EQ((unsigned int)kin_join(kin_start(leads_its_own_life, 0)), 0);
		family_check();
	}
	counters_wait(before);
}

/* The parent waits in the kernel, as a fiber, until the child ends. */
TEST(vfork_inside_a_fiber)
{
	counters_wait_none();
	family_start();
	for (int i = 0; i < 20; i++) {
		CHECK_EQ((unsigned int)kin_join(kin_start(leads_its_own_life, CLONE_VFORK)), 0);
		family_check();
	}
}

static int executes(void *arg)
{
	(void)arg;
	syscall(SYS_close, device);
	execl("/bin/true", "true", (char *)NULL);
	syscall(SYS_exit_group, 1);
	return 0;
}

TEST(kin_execute_another_program)
{
	struct counters before;

	counters_wait_none();
	family_start();
	before = counters_read();
	for (int i = 0; i < 10; i++) {
		CHECK_EQ((unsigned int)kin_join(kin_start(executes, i & 1 ? CLONE_VFORK : 0)), 0);
		family_check();
	}
	counters_wait(before);
}

static atomic_ulong kin_turns;

static int converts_and_reverts(void *arg)
{
	int own = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);

	(void)arg;
	for (;;) {
		struct fiber_convert args = { .size = sizeof(args), .flags = FIBER_FLAG_FPU };

		if (request(own, FIBER_IOC_CONVERT, (unsigned long)&args) ||
		    request(own, FIBER_IOC_REVERT, 0))
			syscall(SYS_exit_group, 1);
		atomic_fetch_add(&kin_turns, 1);
	}
	return 0;
}

TEST(kin_are_killed_anywhere)
{
	struct counters before;

	counters_wait_none();
	family_start();
	before = counters_read();
	for (int i = 0; i < 20; i++) {
		unsigned long turns = atomic_load(&kin_turns);
		pid_t pid = kin_start(converts_and_reverts, 0);
		int status;

		WAIT_FOR(atomic_load(&kin_turns) > turns + (unsigned int)i);
		family_check();
		CHECK(kill(pid, SIGKILL) == 0);
		status = kin_join(pid);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	}
	counters_wait(before);
	family_check();
}

static atomic_int survivor;

/* Lives on in the memory of a process that is no more. */
static int outlives(void *arg)
{
	int own = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
	struct fiber_convert args = { .size = sizeof(args) };
	pid_t parent = getppid();

	(void)arg;
	atomic_store(&survivor, (int)syscall(SYS_getpid));
	while (getppid() == parent)
		pause_briefly();
	/* The fibers of the dead one are not inherited with the memory. */
	if (request(own, FIBER_IOC_CONVERT, (unsigned long)&args) || args.id != 1 ||
	    request(own, FIBER_IOC_SWITCH, 2) != -ESRCH ||
	    request(device, FIBER_IOC_SELF, (unsigned long)&args.id) == 0)
		syscall(SYS_exit_group, 1);
	syscall(SYS_exit_group, 0);
	return 0;
}

static void dies_before_its_kin(void)
{
	family_start();
	kin_start(outlives, 0);
	WAIT_FOR(atomic_load(&survivor));
	_exit(0);
}

TEST(memory_outlives_its_process)
{
	int status;

	counters_wait_none();
	/* The orphan is ours then, so that its status can be seen. */
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
	in_child(dies_before_its_kin);
	CHECK(wait(&status) > 0);
	CHECK_EQ((unsigned int)status, 0);
	counters_wait_none();
}

/* The child unmaps the stack of a fiber of ours: as bad as if we had, and no worse. */

static char *lost_stack;

static int unmaps(void *arg)
{
	(void)arg;
	munmap(lost_stack, STACK_SIZE);
	syscall(SYS_exit_group, 0);
	return 0;
}

static void enters_what_is_unmapped(void)
{
	struct fiber_create args = {
		.size = sizeof(args), .entry = (uintptr_t)count_up, .stack_size = STACK_SIZE,
	};
	uint64_t id;

	family_start();
	lost_stack = stack_new(STACK_SIZE);
	args.stack_start = (uintptr_t)lost_stack;
	CHECK_OK(try_create(&args, &id));
	CHECK_EQ((unsigned int)kin_join(kin_start(unmaps, 0)), 0);
	fiber_switch(id);
}

TEST(kin_unmap_a_stack)
{
	int status;

	counters_wait_none();
	status = child_status(enters_what_is_unmapped);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	counters_wait_none();
}
