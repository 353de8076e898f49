/* SPDX-License-Identifier: MIT */
/*
 * What a switch saves and restores.
 *
 *	always			rbx rbp rsp rip r12-r15, MXCSR, x87 control word, signal mask
 *	with FIBER_FLAG_FPU	x87, SSE and AVX state
 *	never			thread-local storage, which is the thread's
 */
#include <cpuid.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define MXCSR_INIT	0x1f80U
#define FCW_INIT	0x37fU
/* Rounding down and up, flush to zero: nothing that any code here minds. */
#define MXCSR_OTHER	0x3f80U
#define MXCSR_THIRD	0xdf80U
#define FCW_OTHER	0x77fU
#define FCW_THIRD	0xb7fU

static uint32_t mxcsr_read(void)
{
	uint32_t mxcsr;

	__asm__ volatile("stmxcsr %0" : "=m" (mxcsr));
	return mxcsr;
}

static void mxcsr_write(uint32_t mxcsr)
{
	__asm__ volatile("ldmxcsr %0" : : "m" (mxcsr));
}

static uint16_t fcw_read(void)
{
	uint16_t fcw;

	__asm__ volatile("fnstcw %0" : "=m" (fcw));
	return fcw;
}

static void fcw_write(uint16_t fcw)
{
	__asm__ volatile("fldcw %0" : : "m" (fcw));
}

/* As the first instruction finds them: rdi, rbx, rbp, r12-r15, rsp. */
uint64_t first_registers[8];
uint32_t first_mxcsr;
uint16_t first_fcw;

void first_instruction(void *arg);
__asm__(".text\n"
	".type first_instruction, @function\n"
	"first_instruction:\n"
	"movq %rdi, first_registers(%rip)\n"
	"movq %rbx, 8 + first_registers(%rip)\n"
	"movq %rbp, 16 + first_registers(%rip)\n"
	"movq %r12, 24 + first_registers(%rip)\n"
	"movq %r13, 32 + first_registers(%rip)\n"
	"movq %r14, 40 + first_registers(%rip)\n"
	"movq %r15, 48 + first_registers(%rip)\n"
	"movq %rsp, 56 + first_registers(%rip)\n"
	"stmxcsr first_mxcsr(%rip)\n"
	"fnstcw first_fcw(%rip)\n"
	"movl $1, %edi\n"
	"jmp fiber_switch\n"
	".size first_instruction, . - first_instruction\n");

static void check_first_state(uint32_t flags)
{
	void *stack = stack_new(STACK_SIZE);
	struct fiber_create args = {
		.entry = (uintptr_t)first_instruction,
		.arg = POISON,
		.stack_start = (uintptr_t)stack,
		.stack_size = STACK_SIZE - 24,
		.flags = flags,
	};
	uint64_t id;

	memset(first_registers, 0xff, sizeof(first_registers));
	first_mxcsr = first_fcw = 0;
	CHECK_OK(try_create(&args, &id));
	CHECK_OK(fiber_switch(id));
	CHECK_EQ(first_registers[0], POISON);
	for (int i = 1; i <= 6; i++)
		CHECK_EQ(first_registers[i], 0);
	CHECK_EQ(first_registers[7], stack_top(stack, STACK_SIZE - 24));
	CHECK_EQ(first_mxcsr, MXCSR_INIT);
	CHECK_EQ(first_fcw, FCW_INIT);
}

TEST(first_instruction_finds_the_documented_state)
{
	convert(0);
	/* The creator's own words are not the new fiber's. */
	mxcsr_write(MXCSR_OTHER);
	fcw_write(FCW_OTHER);
	check_first_state(0);
	check_first_state(FIBER_FLAG_FPU);
	CHECK_EQ(mxcsr_read(), MXCSR_OTHER);
	CHECK_EQ(fcw_read(), FCW_OTHER);
}

/*
 * Fills what a switch must keep with values made from @pattern, switches, and
 * returns the number of registers that came back changed; the switch's result
 * goes to *result.
 */
unsigned int switch_with_pattern(uint64_t id, uint64_t pattern, long *result, int fd);
__asm__(".text\n"
	".type switch_with_pattern, @function\n"
	"switch_with_pattern:\n"
	"push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
	"push %rdx\n"			/* 8(%rsp): where the result goes */
	"push %rsi\n"			/* 0(%rsp): the pattern */
	"lea 1(%rsi), %rbx\n lea 2(%rsi), %rbp\n lea 3(%rsi), %r12\n"
	"lea 4(%rsi), %r13\n lea 5(%rsi), %r14\n lea 6(%rsi), %r15\n"
	"mov %rdi, %rdx\n"
	"mov %ecx, %edi\n"
	"mov $0xfb03, %esi\n"
	"mov $16, %eax\n"
	"syscall\n"
	"xor %ecx, %ecx\n"
	"pop %rsi\n"
	"pop %rdx\n"
	"mov %rax, (%rdx)\n"
	"xor %eax, %eax\n"
	"lea 1(%rsi), %rdi\n cmp %rdi, %rbx\n setne %cl\n add %ecx, %eax\n"
	"lea 2(%rsi), %rdi\n cmp %rdi, %rbp\n setne %cl\n add %ecx, %eax\n"
	"lea 3(%rsi), %rdi\n cmp %rdi, %r12\n setne %cl\n add %ecx, %eax\n"
	"lea 4(%rsi), %rdi\n cmp %rdi, %r13\n setne %cl\n add %ecx, %eax\n"
	"lea 5(%rsi), %rdi\n cmp %rdi, %r14\n setne %cl\n add %ecx, %eax\n"
	"lea 6(%rsi), %rdi\n cmp %rdi, %r15\n setne %cl\n add %ecx, %eax\n"
	"pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
	"ret\n"
	".size switch_with_pattern, . - switch_with_pattern\n");
_Static_assert(FIBER_IOC_SWITCH == 0xfb03, "the assembly above knows it");

static long checked_switch(uint64_t id, uint64_t pattern)
{
	long result;

	CHECK(switch_with_pattern(id, pattern, &result, device) == 0);
	return result;
}

static uint64_t random_next(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state >> 33;
}

#define CREW 6
#define CREW_THREADS 3
#define CREW_ROUNDS 1500

static uint64_t crew[CREW];
static atomic_int crew_left;
static __thread uint64_t home_id;

/* Not inlined: see fiber_switch(). */
static __attribute__((noinline, noipa)) uint64_t home(void)
{
	return home_id;
}

/* Each with words and registers of its own; runs wherever a thread takes it. */
static void crew_run(void *arg)
{
	uint64_t number = (uintptr_t)arg, seed = number;
	uint32_t mxcsr = number % 3 == 0 ? MXCSR_INIT : number % 3 == 1 ? MXCSR_OTHER : MXCSR_THIRD;
	uint16_t fcw = number % 2 ? FCW_OTHER : FCW_THIRD;

	mxcsr_write(mxcsr);
	fcw_write(fcw);
	for (;;) {
		uint64_t next = crew[random_next(&seed) % CREW];
		long err;

		if (atomic_fetch_sub(&crew_left, 1) <= 0)
			next = home();
		err = checked_switch(next, seed << 32 | number << 8);
		CHECK(err == 0 || err == -EBUSY || err == -EINVAL);
		CHECK_EQ(mxcsr_read(), mxcsr);
		CHECK_EQ(fcw_read(), fcw);
	}
}

static void *crew_thread(void *arg)
{
	uint64_t number = (uintptr_t)arg;

	home_id = convert(number & 1 ? FIBER_FLAG_FPU : 0);
	mxcsr_write(MXCSR_THIRD);
	while (atomic_load(&crew_left) > 0) {
		long err = checked_switch(crew[number % CREW], UINT64_C(0x1122334455667788) + number);

		CHECK(err == 0 || err == -EBUSY);
		CHECK_EQ(mxcsr_read(), MXCSR_THIRD);
		CHECK_EQ(fcw_read(), FCW_INIT);
	}
	return NULL;
}

TEST(registers_and_control_words_on_many_threads)
{
	pthread_t threads[CREW_THREADS];

	atomic_store(&crew_left, CREW_ROUNDS);
	convert(0);
	for (uintptr_t i = 0; i < CREW; i++)
		crew[i] = create(crew_run, (void *)(i + 1), i < CREW / 2 ? FIBER_FLAG_FPU : 0, NULL);
	for (uintptr_t i = 0; i < CREW_THREADS; i++)
		threads[i] = thread_start(crew_thread, (void *)i);
	for (int i = 0; i < CREW_THREADS; i++)
		thread_join(threads[i]);
	CHECK(atomic_load(&crew_left) <= 0);
}

static void words_run(void *arg)
{
	(void)arg;
	for (;;) {
		mxcsr_write(MXCSR_OTHER);
		fcw_write(FCW_OTHER);
		CHECK_OK(fiber_switch(1));
		CHECK_EQ(mxcsr_read(), MXCSR_OTHER);
		CHECK_EQ(fcw_read(), FCW_OTHER);
	}
}

/* Every mix of fibers with the whole state and with the control words alone. */
TEST(control_words_between_fibers_with_and_without_fpu)
{
	for (uint32_t mix = 0; mix < 8; mix++) {
		uint64_t own = convert(mix & 1 ? FIBER_FLAG_FPU : 0), a, b;

		if (own != 1)
			check_failed(__FILE__, __LINE__, "id %llu", (unsigned long long)own);
		a = create(words_run, NULL, mix & 2 ? FIBER_FLAG_FPU : 0, NULL);
		b = create(words_run, NULL, mix & 4 ? FIBER_FLAG_FPU : 0, NULL);
		for (int i = 0; i < 3; i++) {
			mxcsr_write(MXCSR_THIRD);
			fcw_write(FCW_THIRD);
			CHECK_OK(fiber_switch(a));
			CHECK_EQ(mxcsr_read(), MXCSR_THIRD);
			CHECK_EQ(fcw_read(), FCW_THIRD);
			CHECK_OK(fiber_switch(b));
			CHECK_EQ(mxcsr_read(), MXCSR_THIRD);
			CHECK_EQ(fcw_read(), FCW_THIRD);
		}
		if (mix < 7) {
			/* The next mix in a process of its own, where ids begin at 1 again. */
			pid_t pid = fork();

			CHECK(pid >= 0);
			if (pid) {
				child_join(pid);
				return;
			}
			device = -1;
		}
	}
}

static volatile sig_atomic_t fpe_count, fpe_code;

/* Masks what is pending, or the instruction would fault again. */
static void on_fpe(int number, siginfo_t *info, void *context)
{
	ucontext_t *user = context;

	(void)number;
	fpe_count++;
	fpe_code = info->si_code;
	user->uc_mcontext.fpregs->cwd |= 0x3f;
	user->uc_mcontext.fpregs->swd &= (uint16_t)~0x80ff;
}

static void fpe_catch(void)
{
	struct sigaction action = { .sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO };

	CHECK(sigaction(SIGFPE, &action, NULL) == 0);
}

/* A division by zero whose exception waits for the next x87 instruction. */
static void fpe_make_pending(void)
{
	fcw_write(FCW_INIT & ~4U);
	__asm__ volatile("fld1\n\tfldz\n\tfdivrp\n" : : : "st", "st(1)", "memory");
}

/* No x87 instruction. */
static void no_x87(void *arg)
{
	for (;;) {
		++*(uint64_t *)arg;
		CHECK_OK(fiber_switch(1));
	}
}

/*
 * FLDCW in the kernel would take the exception that user mode left pending. The
 * exception must hit the fiber's next x87 instruction, after the switches. What
 * is pending is no control word, so a fiber without the flag does not keep it
 * where the other's whole state comes in between.
 */
static void check_pending_exception(uint32_t own, uint32_t other)
{
	bool lost = !own && other;
	uint64_t count = 0, id;

	fpe_catch();
	convert(own);
	id = create(no_x87, &count, other, NULL);
	for (int i = 1; i <= 3; i++) {
		fpe_make_pending();
		/* To a fiber of another control word, and back. */
		CHECK_OK(fiber_switch(id));
		CHECK(fpe_count == (lost ? 0 : i - 1));
		CHECK_EQ(count, (unsigned int)i);
		CHECK_EQ(fcw_read(), FCW_INIT & ~4U);
		__asm__ volatile("fwait" : : : "memory");
		CHECK(fpe_count == (lost ? 0 : i));
		CHECK(lost || fpe_code == FPE_FLTDIV);
		__asm__ volatile("fninit");
	}
}

TEST(pending_x87_exception)
{
	check_pending_exception(0, 0);
}

TEST(pending_x87_exception_from_fpu_fiber)
{
	check_pending_exception(FIBER_FLAG_FPU, 0);
}

TEST(pending_x87_exception_to_fpu_fiber)
{
	check_pending_exception(0, FIBER_FLAG_FPU);
}

TEST(pending_x87_exception_between_fpu_fibers)
{
	check_pending_exception(FIBER_FLAG_FPU, FIBER_FLAG_FPU);
}

static void x87_user(void *arg)
{
	double *result = arg;

	for (;;) {
		__asm__ volatile("fld1\n\tfadd %%st, %%st\n\tfstpl %0\n\tfwait" : "=m" (*result));
		CHECK_OK(fiber_switch(1));
	}
}

/* With the whole state of their own, others do not notice it at all. */
TEST(pending_x87_exception_stays_with_its_fpu_fiber)
{
	double result = 0;

	fpe_catch();
	convert(FIBER_FLAG_FPU);
	fpe_make_pending();
	CHECK_OK(fiber_switch(create(x87_user, &result, FIBER_FLAG_FPU, NULL)));
	CHECK(result == 2);
	CHECK(fpe_count == 0);
	__asm__ volatile("fwait" : : : "memory");
	CHECK(fpe_count == 1);
}

static bool has_avx(void)
{
	unsigned int a, b, c, d;

	/* OSXSAVE and AVX. */
	return __get_cpuid(1, &a, &b, &c, &d) && (c & 1U << 27) && (c & 1U << 28);
}

struct vectors {
	uint64_t ymm[16][4];
	/* The x87 stack's top, and MXCSR. */
	double st;
	uint32_t mxcsr;
};

/*
 * Loads ymm0-15, one x87 register and MXCSR from *in, switches, and stores what
 * is there then to *out. One function, so that no compiler's code is in between.
 */
long switch_with_vectors(uint64_t id, const struct vectors *in, struct vectors *out, int fd);
__asm__(".text\n"
	".type switch_with_vectors, @function\n"
	"switch_with_vectors:\n"
	"push %rbx\n"
	"push %r12\n"
	"mov %rdx, %rbx\n"
	"mov %rdi, %rdx\n"
	"mov %ecx, %edi\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"vmovdqu (32 * \\n)(%rsi), %ymm\\n\n"
	".endr\n"
	"fldl 512(%rsi)\n"
	"ldmxcsr 520(%rsi)\n"
	"mov $0xfb03, %esi\n"
	"mov $16, %eax\n"
	"syscall\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"vmovdqu %ymm\\n, (32 * \\n)(%rbx)\n"
	".endr\n"
	"fstpl 512(%rbx)\n"
	"stmxcsr 520(%rbx)\n"
	"movl $0x1f80, 524(%rbx)\n"
	"ldmxcsr 524(%rbx)\n"
	"vzeroupper\n"
	"pop %r12\n"
	"pop %rbx\n"
	"ret\n"
	".size switch_with_vectors, . - switch_with_vectors\n");
_Static_assert(offsetof(struct vectors, st) == 512 && offsetof(struct vectors, mxcsr) == 520 &&
	       sizeof(struct vectors) == 528, "the assembly above knows it");

static void vectors_fill(struct vectors *vectors, uint64_t number, uint64_t round)
{
	for (uint64_t i = 0; i < 64; i++)
		vectors->ymm[i / 4][i % 4] = number << 56 | round << 16 | i;
	vectors->st = (double)(number * 1000 + round);
	vectors->mxcsr = round % 2 ? MXCSR_OTHER : MXCSR_INIT;
}

static void vectors_check(const struct vectors *in, const struct vectors *out)
{
	for (int i = 0; i < 64; i++)
		CHECK_EQ(out->ymm[i / 4][i % 4], in->ymm[i / 4][i % 4]);
	CHECK(out->st == in->st);
	CHECK_EQ(out->mxcsr, in->mxcsr);
}

#define VECTOR_FIBERS 5
#define VECTOR_ROUNDS 1200

static uint64_t vector_fibers[VECTOR_FIBERS];
static atomic_int vector_rounds;

static void vector_run(void *arg)
{
	uint64_t number = (uintptr_t)arg, seed = number;

	for (uint64_t round = 1;; round++) {
		struct vectors in, out;
		uint64_t next = vector_fibers[random_next(&seed) % VECTOR_FIBERS];
		long err;

		if (atomic_fetch_sub(&vector_rounds, 1) <= 0)
			next = home();
		vectors_fill(&in, number, round);
		memset(&out, 0xee, sizeof(out));
		err = switch_with_vectors(next, &in, &out, device);
		CHECK(err == 0 || err == -EBUSY || err == -EINVAL);
		vectors_check(&in, &out);
	}
}

static void *vector_thread(void *arg)
{
	uint64_t number = (uintptr_t)arg;
	struct vectors in, out;

	home_id = convert(FIBER_FLAG_FPU);
	vectors_fill(&in, number + 100, 0);
	while (atomic_load(&vector_rounds) > 0) {
		long err = switch_with_vectors(vector_fibers[number], &in, &out, device);

		CHECK(err == 0 || err == -EBUSY);
		vectors_check(&in, &out);
	}
	return NULL;
}

static void on_alarm_use_vectors(int number)
{
	(void)number;
	/* Makes the kernel save and reload the state. */
	__asm__ volatile("vpcmpeqd %%xmm0, %%xmm0, %%xmm0\n\tvzeroall" : : : "memory");
}

/* FXSAVE alone, as in the report, would lose the upper halves. */
TEST(avx_state_of_fpu_fibers_on_many_threads)
{
	struct sigaction action = { .sa_handler = on_alarm_use_vectors, .sa_flags = SA_RESTART };
	struct itimerval timer = { { 0, 2000 }, { 0, 2000 } };
	pthread_t threads[2];

	if (!has_avx())
		skip("this CPU has no AVX");
	atomic_store(&vector_rounds, VECTOR_ROUNDS);
	CHECK(sigaction(SIGALRM, &action, NULL) == 0);
	convert(0);
	for (uintptr_t i = 0; i < VECTOR_FIBERS; i++)
		vector_fibers[i] = create(vector_run, (void *)(i + 1), FIBER_FLAG_FPU, NULL);
	CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
	for (uintptr_t i = 0; i < ARRAY_SIZE(threads); i++)
		threads[i] = thread_start(vector_thread, (void *)i);
	for (unsigned int i = 0; i < ARRAY_SIZE(threads); i++)
		thread_join(threads[i]);
	CHECK(atomic_load(&vector_rounds) <= 0);
}

/* A fiber of vector_pair(); it keeps the whole state if @arg is not NULL. */
static void vectors_dirty(void *arg)
{
	struct vectors in, out;

	for (uint64_t round = 0;; round++) {
		vectors_fill(&in, arg ? 77 : 78, round);
		fcw_write(arg ? FCW_OTHER : FCW_INIT);
		CHECK_OK(switch_with_vectors(1, &in, &out, device));
		if (arg)
			vectors_check(&in, &out);
		CHECK_EQ(out.mxcsr, in.mxcsr);
		CHECK_EQ(fcw_read(), arg ? FCW_OTHER : FCW_INIT);
	}
}

/* A fiber with the flag keeps its state also where the others have no flag. */
static void vector_pair(uint64_t rounds)
{
	struct vectors in, out;
	uint64_t plain, full;

	if (!has_avx())
		skip("this CPU has no AVX");
	convert(FIBER_FLAG_FPU);
	plain = create(vectors_dirty, NULL, 0, NULL);
	full = create(vectors_dirty, &full, FIBER_FLAG_FPU, NULL);
	for (uint64_t round = 0; round < rounds; round++) {
		vectors_fill(&in, 5, round);
		fcw_write(round % 3 ? FCW_THIRD : FCW_INIT);
		CHECK_OK(switch_with_vectors(round & 1 ? plain : full, &in, &out, device));
		vectors_check(&in, &out);
		CHECK_EQ(fcw_read(), round % 3 ? FCW_THIRD : FCW_INIT);
	}
}

TEST(avx_state_beside_fibers_without_fpu)
{
	vector_pair(20);
}

static struct vectors first_vectors;

static __attribute__((naked)) void vectors_at_entry(void *arg)
{
	(void)arg;
	__asm__(".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
		"vmovdqu %ymm\\n, 32 * \\n + first_vectors(%rip)\n"
		".endr\n"
		"vzeroupper\n"
		"mov $1, %edi\n"
		"jmp fiber_switch\n");
}

TEST(first_state_of_an_fpu_fiber_is_clean)
{
	struct vectors in, out;

	if (!has_avx())
		skip("this CPU has no AVX");
	convert(FIBER_FLAG_FPU);
	memset(&first_vectors, 0xff, sizeof(first_vectors));
	vectors_fill(&in, 9, 1);
	CHECK_OK(switch_with_vectors(create(vectors_at_entry, NULL, FIBER_FLAG_FPU, NULL), &in,
				     &out, device));
	vectors_check(&in, &out);
	for (int i = 0; i < 64; i++)
		CHECK_EQ(first_vectors.ymm[i / 4][i % 4], 0);
}

static void set_cpu(pid_t tid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	CHECK(sched_setaffinity(tid, sizeof(set), &set) == 0);
}

static bool enters_switch(pid_t tid)
{
	struct __ptrace_syscall_info info;

	CHECK(ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) > 0);
	return info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_ioctl &&
	       info.entry.args[1] == FIBER_IOC_SWITCH;
}

/*
 * Runs it in a process whose threads stop for a tracer at each system call's
 * entry. The tracer's CPU is another one, if there is one, so the CPU's registers
 * remain what they were in between. If @migrate, each thread changes its CPU at
 * random after it has stopped. Returns the number of switches.
 */
static unsigned int traced(void (*run)(void), bool migrate)
{
	int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN), begin[2], result = -1, status;
	unsigned int switches = 0;
	uint64_t seed = 1;
	pid_t child, tid;
	char byte = 0;

	CHECK(pipe(begin) == 0);
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		CHECK(read(begin[0], &byte, 1) == 1);
		device = -1;
		run();
		_exit(0);
	}
	if (!migrate && cpus > 1) {
		set_cpu(child, 0);
		set_cpu(0, 1);
	}
	CHECK(ptrace(PTRACE_SEIZE, child, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE |
		     PTRACE_O_TRACEFORK | PTRACE_O_EXITKILL) == 0);
	CHECK(ptrace(PTRACE_INTERRUPT, child, NULL, NULL) == 0);
	CHECK(write(begin[1], &byte, 1) == 1);
	while ((tid = waitpid(-1, &status, __WALL)) > 0) {
		int number = 0;

		if (!WIFSTOPPED(status)) {
			if (tid == child)
				result = status;
			continue;
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
			if (enters_switch(tid)) {
				switches++;
				if (migrate)
					set_cpu(tid, (int)(random_next(&seed) % (uint64_t)cpus));
			}
		} else if (!(status >> 16)) {
			number = WSTOPSIG(status);
		}
		/* A thread may have been killed meanwhile. */
		CHECK(ptrace(PTRACE_SYSCALL, tid, NULL, number) == 0 || errno == ESRCH);
	}
	if (WIFEXITED(result) && WEXITSTATUS(result))
		_exit(WEXITSTATUS(result));
	CHECK_EQ(result, 0);
	return switches;
}

/* The same tests where each switch finds the FPU registers in memory. */
TEST(traced_first_instruction)
{
	CHECK(traced(first_instruction_finds_the_documented_state, false) >= 4);
}

TEST(traced_registers_and_control_words)
{
	CHECK(traced(registers_and_control_words_on_many_threads, false) >= CREW_ROUNDS);
}

TEST(traced_and_migrated_registers_and_control_words)
{
	CHECK(traced(registers_and_control_words_on_many_threads, true) >= CREW_ROUNDS);
}

TEST(traced_control_words_between_fibers)
{
	CHECK(traced(control_words_between_fibers_with_and_without_fpu, false) >= 8 * 12);
}

TEST(traced_pending_x87_exception)
{
	CHECK(traced(pending_x87_exception, false) >= 6);
}

TEST(traced_pending_x87_exception_from_fpu_fiber)
{
	CHECK(traced(pending_x87_exception_from_fpu_fiber, false) >= 6);
}

TEST(traced_pending_x87_exception_to_fpu_fiber)
{
	CHECK(traced(pending_x87_exception_to_fpu_fiber, false) >= 6);
}

TEST(traced_pending_x87_exception_between_fpu_fibers)
{
	CHECK(traced(pending_x87_exception_between_fpu_fibers, false) >= 6);
}

TEST(traced_pending_x87_exception_stays_with_its_fpu_fiber)
{
	CHECK(traced(pending_x87_exception_stays_with_its_fpu_fiber, false) >= 2);
}

TEST(traced_avx_state)
{
	CHECK(traced(avx_state_of_fpu_fibers_on_many_threads, false) >= VECTOR_ROUNDS);
}

TEST(traced_and_migrated_avx_state)
{
	CHECK(traced(avx_state_of_fpu_fibers_on_many_threads, true) >= VECTOR_ROUNDS);
}

#define PAIR_ROUNDS 1500

static void long_vector_pair(void)
{
	vector_pair(PAIR_ROUNDS);
}

TEST(traced_avx_state_beside_fibers_without_fpu)
{
	CHECK(traced(long_vector_pair, false) >= 2 * PAIR_ROUNDS - 2);
}

TEST(traced_and_migrated_avx_state_beside_fibers_without_fpu)
{
	CHECK(traced(long_vector_pair, true) >= 2 * PAIR_ROUNDS - 2);
}

TEST(traced_first_state_of_an_fpu_fiber)
{
	CHECK(traced(first_state_of_an_fpu_fiber_is_clean, false) >= 2);
}

static sigset_t mask_of(int number)
{
	sigset_t mask;

	sigemptyset(&mask);
	if (number)
		sigaddset(&mask, number);
	return mask;
}

/* The system call, not libc's copy: 64 bits. */
static uint64_t mask_bits(void)
{
	sigset_t mask;
	uint64_t bits;

	CHECK(sigprocmask(SIG_SETMASK, NULL, &mask) == 0);
	memcpy(&bits, &mask, sizeof(bits));
	return bits;
}

static void mask_set(int number)
{
	sigset_t mask = mask_of(number);

	CHECK(sigprocmask(SIG_SETMASK, &mask, NULL) == 0);
}

static uint64_t bit_of(int number)
{
	return UINT64_C(1) << (number - 1);
}

static uint64_t first_mask;

static void mask_run(void *arg)
{
	(void)arg;
	first_mask = mask_bits();
	mask_set(SIGUSR2);
	for (;;) {
		CHECK_OK(fiber_switch(1));
		CHECK_EQ(mask_bits(), bit_of(SIGUSR2));
	}
}

/* In the report the mask of one fiber leaked into the next. */
TEST(signal_mask_travels_with_its_fiber)
{
	uint64_t id;

	convert(0);
	mask_set(SIGUSR1);
	id = create(mask_run, NULL, 0, NULL);
	/* A new fiber has its creator's, as it was then. */
	mask_set(SIGHUP);
	for (int i = 0; i < 3; i++) {
		CHECK_OK(fiber_switch(id));
		CHECK_EQ(first_mask, bit_of(SIGUSR1));
		CHECK_EQ(mask_bits(), bit_of(SIGHUP));
	}
	mask_set(0);
	CHECK_OK(fiber_switch(id));
	CHECK_EQ(mask_bits(), 0);
}

static volatile sig_atomic_t usr1_count;
static volatile uint64_t usr1_in;

static void on_usr1(int number)
{
	(void)number;
	usr1_count++;
	usr1_in = self();
}

static void open_to_signals(void *arg)
{
	(void)arg;
	/* What was blocked in fiber 1 arrives at the latest on this fiber's first return. */
	CHECK(usr1_count == 1);
	CHECK_EQ(usr1_in, self());
	CHECK_OK(fiber_switch(1));
}

TEST(blocked_signal_arrives_in_the_fiber_that_takes_it)
{
	struct sigaction action = { .sa_handler = on_usr1 };
	uint64_t id;

	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	convert(0);
	id = create(open_to_signals, NULL, 0, NULL);
	mask_set(SIGUSR1);
	raise(SIGUSR1);
	CHECK(usr1_count == 0);
	CHECK_OK(fiber_switch(id));
	CHECK(usr1_count == 1);
	CHECK_EQ(mask_bits(), bit_of(SIGUSR1));
}

#define ALARM_FIBERS 6
#define ALARM_SWITCHES 150

static uint64_t alarm_fibers[ALARM_FIBERS + 1];
static atomic_int alarm_switches;
static uint64_t alarm_seed = 1;

/* What the workload does: whoever is interrupted leaves from inside the handler. */
static void on_alarm_switch(int number)
{
	uint64_t next = alarm_fibers[random_next(&alarm_seed) % (ALARM_FIBERS + 1)];
	long err;

	(void)number;
	CHECK(mask_bits() & bit_of(SIGALRM));
	err = fiber_switch(next);
	CHECK(err == 0 || err == -EINVAL);
	if (!err)
		atomic_fetch_add(&alarm_switches, 1);
	CHECK(mask_bits() & bit_of(SIGALRM));
}

/*
 * Goes on computing with registers, vectors and a mask of its own while the
 * handler takes it off and others bring it back.
 */
static void alarm_compute(uint64_t number)
{
	double sum = (double)number;
	uint64_t product = number;

	while (atomic_load(&alarm_switches) < ALARM_SWITCHES) {
		for (int i = 0; i < 500; i++) {
			product = product * 3 + number;
			sum += (double)number;
		}
		for (int i = 0; i < 500; i++)
			sum -= (double)number;
		CHECK(sum == (double)number);
		CHECK(!(mask_bits() & bit_of(SIGALRM)));
		CHECK((mask_bits() & (bit_of(SIGUSR1) | bit_of(SIGUSR2))) ==
		      bit_of(number & 1 ? SIGUSR1 : SIGUSR2));
		CHECK_EQ(self(), number);
		CHECK(product);
	}
}

static void alarm_run(void *arg)
{
	uint64_t number = self();

	(void)arg;
	mask_set(number & 1 ? SIGUSR1 : SIGUSR2);
	alarm_compute(number);
	/* Done: fiber 1 collects. */
	for (;;)
		CHECK_OK(fiber_switch(1));
}

TEST(switches_from_a_sigalrm_handler)
{
	struct sigaction action = { .sa_handler = on_alarm_switch, .sa_flags = SA_RESTART };
	struct itimerval timer = { { 0, 2000 }, { 0, 2000 } };
	uint64_t activations = 0;

	CHECK(sigaction(SIGALRM, &action, NULL) == 0);
	alarm_fibers[0] = convert(FIBER_FLAG_FPU);
	mask_set(SIGUSR1);
	/* The compiler's code may use vectors, so the handler's switch must keep them. */
	for (int i = 1; i <= ALARM_FIBERS; i++)
		alarm_fibers[i] = create(alarm_run, NULL, FIBER_FLAG_FPU, NULL);
	CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
	alarm_compute(1);
	timer = (struct itimerval) { 0 };
	CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
	for (int i = 0; i <= ALARM_FIBERS; i++)
		activations += proc_number(alarm_fibers[i], "Number of activations");
	CHECK(activations >= ALARM_SWITCHES);
	CHECK_EQ(mask_bits() & bit_of(SIGALRM), 0);
}

/* volatile: the compiler takes raise() for a function that calls nothing of ours. */
static volatile long altstack_result;
static uint64_t altstack_target;

static void on_alternate_stack(int number)
{
	(void)number;
	altstack_result = fiber_switch(altstack_target);
}

/* Its frames would be overwritten by the next signal. */
TEST(alternate_signal_stack_is_einval)
{
	struct sigaction action = { .sa_handler = on_alternate_stack, .sa_flags = SA_ONSTACK };
	uint64_t count = 0;
	stack_t stack = { .ss_sp = stack_new(STACK_SIZE), .ss_size = STACK_SIZE };

	CHECK(sigaltstack(&stack, NULL) == 0);
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	convert(0);
	altstack_target = create(no_x87, &count, 0, NULL);
	altstack_result = 1;
	raise(SIGUSR1);
	CHECK_ERR(altstack_result, EINVAL);
	CHECK_EQ(count, 0);
	CHECK(proc_is(altstack_target, "State", "new"));
	CHECK_EQ(proc_number(altstack_target, "Number of failed activations"), 0);
	CHECK_EQ(self(), 1);

	/* The same handler on the ordinary stack may. */
	action.sa_flags = 0;
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	raise(SIGUSR1);
	CHECK_OK(altstack_result);
	CHECK_EQ(count, 1);
}
