/* SPDX-License-Identifier: MIT */
/*
 * Who looks at a process's fibers from beside or stands between it and the kernel: holders of
 * its descriptor, sandboxes (seccomp), tracers, limits. identity.c has the rest about descriptors.
 */
#include <elf.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "harness.h"

#define STRANGER 12345

/* Some headers that have <linux/ptrace.h>'s numbers do not go with <sys/ptrace.h>. */
#define SYSCALL_STOP (SIGTRAP | 0x80)

static const unsigned long all_requests[] = {
	FIBER_IOC_CONVERT, FIBER_IOC_CREATE, FIBER_IOC_SWITCH, FIBER_IOC_DELETE,
	FIBER_IOC_REVERT, FIBER_IOC_RETIRE, FIBER_IOC_SET_NAME, FIBER_IOC_SELF, FIBER_IOC_STAT,
	FIBER_IOC_FLS_ALLOC, FIBER_IOC_FLS_FREE, FIBER_IOC_FLS_SET, FIBER_IOC_FLS_GET,
	FIBER_IOC_COMMIT, FIBER_IOC_ATTACH, FIBER_IOC_DETACH,
};

/* Every request but VERSION, with an id and with an address, gives that error. */
static void check_refused(int fd, int err)
{
	char area[256], untouched[sizeof(area)];

	memset(area, 0x5a, sizeof(area));
	memcpy(untouched, area, sizeof(area));
	for (unsigned int i = 0; i < ARRAY_SIZE(all_requests); i++) {
		CHECK_ERR(request(fd, all_requests[i], 2), err);
		CHECK_ERR(request(fd, all_requests[i], (unsigned long)area), err);
	}
	CHECK(!memcmp(area, untouched, sizeof(area)));
}

/* Fiber 1, and fibers 2 and 3 that count how often they run and go back to 1. */
static uint64_t runs[4];

static void count_up(void *arg)
{
	uint64_t *count = arg;

	for (;;) {
		++*count;
		CHECK_OK(fiber_switch(1));
	}
}

static void family_start(void)
{
	uint64_t index;

	CHECK_EQ(convert(0), 1);
	CHECK_OK(fls_alloc(&index));
	CHECK_OK(fls_set(index, POISON));
	for (uint64_t id = 2; id <= 3; id++)
		CHECK_EQ(create(count_up, &runs[id], 0, "worker"), id);
	CHECK_OK(fiber_switch(2));
}

/* Nothing has happened to it. Asks by requests alone: sandboxes allow no other calls. */
static void family_check(void)
{
	uint64_t value, before = runs[2];

	CHECK_EQ(self(), 1);
	CHECK_OK(fls_get(0, &value));
	CHECK_EQ(value, POISON);
	CHECK_OK(fiber_switch(2));
	CHECK_EQ(runs[2], before + 1);
}

static void family_check_all(void)
{
	family_check();
	CHECK(proc_is(1, "Name", "") && proc_is(1, "State", "running"));
	CHECK(proc_is(2, "Name", "worker") && proc_is(2, "State", "suspended"));
	CHECK(proc_is(3, "Name", "worker") && proc_is(3, "State", "new"));
	CHECK_EQ(proc_number(2, "Number of activations"), runs[2]);
	CHECK_EQ(proc_number(2, "Number of failed activations"), 0);
}

/* Holders of a descriptor */

static int pidfd_open_(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

static int pidfd_getfd_(int pidfd, int fd)
{
	return (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
}

static void child_takes_descriptor(void)
{
	int pidfd, taken;

	close(device);
	pidfd = pidfd_open_(getppid());
	CHECK(pidfd >= 0);
	taken = pidfd_getfd_(pidfd, device);
	CHECK(taken >= 0);
	CHECK_EQ((uint64_t)request(taken, FIBER_IOC_VERSION, 0), FIBER_ABI_VERSION);
	check_refused(taken, EPERM);
	/* Not even beside one of its own. */
	device = device_open();
	convert(0);
	check_refused(taken, EPERM);
	CHECK_EQ(self(), 1);
}

TEST(descriptor_taken_by_pidfd_getfd_is_useless)
{
	family_start();
	in_child(child_takes_descriptor);
	family_check_all();
}

static void become_stranger(void)
{
	CHECK(!setresgid(STRANGER, STRANGER, STRANGER) && !setresuid(STRANGER, STRANGER, STRANGER));
}

static void child_of_another_user(void)
{
	char path[64];
	int pidfd;

	become_stranger();
	pidfd = pidfd_open_(getppid());
	CHECK(pidfd >= 0);
	CHECK(pidfd_getfd_(pidfd, device) == -1 && errno == EPERM);
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getppid(), device);
	CHECK(open(path, O_RDWR) == -1 && errno == EACCES);
	CHECK(ptrace(PTRACE_ATTACH, getppid(), 0, 0) == -1 && errno == EPERM);
	/* What it has inherited or opens itself does not reach the parent's fibers. */
	check_refused(device, EPERM);
	device = device_open();
	CHECK_ERR(fiber_switch(2), EPERM);
	CHECK_ERR(fiber_delete(2), ESRCH);
	CHECK_ERR(fiber_rename(2, "stolen"), ESRCH);
	CHECK_EQ(convert(0), 1);
	CHECK_ERR(fiber_switch(2), ESRCH);
	CHECK_ERR(fiber_delete(2), ESRCH);
	CHECK_ERR(fiber_rename(2, "stolen"), ESRCH);
}

TEST(another_user_gets_no_descriptor)
{
	if (geteuid())
		skip("only root becomes somebody else");
	family_start();
	in_child(child_of_another_user);
	family_check_all();
}

static void child_reopens_descriptor(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getppid(), device);
	device = open(path, O_RDWR | O_CLOEXEC);
	CHECK(device >= 0);
	CHECK_EQ(convert(0), 1);
	CHECK_ERR(fiber_switch(2), ESRCH);
	CHECK_OK(request(device, FIBER_IOC_REVERT, 0));
}

/* That is another open() of the device. */
TEST(descriptor_reopened_through_proc_is_the_openers)
{
	family_start();
	in_child(child_reopens_descriptor);
	family_check_all();
}

/* Sandboxes */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
/* Little-endian: the low halves of arguments. */
#define ALLOW_CALL(number)						\
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),		\
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
/* A value but this one is allowed. */
#define ONLY(value)							\
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0),		\
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* Of the calling thread. Gives a listener, if asked for by a flag. */
static int filter_install(struct sock_filter *filter, size_t length, unsigned int flags)
{
	struct sock_fprog program = { (unsigned short)length, filter };
	long result;

	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	if (result < 0 && (errno == ENOSYS || errno == EINVAL))
		skip("this kernel has no seccomp filters");
	CHECK(result >= 0);
	return (int)result;
}

/* What the sandbox does with ioctl() on @fd. */
static int filter_device(unsigned int fd, unsigned int action, unsigned int flags)
{
	struct sock_filter filter[] = {
		LOAD(nr), ONLY(SYS_ioctl),
		LOAD(args[0]), ONLY(fd),
		BPF_STMT(BPF_RET | BPF_K, action),
	};

	return filter_install(filter, ARRAY_SIZE(filter), flags);
}

static void child_in_strict_filter(void)
{
	struct sock_filter filter[] = {
		LOAD(nr),
		ALLOW_CALL(SYS_ioctl), ALLOW_CALL(SYS_read), ALLOW_CALL(SYS_write),
		ALLOW_CALL(SYS_exit), ALLOW_CALL(SYS_exit_group), ALLOW_CALL(SYS_rt_sigreturn),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct fiber_create args = {
		.size = sizeof(args),
		.entry = (uintptr_t)count_up,
		.arg = (uintptr_t)&runs[0],
		.stack_start = (uintptr_t)stack_new(STACK_SIZE),
		.stack_size = STACK_SIZE,
	};
	uint64_t id;

	family_start();
	filter_install(filter, ARRAY_SIZE(filter), 0);
	for (int i = 0; i < 1000; i++)
		family_check();
	CHECK_OK(try_create(&args, &id));
	CHECK_OK(fiber_switch(id));
	CHECK_EQ(runs[0], 1);
	CHECK_OK(fiber_rename(id, "inside"));
	CHECK_OK(fiber_delete(id));
	CHECK_ERR(fiber_switch(id), ESRCH);
	revert();
	convert(FIBER_FLAG_FPU);
}

TEST(strict_filter_with_ioctl_lets_all_requests_work)
{
	counters_wait_none();
	in_child(child_in_strict_filter);
	counters_wait_none();
}

static void child_in_strict_mode(void)
{
	family_start();
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
		skip("this kernel has no seccomp");
	fiber_switch(2);
	/* Also forbidden, but with another status. */
	abort();
}

TEST(strict_mode_kills_at_the_switch_and_leaves_nothing)
{
	int status;

	counters_wait_none();
	status = child_status(child_in_strict_mode);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		_exit(77);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	counters_wait_none();
}

static void child_killed_by_filter(void)
{
	family_start();
	filter_device((unsigned int)device, SECCOMP_RET_KILL_PROCESS, 0);
	fiber_switch(2);
}

TEST(killing_filter_leaves_nothing)
{
	int status;

	counters_wait_none();
	status = child_status(child_killed_by_filter);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		_exit(77);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
	counters_wait_none();
}

static atomic_bool refused;

static void *refused_thread(void *arg)
{
	int other = dup(device);
	uint64_t id;

	(void)arg;
	id = convert(0);
	CHECK_EQ(id, 4);
	filter_device((unsigned int)device, SECCOMP_RET_ERRNO | EACCES, 0);
	check_refused(device, EACCES);
	CHECK_ERR(request(device, FIBER_IOC_VERSION, 0), EACCES);
	/* By a descriptor that the filter does not know: as it was. */
	CHECK_OK(request(other, FIBER_IOC_SELF, (unsigned long)&id));
	CHECK_EQ(id, 4);
	CHECK_EQ(proc_number(4, "Number of activations"), 0);
	atomic_store(&refused, true);
	return NULL;
}

TEST(refusing_filter_leaves_the_fibers_as_they_were)
{
	family_start();
	thread_join(thread_start(refused_thread, NULL));
	CHECK(atomic_load(&refused));
	/* The filter was that thread's. */
	family_check_all();
	CHECK(switch_when_free(4) == -EOWNERDEAD);
}

/* A descriptor that the trapping filter does not know. */
static int back_door;
static unsigned int traps;

/* Does in the call's place what it was to do. */
static void on_trap(int number, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

	CHECK(number == SIGSYS && info->si_code == 1 /* SYS_SECCOMP */);
	CHECK(info->si_syscall == SYS_ioctl && info->si_arch == AUDIT_ARCH_X86_64);
	CHECK(regs[REG_RDI] == device);
	traps++;
	regs[REG_RAX] = request(back_door, (unsigned long)regs[REG_RSI],
				(unsigned long)regs[REG_RDX]);
}

TEST(trapping_filter_whose_handler_switches)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	sigset_t blocked;

	family_start();
	back_door = dup(device);
	CHECK(sigaction(SIGSYS, &action, NULL) == 0);
	filter_device((unsigned int)device, SECCOMP_RET_TRAP, 0);
	for (uint64_t i = 1; i <= 100; i++) {
		/* One fiber leaves in its handler while the other begins or goes on in its own. */
		CHECK_OK(fiber_switch(3));
		CHECK_EQ(runs[3], i);
		family_check();
	}
	/* There, back: of 3; of 2, whose first switch back was made before; SELF, FLS_GET. */
	CHECK_EQ(traps, 100 * 2 + 100 * 2 + 100 * 2);
	CHECK(pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0 && !sigismember(&blocked, SIGSYS));
}

static atomic_int listener = -1;

static void *supervised_thread(void *arg)
{
	(void)arg;
	family_start();
	atomic_store(&listener, filter_device((unsigned int)device, SECCOMP_RET_USER_NOTIF,
					      SECCOMP_FILTER_FLAG_NEW_LISTENER));
	for (uint64_t i = 1; i <= 20; i++) {
		CHECK_OK(fiber_switch(3));
		CHECK_EQ(runs[3], i);
	}
	CHECK_ERR(fiber_switch(3), EHOSTDOWN);
	CHECK_EQ(runs[3], 20);
	return NULL;
}

/* Another thread looks at each switch before it is made. */
TEST(supervised_filter)
{
	pthread_t thread = thread_start(supervised_thread, NULL);

	WAIT_FOR(atomic_load(&listener) >= 0);
	for (int i = 0; i < 41; i++) {
		struct seccomp_notif_resp response = { 0 };
		struct seccomp_notif call = { 0 };
		uint64_t from = i % 2 ? 3 : 1;

		CHECK(ioctl(atomic_load(&listener), SECCOMP_IOCTL_NOTIF_RECV, &call) == 0);
		CHECK(call.data.nr == SYS_ioctl && call.data.arch == AUDIT_ARCH_X86_64);
		CHECK_EQ(call.data.args[1], FIBER_IOC_SWITCH);
		CHECK_EQ(call.data.args[2], 4 - from);
		CHECK_EQ(call.data.instruction_pointer, (uintptr_t)fiber_switch_resume);
		/* It has not happened yet. */
		CHECK(proc_is(from, "State", "running"));
		CHECK(!proc_is(4 - from, "State", "running"));
		response.id = call.id;
		if (i == 40)
			response.error = -EHOSTDOWN;
		else
			response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		CHECK(ioctl(atomic_load(&listener), SECCOMP_IOCTL_NOTIF_SEND, &response) == 0);
	}
	thread_join(thread);
}

static uint64_t asker_home;
static long asked;

static void asker(void *arg)
{
	(void)arg;
	for (;;) {
		asked = syscall(SYS_getppid);
		CHECK_OK(fiber_switch(asker_home));
	}
}

static void *sandboxed_thread(void *arg)
{
	struct sock_filter filter[] = {
		LOAD(nr), ONLY(SYS_getppid),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
	};

	asker_home = convert(0);
	filter_install(filter, ARRAY_SIZE(filter), 0);
	CHECK_OK(fiber_switch(*(uint64_t *)arg));
	CHECK_EQ(asked, -1);
	return NULL;
}

/* As all that the kernel decides about a call: credentials, limits, namespaces. */
TEST(filter_is_the_threads_and_not_the_fibers)
{
	uint64_t home = convert(0), id = create(asker, NULL, 0, NULL);

	asker_home = home;
	CHECK_OK(fiber_switch(id));
	CHECK_EQ(asked, getppid());
	thread_join(thread_start(sandboxed_thread, &id));
	asker_home = home;
	CHECK_OK(switch_when_free(id));
	CHECK_EQ(asked, getppid());
}

/* Tracers */

static pid_t traced_start(void (*run)(void))
{
	pid_t pid = fork();
	int status;

	CHECK(pid >= 0);
	if (!pid) {
		CHECK(!ptrace(PTRACE_TRACEME, 0, 0, 0));
		raise(SIGSTOP);
		run();
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
	CHECK(!ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL));
	return pid;
}

/* The next stop. False: it has ended, with status 0. */
static bool traced_go(pid_t pid, int how, struct user_regs_struct *regs)
{
	int status;

	CHECK(!ptrace((enum __ptrace_request)how, pid, 0, 0));
	CHECK(waitpid(pid, &status, 0) == pid);
	if (!WIFSTOPPED(status)) {
		CHECK_EQ((uint64_t)status, 0);
		return false;
	}
	CHECK_EQ((uint64_t)WSTOPSIG(status),
		 (uint64_t)(how == PTRACE_SINGLESTEP ? SIGTRAP : SYSCALL_STOP));
	CHECK(!ptrace(PTRACE_GETREGS, pid, 0, regs));
	return true;
}

/* To the entry of its next switch. */
static bool traced_to_switch(pid_t pid, struct user_regs_struct *regs)
{
	while (traced_go(pid, PTRACE_SYSCALL, regs)) {
		if (regs->orig_rax == SYS_ioctl && regs->rsi == FIBER_IOC_SWITCH)
			return true;
		CHECK(traced_go(pid, PTRACE_SYSCALL, regs) || regs->orig_rax == SYS_exit_group);
		if (regs->orig_rax == SYS_exit_group)
			return false;
	}
	return false;
}

static void traced_switches(void)
{
	family_start();
	for (int i = 0; i < 20; i++)
		family_check();
	CHECK_ERR(fiber_switch(1), EINVAL);
	CHECK_ERR(fiber_switch(77), ESRCH);
}

static void check_preserved(const struct user_regs_struct *now, const struct user_regs_struct *then)
{
	CHECK_EQ(now->rsp, then->rsp);
	CHECK_EQ(now->rbp, then->rbp);
	CHECK_EQ(now->rbx, then->rbx);
	CHECK_EQ(now->r12, then->r12);
	CHECK_EQ(now->r13, then->r13);
	CHECK_EQ(now->r14, then->r14);
	CHECK_EQ(now->r15, then->r15);
	CHECK_EQ(now->fs_base, then->fs_base);
	CHECK_EQ(now->cs, then->cs);
}

TEST(tracer_sees_each_switch_enter_in_one_fiber_and_leave_in_the_other)
{
	struct user_regs_struct left[3] = { 0 }, regs;
	pid_t pid = traced_start(traced_switches);
	unsigned int switches = 0, failures = 0;
	uint64_t running = 1;

	while (traced_to_switch(pid, &regs)) {
		uint64_t to = regs.rdx;

		CHECK_EQ(regs.rax, (uint64_t)-ENOSYS);
		CHECK_EQ(regs.rip, (uintptr_t)fiber_switch_resume);
		left[running] = regs;
		CHECK(traced_go(pid, PTRACE_SYSCALL, &regs));
		CHECK_EQ(regs.orig_rax, SYS_ioctl);
		if (to != 3 - running) {
			CHECK_EQ(regs.rax, (uint64_t)(to == running ? -EINVAL : -ESRCH));
			check_preserved(&regs, &left[running]);
			failures++;
			continue;
		}
		switches++;
		CHECK_EQ(regs.rax, 0);
		running = to;
		if (left[running].rsp) {
			CHECK_EQ(regs.rip, (uintptr_t)fiber_switch_resume);
			check_preserved(&regs, &left[running]);
		} else {
			CHECK_EQ(regs.rip, (uintptr_t)count_up);
			CHECK_EQ(regs.rdi, (uintptr_t)&runs[2]);
		}
	}
	CHECK_EQ(switches, 2 * 21);
	CHECK_EQ(failures, 2);
}

static void traced_and_misled(void)
{
	family_start();
	CHECK_OK(fiber_switch(2));
	CHECK_EQ(runs[2], 1);
	CHECK_EQ(runs[3], 1);
	CHECK_ERR(fiber_switch(2), ENOSYS);
	CHECK_EQ(self(), 1);
	CHECK_EQ(runs[2], 1);
	CHECK_EQ(proc_number(2, "Number of activations"), 1);
	CHECK_ERR(fiber_switch(2), EXFULL);
	CHECK_EQ(runs[2], 2);
	family_check();
}

TEST(tracer_changes_and_prevents_switches)
{
	pid_t pid = traced_start(traced_and_misled);
	struct user_regs_struct regs;

	/* The family's first, there and back. */
	for (int i = 0; i < 2; i++) {
		CHECK(traced_to_switch(pid, &regs));
		CHECK(traced_go(pid, PTRACE_SYSCALL, &regs));
	}
	/* To 3 instead of 2. */
	CHECK(traced_to_switch(pid, &regs));
	CHECK_EQ(regs.rdx, 2);
	regs.rdx = 3;
	CHECK(!ptrace(PTRACE_SETREGS, pid, 0, &regs));
	CHECK(traced_go(pid, PTRACE_SYSCALL, &regs));
	CHECK_EQ(regs.rip, (uintptr_t)count_up);
	CHECK_EQ(regs.rdi, (uintptr_t)&runs[3]);
	CHECK(traced_to_switch(pid, &regs));
	CHECK_EQ(regs.rdx, 1);
	CHECK(traced_go(pid, PTRACE_SYSCALL, &regs));
	/* No call at all. */
	CHECK(traced_to_switch(pid, &regs));
	CHECK_EQ(regs.rdx, 2);
	regs.orig_rax = (unsigned long)-1;
	CHECK(!ptrace(PTRACE_SETREGS, pid, 0, &regs));
	CHECK(traced_go(pid, PTRACE_SYSCALL, &regs));
	/* Another result, which the fiber that runs next gets. */
	CHECK(traced_to_switch(pid, &regs));
	CHECK_EQ(regs.rdx, 2);
	CHECK(traced_go(pid, PTRACE_SYSCALL, &regs));
	CHECK(traced_to_switch(pid, &regs));
	CHECK_EQ(regs.rdx, 1);
	CHECK(traced_go(pid, PTRACE_SYSCALL, &regs));
	CHECK_EQ(regs.rax, 0);
	regs.rax = (unsigned long)-EXFULL;
	CHECK(!ptrace(PTRACE_SETREGS, pid, 0, &regs));
	CHECK(!ptrace(PTRACE_DETACH, pid, 0, 0));
	child_join(pid);
}

TEST(tracer_steps_over_switches)
{
	pid_t pid = traced_start(traced_switches);
	struct user_regs_struct regs, left[3];
	unsigned int switches = 0;
	uint64_t running = 2;

	/* Into 2 for the first time; from there step by step. */
	CHECK(traced_to_switch(pid, &left[1]));
	regs = left[1];
	CHECK(traced_go(pid, PTRACE_SINGLESTEP, &regs));
	CHECK_EQ(regs.rip, (uintptr_t)count_up);
	CHECK_EQ(regs.rax, 0);
	while (switches < 20) {
		struct user_regs_struct before = regs;
		bool leaves = regs.rip + 2 == (uintptr_t)fiber_switch_resume;

		CHECK(traced_go(pid, PTRACE_SINGLESTEP, &regs));
		/* Not a step is lost: each is one instruction. */
		CHECK(regs.rip != before.rip);
		if (!leaves)
			continue;
		CHECK_EQ(before.rax, SYS_ioctl);
		CHECK_EQ(before.rdx, 3 - running);
		left[running] = before;
		running = 3 - running;
		CHECK_EQ(regs.rip, (uintptr_t)fiber_switch_resume);
		CHECK_EQ(regs.rax, 0);
		check_preserved(&regs, &left[running]);
		switches++;
	}
	CHECK(!ptrace(PTRACE_DETACH, pid, 0, 0));
	child_join(pid);
}

static void traced_for_ever(void)
{
	family_start();
	for (;;)
		CHECK_OK(fiber_switch(2));
}

/* Before a switch and after it, in each of the two fibers. */
TEST(killed_while_stopped_by_a_tracer)
{
	struct user_regs_struct regs;

	counters_wait_none();
	for (int stops = 0; stops < 8; stops++) {
		pid_t pid = traced_start(traced_for_ever);
		int status;

		for (int i = 0; i <= stops / 2; i++) {
			CHECK(traced_to_switch(pid, &regs));
			if (i < stops / 2 || stops % 2)
				CHECK(traced_go(pid, PTRACE_SYSCALL, &regs));
		}
		CHECK(kill(pid, SIGKILL) == 0);
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		counters_wait_none();
	}
}

static void tracer_that_ends(void)
{
	pid_t pid = traced_start(traced_for_ever);
	struct user_regs_struct regs;

	CHECK(traced_to_switch(pid, &regs));
	CHECK(traced_go(pid, PTRACE_SYSCALL, &regs));
	counters_wait((struct counters) { 1, 1, 3 });
}

TEST(killed_by_the_end_of_its_tracer)
{
	counters_wait_none();
	in_child(tracer_that_ends);
	counters_wait_none();
}

/* What gdb's test looks at: one fiber that two threads run in turn. */
static uint64_t visitor_home;
static unsigned int visits;

__attribute__((noinline)) static void visit(unsigned int number)
{
	__asm__ volatile("" : : "r" (number) : "memory");
	visits = number;
}

static void visitor(void *arg)
{
	unsigned int number = 0;

	(void)arg;
	for (;;) {
		visit(++number);
		CHECK_OK(fiber_switch(visitor_home));
	}
}

static void *visited_thread(void *arg)
{
	visitor_home = convert(0);
	CHECK_OK(fiber_switch(*(uint64_t *)arg));
	CHECK_EQ(visits, 2);
	return NULL;
}

TEST(debugged_fiber_visits_two_threads)
{
	uint64_t home = convert(0), id = create(visitor, NULL, 0, NULL);

	visitor_home = home;
	CHECK_OK(fiber_switch(id));
	CHECK_EQ(visits, 1);
	thread_join(thread_start(visited_thread, &id));
	visitor_home = home;
	for (unsigned int i = 3; i < 100; i++) {
		CHECK_OK(switch_when_free(id));
		CHECK_EQ(visits, i);
	}
	printf("visited %u times\n", visits);
}

/* Limits, and a process whose place is another */

static void child_without_resources(void)
{
	static const int limits[] = {
		RLIMIT_AS, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_MEMLOCK, RLIMIT_NOFILE, RLIMIT_NPROC,
		RLIMIT_SIGPENDING, RLIMIT_STACK,
	};
	static const struct rlimit none = { 0, 0 };
	struct fiber_create args = {
		.size = sizeof(args),
		.entry = (uintptr_t)count_up,
		.arg = (uintptr_t)&runs[0],
		.stack_start = (uintptr_t)stack_new(STACK_SIZE),
		.stack_size = STACK_SIZE,
		.flags = FIBER_FLAG_FPU,
	};
	uint64_t id;

	/* Root is not held by some of them. */
	become_stranger();
	family_start();
	for (unsigned int i = 0; i < ARRAY_SIZE(limits); i++)
		CHECK(!setrlimit((enum __rlimit_resource)limits[i], &none));
	CHECK(open("/", O_RDONLY) == -1 && errno == EMFILE);
	family_check();
	for (int i = 0; i < 100; i++) {
		CHECK_OK(try_create(&args, &id));
		CHECK_OK(fiber_switch(id));
	}
	CHECK_EQ(runs[0], 100);
	CHECK_OK(fiber_delete(id));
	revert();
	CHECK_OK(try_convert(FIBER_FLAG_FPU, &id));
}

/* Only max_fibers, max_user_kib and the memory itself limit fibers. */
TEST(resource_limits_do_not_count_fibers)
{
	if (geteuid())
		skip("only root becomes somebody else");
	counters_wait_none();
	in_child(child_without_resources);
	counters_wait_none();
}

static int inside[2], outside[2];

static void child_in_an_empty_root(void)
{
	char directory[] = "/tmp/kfiber-root-XXXXXX", byte;

	device = device_open();
	CHECK(mkdtemp(directory));
	CHECK(!chroot(directory) && !chdir("/"));
	CHECK(open(FIBER_DEVICE, O_RDWR) == -1 && errno == ENOENT);
	family_start();
	family_check();
	CHECK(write(inside[1], "x", 1) == 1);
	CHECK(read(outside[0], &byte, 1) == 1);
	family_check();
}

/* A descriptor from before chroot() serves; who looks from outside sees the fibers. */
TEST(process_in_an_empty_root)
{
	char value[PROC_LINE], byte;
	pid_t pid;

	if (geteuid())
		skip("only root changes its root");
	CHECK(!pipe(inside) && !pipe(outside));
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		child_in_an_empty_root();
		_exit(0);
	}
	CHECK(read(inside[0], &byte, 1) == 1);
	CHECK(proc_line(pid, 1, "State", value) && !strcmp(value, "running"));
	CHECK(proc_line(pid, 2, "Number of activations", value) && !strcmp(value, "2"));
	CHECK(write(outside[1], "x", 1) == 1);
	child_join(pid);
}

static void enter_user_namespace(void *arg)
{
	(void)arg;
	if (unshare(CLONE_NEWUSER))
		skip("this kernel has no user namespaces");
	for (;;)
		CHECK_OK(fiber_switch(1));
}

/* Namespaces are the thread's, like its credentials; the process stays the same. */
TEST(user_namespace_entered_inside_a_fiber)
{
	uint64_t id;

	family_start();
	id = create(enter_user_namespace, NULL, 0, NULL);
	CHECK_OK(fiber_switch(id));
	family_check_all();
	CHECK_OK(fiber_delete(id));
	/* Its own addresses are its own still. */
	CHECK(proc_number(2, "Saved instruction pointer") == (uintptr_t)fiber_switch_resume);
	create(count_up, &runs[0], 0, "of the namespace");
}
