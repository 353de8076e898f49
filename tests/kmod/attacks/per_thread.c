/* SPDX-License-Identifier: MIT */
/*
 * What the kernel and the processor keep for each thread, used against switches: restartable
 * sequences, protection keys, alternate signal stacks, AMX's tiles, sandboxes that change a call or
 * kill its thread. All of it is the thread's, and none of it may bring a switch into disorder.
 */
#include <linux/filter.h>
#include <linux/rseq.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "setting.h"

#define PAGE	4096UL
#define ROUNDS	2000

static uint64_t home;

/* A fiber that comes back at once. */
static void bounce(void *arg)
{
	for (;;) {
		atomic_fetch_add((atomic_uint *)arg, 1);
		CHECK_OK(fiber_switch(home));
	}
}

static atomic_uint bounces;

static void check_works(void)
{
	uint64_t id = create(bounce, &bounces, FIBER_FLAG_FPU, NULL);
	unsigned int before = atomic_load(&bounces);

	for (unsigned int i = 1; i <= 10; i++) {
		CHECK_OK(fiber_switch(id));
		CHECK_EQ(atomic_load(&bounces), before + i);
	}
	CHECK_OK(fiber_delete(id));
}

/* Restartable sequences */

#define SIGNATURE 0x53053053

/* The C library's own area for each thread, if it has one. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

/* Like struct rseq; the kernel takes no smaller one. */
struct rseq_area {
	struct rseq rseq;
} __attribute__((aligned(32)));

static void rseq_register(struct rseq_area *area)
{
	if (&__rseq_size && __rseq_size) {
		char *own = (char *)__builtin_thread_pointer() + __rseq_offset;

		if (syscall(SYS_rseq, own, 32, RSEQ_FLAG_UNREGISTER, SIGNATURE))
			skip("the C library's area of restartable sequences stays: %s",
			     strerror(errno));
	}
	if (syscall(SYS_rseq, area, 32, 0, SIGNATURE)) {
		CHECK(errno == ENOSYS);
		skip("this kernel has no restartable sequences");
	}
}

/* Where aborted sequences go on: an end that nothing else has, on whatever stack. */
#define ABORTED 9

void rseq_abort(void);
__asm__(".text\n"
	".long 0x53053053\n"
	".globl rseq_abort\n"
	"rseq_abort:\n"
	"movl $231, %eax\n"		/* exit_group */
	"movl $9, %edi\n"
	"syscall\n"
	"ud2\n");

static struct rseq_cs around_everything, around_nothing;

/* The one holds each address of a program, so that each preemption aborts it; the other none. */
static void sequences_init(void)
{
	around_everything = (struct rseq_cs) {
		.start_ip = 4096, .post_commit_offset = (uintptr_t)rseq_abort - 4096,
		.abort_ip = (uintptr_t)rseq_abort,
	};
	around_nothing = (struct rseq_cs) {
		.start_ip = (uintptr_t)rseq_abort - 64, .post_commit_offset = 16,
		.abort_ip = (uintptr_t)rseq_abort,
	};
}

static struct rseq_area areas[3];
static struct rseq_cs *sequence;
static uint64_t visited;

/* Threads that pass a fiber on while the kernel looks at their sequences. */
static void *visits(void *arg)
{
	struct rseq_area *area = arg;

	rseq_register(area);
	convert(FIBER_FLAG_FPU);
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t until = now_ms() + DEADLINE_MS;
		long err;

		area->rseq.rseq_cs = (uintptr_t)sequence;
		while ((err = fiber_switch(visited)) == -EBUSY && now_ms() < until)
			sched_yield();
		CHECK_OK(err);
	}
	return NULL;
}

/* Back to the root fiber of the thread that has resumed it. */
static void returns_to_visitor(void *arg)
{
	(void)arg;
	for (;;) {
		struct fiber_snapshot snapshot = { .size = sizeof(snapshot) };
		uint64_t root = 0;
		pid_t tid = gettid();

		/* Those of the visitors are 3 and 4. */
		for (uint64_t id = 3; id <= 4 && !root; id++) {
			snapshot.id = id;
			if (request(device, FIBER_IOC_STAT, (unsigned long)&snapshot))
				continue;
			if (snapshot.parent == (uint32_t)tid)
				root = id;
		}
		CHECK(root);
		CHECK_OK(fiber_switch(root));
	}
}

static void switch_in_sequences(void)
{
	pthread_t threads[2];

	home = convert(0);
	sequences_init();
	visited = create(returns_to_visitor, NULL, FIBER_FLAG_FPU, NULL);
	CHECK_EQ(visited, 2);
	for (int i = 0; i < 2; i++)
		threads[i] = thread_start(visits, &areas[i]);
	for (int i = 0; i < 2; i++)
		thread_join(threads[i]);
	check_works();
}

static void with_sequence(struct rseq_cs *cs, bool may_end)
{
	int status;

	counters_wait_none();
	sequence = cs;
	status = child_status(switch_in_sequences);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		_exit(77);
	/* A sequence that makes system calls breaks its own rules: kernels may kill it for that. */
	if (!may_end || !WIFSIGNALED(status))
		CHECK(WIFEXITED(status) &&
		      (!WEXITSTATUS(status) || (may_end && WEXITSTATUS(status) == ABORTED)));
	counters_wait_none();
}

TEST(no_switch_is_restarted)
{
	with_sequence(&around_nothing, false);
}

TEST(switches_in_a_restartable_sequence)
{
	with_sequence(&around_everything, true);
}

static void area_goes(void)
{
	struct rseq_area *area = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t id;

	CHECK(area != MAP_FAILED);
	home = convert(0);
	id = create(bounce, &bounces, FIBER_FLAG_FPU, NULL);
	rseq_register(area);
	CHECK(munmap(area, PAGE) == 0);
	for (;;) {
		fiber_switch(id);
		sched_yield();
	}
}

/* The kernel ends it at a return from a switch, in whichever fiber it then is. */
TEST(an_area_that_is_gone_ends_its_process)
{
	int status;

	counters_wait_none();
	status = child_status(area_goes);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		_exit(77);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	counters_wait_none();
}

/* Protection keys */

static int key_new(void)
{
	int key = (int)syscall(SYS_pkey_alloc, 0, 0);

	if (key < 0)
		skip("no protection keys: %s", strerror(errno));
	return key;
}

static uint32_t rights_read(void)
{
	uint32_t value, zero;

	__asm__ volatile("rdpkru" : "=a" (value), "=d" (zero) : "c" (0));
	return value;
}

static void rights_write(uint32_t value)
{
	__asm__ volatile("wrpkru" : : "a" (value), "d" (0), "c" (0) : "memory");
}

#define NO_ACCESS(key)	(1U << (2 * (unsigned int)(key)))
#define NO_WRITING(key)	(2U << (2 * (unsigned int)(key)))

static int key;
static uint64_t rights_fiber;
static atomic_uint rights_seen;

/* Sees the rights of its thread, and changes them for it. */
static void changes_rights(void *arg)
{
	(void)arg;
	for (;;) {
		atomic_store(&rights_seen, rights_read());
		rights_write(rights_read() ^ NO_WRITING(key));
		CHECK_OK(fiber_switch(home));
	}
}

static void *has_other_rights(void *arg)
{
	uint64_t before = home;
	uint32_t mine;

	home = convert(FIBER_FLAG_FPU);
	rights_write(rights_read() | NO_ACCESS(key));
	mine = rights_read();
	CHECK_OK(switch_when_free(rights_fiber));
	CHECK_EQ(atomic_load(&rights_seen), mine);
	CHECK_EQ(rights_read(), mine ^ NO_WRITING(key));
	home = before;
	return arg;
}

/* Whatever the fibers are, rights stay with the thread that has them. */
TEST(rights_of_keys_are_the_threads)
{
	key = key_new();
	home = convert(FIBER_FLAG_FPU);
	rights_fiber = create(changes_rights, NULL, FIBER_FLAG_FPU, NULL);
	for (int i = 0; i < ROUNDS / 10; i++) {
		uint32_t mine = rights_read();

		/* Sometimes with the registers in memory when it enters the kernel. */
		if (i & 1)
			sched_yield();
		CHECK_OK(switch_when_free(rights_fiber));
		CHECK_EQ(atomic_load(&rights_seen), mine);
		CHECK_EQ(rights_read(), mine ^ NO_WRITING(key));
		if (i % 10 == 0)
			thread_join(thread_start(has_other_rights, NULL));
	}
}

/* A caller may not have the kernel read or write what he may not touch himself. */
TEST(requests_keep_to_the_callers_rights)
{
	struct fiber_create *args = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t all;

	CHECK(args != MAP_FAILED);
	key = key_new();
	home = convert(0);
	*args = (struct fiber_create) {
		.size = sizeof(*args), .entry = (uintptr_t)bounce, .stack_start = 65536,
		.stack_size = STACK_SIZE, .id = POISON,
	};
	CHECK(syscall(SYS_pkey_mprotect, args, PAGE, PROT_READ | PROT_WRITE, key) == 0);
	all = rights_read() & ~(NO_ACCESS(key) | NO_WRITING(key));
	for (int i = 0; i < 2; i++) {
		void *id = &args->id;

		rights_write(all | (i ? NO_ACCESS(key) : NO_WRITING(key)));
		CHECK_ERR(request(device, FIBER_IOC_CREATE, (unsigned long)args), EFAULT);
		CHECK_ERR(request(device, FIBER_IOC_SELF, (unsigned long)id), EFAULT);
		rights_write(all);
		CHECK_EQ(args->id, POISON);
		CHECK(!proc_exists(2));
	}
	CHECK_OK(request(device, FIBER_IOC_CREATE, (unsigned long)args));
	check_works();
}

/* The module writes a thread area through the kernel's own mapping, which has no key. */
TEST(a_table_behind_a_key)
{
	volatile struct fiber_thread_area *area;
	char *table;

	key = key_new();
	device = device_open();
	table = mmap(NULL, FIBER_TABLE_SIZE(100), PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	CHECK(table != MAP_FAILED);
	CHECK_OK(request(device, FIBER_IOC_COMMIT, 100));
	area = (void *)(table + FIBER_TABLE_AREAS_AT + sizeof(*area));
	CHECK(syscall(SYS_pkey_mprotect, table, FIBER_TABLE_SIZE(100), PROT_READ | PROT_WRITE,
		      key) == 0);
	rights_write(rights_read() | NO_ACCESS(key));
	CHECK_OK(request(device, FIBER_IOC_ATTACH, 1));
	for (int i = 0; i < 20; i++)
		pause_briefly();
	CHECK_OK(request(device, FIBER_IOC_COMMIT, 50));
	rights_write(rights_read() & ~NO_ACCESS(key));
	CHECK_EQ(area->tid, (uint32_t)gettid());
	CHECK(area->off > 0);
}

/* AMX */

#define ARCH_REQ_XCOMP_PERM	0x1023
#define XFEATURE_XTILEDATA	18

/* After that the kernel keeps the thread's registers in a larger image. */
TEST(tiles_are_the_threads)
{
	static const struct {
		uint8_t palette, start_row, reserved[14];
		uint16_t bytes[16];
		uint8_t rows[16];
	} config __attribute__((aligned(64))) = { .palette = 1, .bytes = { 64 }, .rows = { 16 } };
	static uint8_t in[1024], out[1024];
	uint64_t id;

	if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA))
		skip("no tiles (AMX): %s", strerror(errno));
	memset(in, 0x5a, sizeof(in));
	home = convert(FIBER_FLAG_FPU);
	id = create(bounce, &bounces, FIBER_FLAG_FPU, NULL);
	/* ldtilecfg (%rax); tileloadd (%rsi,%rcx), %tmm0 */
	__asm__ volatile(".byte 0xc4,0xe2,0x78,0x49,0x00" : : "a" (&config) : "memory");
	__asm__ volatile(".byte 0xc4,0xe2,0x7b,0x4b,0x04,0x0e" : : "S" (in), "c" (64UL) : "memory");
	for (int i = 0; i < ROUNDS; i++) {
		if (i & 1)
			sched_yield();
		CHECK_OK(fiber_switch(id));
	}
	/* tilestored %tmm0, (%rsi,%rcx) */
	__asm__ volatile(".byte 0xc4,0xe2,0x7a,0x4b,0x04,0x0e"
			 : : "S" (out), "c" (64UL) : "memory");
	CHECK(!memcmp(in, out, sizeof(in)));
}

/* Alternate signal stacks */

/* SS_AUTODISARM, which the C library does not name. */
#define DISARM (1U << 31)

#define STORM_THREADS 3
#define STORM_FIBERS 4
#define STORM_SWITCHES 3000

static uint64_t storm_fibers[STORM_FIBERS];
static atomic_uint storm_ready, storm_refused, storm_switches;

/* On its thread's alternate stack, in whichever fiber: no switch from here. */
static void on_storm(int number)
{
	long err = fiber_switch(storm_fibers[0]);

	(void)number;
	CHECK_ERR(err, EINVAL);
	atomic_fetch_add(&storm_refused, 1);
}

static void storm_fiber(void *arg)
{
	unsigned int next = (unsigned int)(uintptr_t)arg;

	for (;;) {
		atomic_fetch_add(&storm_switches, 1);
		next = (next + 1) % STORM_FIBERS;
		(void)fiber_switch(storm_fibers[next]);
	}
}

/* An alternate stack belongs to the thread: fibers that come to it use it, and leave it there. */
static void *storm_thread(void *arg)
{
	stack_t stack = { .ss_sp = stack_new(STACK_SIZE), .ss_size = STACK_SIZE };
	unsigned int next = (unsigned int)(uintptr_t)arg;

	CHECK(sigaltstack(&stack, NULL) == 0);
	convert(FIBER_FLAG_FPU);
	atomic_fetch_add(&storm_ready, 1);
	for (;;)
		(void)fiber_switch(storm_fibers[next++ % STORM_FIBERS]);
	return NULL;
}

static void storm(void)
{
	struct sigaction action = { .sa_handler = on_storm, .sa_flags = SA_ONSTACK | SA_RESTART };
	struct itimerval timer = { { 0, 1000 }, { 0, 1000 } };
	sigset_t alarms;

	CHECK(sigaction(SIGALRM, &action, NULL) == 0);
	convert(0);
	for (unsigned int i = 0; i < STORM_FIBERS; i++)
		storm_fibers[i] = create(storm_fiber, (void *)(uintptr_t)i,
					 i & 1 ? FIBER_FLAG_FPU : 0, NULL);
	for (unsigned int i = 0; i < STORM_THREADS; i++)
		thread_start(storm_thread, (void *)(uintptr_t)i);
	/* This thread has no such stack. */
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	CHECK(pthread_sigmask(SIG_BLOCK, &alarms, NULL) == 0);
	WAIT_FOR(atomic_load(&storm_ready) == STORM_THREADS);
	CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
	WAIT_FOR(atomic_load(&storm_switches) > STORM_SWITCHES &&
		 atomic_load(&storm_refused) > 100);
}

TEST(a_storm_of_signals_on_alternate_stacks)
{
	counters_wait_none();
	in_child(storm);
	counters_wait_none();
}

static volatile bool leave_handler;
static uint64_t disarmed_fiber;

/* The stack is nobody's while this handler runs, so a switch from it is a switch like others. */
static void on_disarmed(int number)
{
	(void)number;
	while (!leave_handler)
		CHECK_OK(fiber_switch(disarmed_fiber));
}

static void runs_beside_a_handler(void *arg)
{
	stack_t now;

	(void)arg;
	CHECK(sigaltstack(NULL, &now) == 0);
	CHECK(now.ss_flags & SS_DISABLE);
	for (int i = 0; i < 10; i++)
		CHECK_OK(fiber_switch(home));
	leave_handler = true;
	for (;;)
		CHECK_OK(fiber_switch(home));
}

TEST(a_stack_that_disarms_itself)
{
	struct sigaction action = { .sa_handler = on_disarmed, .sa_flags = SA_ONSTACK };
	stack_t stack = { .ss_sp = stack_new(STACK_SIZE), .ss_size = STACK_SIZE,
			  .ss_flags = (int)DISARM };
	stack_t now;

	CHECK(sigaltstack(&stack, NULL) == 0);
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	home = convert(0);
	disarmed_fiber = create(runs_beside_a_handler, NULL, 0, NULL);
	raise(SIGUSR1);
	CHECK(sigaltstack(NULL, &now) == 0);
	CHECK(now.ss_sp == stack.ss_sp && now.ss_flags == stack.ss_flags);
	check_works();
}

static void own_stack_is_alternate(void *arg)
{
	(void)arg;
	/* It cannot be distinguished from a handler, so it stays until the process ends. */
	CHECK_ERR(fiber_switch(home), EINVAL);
	CHECK_EQ(self(), 2);
	_exit(0);
}

static void run_on_the_alternate_stack(void)
{
	stack_t stack = { .ss_sp = stack_new(STACK_SIZE), .ss_size = STACK_SIZE };
	struct fiber_create args = {
		.size = sizeof(args), .entry = (uintptr_t)own_stack_is_alternate,
		.stack_start = (uintptr_t)stack.ss_sp, .stack_size = STACK_SIZE,
	};
	uint64_t id;

	CHECK(sigaltstack(&stack, NULL) == 0);
	home = convert(0);
	CHECK_OK(try_create(&args, &id));
	fiber_switch(id);
	check_failed(__FILE__, __LINE__, "it came back");
}

TEST(a_fiber_on_the_alternate_stack)
{
	counters_wait_none();
	in_child(run_on_the_alternate_stack);
	counters_wait_none();
}

/* Sandboxes */

static void filter_device(unsigned int action)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)FIBER_IOC_SWITCH, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { ARRAY_SIZE(filter), filter };

	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
		skip("this kernel has no seccomp filters");
}

static uint64_t sandboxed_fiber, after_fiber;

static void sandboxes_its_thread(void *arg)
{
	(void)arg;
	filter_device(SECCOMP_RET_KILL_THREAD);
	fiber_switch(1);
	abort();
}

static void *dies_in_a_fiber(void *arg)
{
	convert(FIBER_FLAG_FPU);
	fiber_switch(sandboxed_fiber);
	return arg;
}

static void thread_is_killed(void)
{
	home = convert(0);
	sandboxed_fiber = create(sandboxes_its_thread, NULL, FIBER_FLAG_FPU, NULL);
	after_fiber = create(bounce, &bounces, 0, NULL);
	thread_start(dies_in_a_fiber, NULL);
	WAIT_FOR(proc_exists(4) && counters_read().threads == 1);
	/* Its thread's root fiber has ended with it; what it ran is new again. */
	CHECK_ERR(fiber_switch(4), EOWNERDEAD);
	CHECK(proc_is(sandboxed_fiber, "State", "new"));
	CHECK_OK(fiber_switch(after_fiber));
	CHECK_OK(fiber_delete(sandboxed_fiber));
	check_works();
}

TEST(a_thread_that_its_sandbox_kills_at_a_switch)
{
	counters_wait_none();
	in_child(thread_is_killed);
	counters_wait_none();
}

static uint64_t first, second;
static atomic_uint first_runs, second_runs;

static void misled(void)
{
	CHECK(!ptrace(PTRACE_TRACEME, 0, 0, 0));
	raise(SIGSTOP);
	home = convert(0);
	first = create(bounce, &first_runs, 0, NULL);
	second = create(bounce, &second_runs, FIBER_FLAG_FPU, NULL);
	filter_device(SECCOMP_RET_TRACE);
	for (unsigned int i = 1; i <= 50; i++) {
		CHECK_OK(fiber_switch(first));
		CHECK_EQ(atomic_load(&first_runs), 0);
		CHECK_EQ(atomic_load(&second_runs), i);
	}
}

/* The filter lets a tracer put another fiber, or another request, in the place of the caller's. */
TEST(a_sandbox_that_changes_a_switch)
{
	struct user_regs_struct regs;
	unsigned int stops = 0;
	int status;
	pid_t pid;

	counters_wait_none();
	pid = child_start(misled);
	CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
	CHECK(!ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL));
	for (;;) {
		CHECK(!ptrace(PTRACE_CONT, pid, 0, 0));
		CHECK(waitpid(pid, &status, 0) == pid);
		if (!WIFSTOPPED(status))
			break;
		CHECK(status >> 8 == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8));
		CHECK(!ptrace(PTRACE_GETREGS, pid, 0, &regs));
		CHECK_EQ(regs.rsi, FIBER_IOC_SWITCH);
		stops++;
		if (regs.rdx == 2) {
			regs.rdx = 3;
			CHECK(!ptrace(PTRACE_SETREGS, pid, 0, &regs));
		}
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		_exit(77);
	CHECK_EQ((unsigned int)status, 0);
	CHECK_EQ(stops, 100);
	counters_wait_none();
}

static void traced_by_nobody(void)
{
	uint64_t id;

	home = convert(0);
	id = create(bounce, &bounces, 0, NULL);
	filter_device(SECCOMP_RET_TRACE);
	CHECK_ERR(fiber_switch(id), ENOSYS);
	CHECK_EQ(self(), home);
	CHECK_EQ(atomic_load(&bounces), 0);
}

TEST(a_sandbox_whose_tracer_is_gone)
{
	counters_wait_none();
	in_child(traced_by_nobody);
	counters_wait_none();
}
