/* SPDX-License-Identifier: MIT */
/*
 * The module under load. Short by default; with KFIBER_STRESS=1 a million switches and more.
 *
 *	threads   T0  T1  T2		each runs whatever fiber it came to
 *	fibers    0 1 2 3 ... 11	odd ones with FIBER_FLAG_FPU; and the threads' own
 *	SIGALRM   every half millisecond, on any thread: spoils the vectors, then switches
 *		  to a random fiber from the handler
 */
#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "harness.h"

#define THREADS 3
#define CREATED 12
#define ALL (CREATED + THREADS)

struct registers {
	uint64_t general[6];	/* rbx rbp r12 r13 r14 r15 */
	uint64_t vectors[16][4];
};

/* FIBER_IOC_SWITCH with registers loaded before it and stored behind it. */
long switch_with(uint64_t id, const struct registers *in, struct registers *out, long vectors);

__asm__(
	".text\n"
	".globl switch_with\n"
	".type switch_with, @function\n"
	"switch_with:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n"
	"	push %r13\n	push %r14\n	push %r15\n"
	"	push %rdx\n	push %rcx\n"
	"	test %ecx, %ecx\n"
	"	jz 1f\n"
	".set i, 0\n"
	".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	vmovdqu 48+32*i(%rsi), %ymm\\n\n"
	".set i, i+1\n"
	".endr\n"
	"1:	mov (%rsi), %rbx\n	mov 8(%rsi), %rbp\n	mov 16(%rsi), %r12\n"
	"	mov 24(%rsi), %r13\n	mov 32(%rsi), %r14\n	mov 40(%rsi), %r15\n"
	"	mov %rdi, %rdx\n"
	"	mov device(%rip), %edi\n"
	"	mov $0xfb03, %esi\n"
	"	mov $16, %eax\n"
	"	syscall\n"
	"	pop %rcx\n	pop %rdx\n"
	"	mov %rbx, (%rdx)\n	mov %rbp, 8(%rdx)\n	mov %r12, 16(%rdx)\n"
	"	mov %r13, 24(%rdx)\n	mov %r14, 32(%rdx)\n	mov %r15, 40(%rdx)\n"
	"	test %ecx, %ecx\n"
	"	jz 2f\n"
	".set i, 0\n"
	".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
	"	vmovdqu %ymm\\n, 48+32*i(%rdx)\n"
	".set i, i+1\n"
	".endr\n"
	"	vzeroupper\n"
	"2:	pop %r15\n	pop %r14\n	pop %r13\n"
	"	pop %r12\n	pop %rbp\n	pop %rbx\n"
	"	ret\n"
	".size switch_with, .-switch_with\n");

_Static_assert(FIBER_IOC_SWITCH == 0xfb03, "the number in switch_with");

static uint64_t ids[ALL];
static atomic_int inside[ALL];
static atomic_long left, alarms;
static atomic_int at_the_end;
static pthread_barrier_t barrier;
static long use_vectors;

static uint64_t random_next(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + 1442695040888963407U;
	return *state >> 33;
}

/* The handler's part: whoever is interrupted leaves from inside it. */
static void on_alarm(int number)
{
	static atomic_ulong seed = 7;
	uint64_t state = atomic_fetch_add(&seed, 0x9e3779b9);
	long err;

	(void)number;
	if (use_vectors)
		__asm__ volatile("vpcmpeqd %%xmm0, %%xmm0, %%xmm0\n\tvzeroall" : : : "memory");
	err = fiber_switch(ids[random_next(&state) % ALL]);
	CHECK(err == 0 || err == -EBUSY || err == -EINVAL);
	if (!err) {
		atomic_fetch_add(&alarms, 1);
		atomic_fetch_sub(&left, 1);
	}
}

static void fill(struct registers *in, uint64_t number, uint64_t round)
{
	uint64_t *words = (uint64_t *)in;

	for (size_t i = 0; i < sizeof(*in) / sizeof(*words); i++)
		words[i] = number << 48 | round << 16 | i;
}

static void wander(uint64_t number)
{
	/* Vectors belong to fibers with the flag only; general registers to all. */
	long vectors = use_vectors && (number & 1);
	size_t kept = vectors ? sizeof(struct registers) : sizeof(uint64_t[6]);
	uint64_t seed = number;

	for (uint64_t round = 1; atomic_load(&left) > 0; round++) {
		struct registers in, out;
		long err;

		fill(&in, number, round);
		memset(&out, 0xee, sizeof(out));
		err = switch_with(ids[random_next(&seed) % ALL], &in, &out, vectors);
		CHECK(err == 0 || err == -EBUSY || err == -EINVAL);
		CHECK(memcmp(&in, &out, kept) == 0);
		/* Nobody else is in here: on this stack, with this number. */
		CHECK(!atomic_exchange(&inside[number], 1));
		if (!err)
			atomic_fetch_sub(&left, 1);
		atomic_store(&inside[number], 0);
	}
	atomic_fetch_add(&at_the_end, 1);
	for (;;)
		pause();
}

static void created(void *arg)
{
	wander((uintptr_t)arg);
}

static void *thread(void *arg)
{
	uint64_t number = (uintptr_t)arg;

	ids[number] = convert(number & 1 ? FIBER_FLAG_FPU : 0);
	pthread_barrier_wait(&barrier);
	wander(number);
	return NULL;
}

TEST(registers_survive_a_storm)
{
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	struct itimerval timer = { { 0, 500 }, { 0, 500 } };
	long switches = getenv("KFIBER_STRESS") ? 1000000 : 30000;
	uint64_t activations = 0;
	sigset_t blocked;

	use_vectors = __builtin_cpu_supports("avx2");
	atomic_store(&left, switches);
	convert(0);
	CHECK(sigaction(SIGALRM, &action, NULL) == 0);
	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	for (uintptr_t i = 0; i < CREATED; i++)
		ids[i] = create(created, (void *)i, i & 1 ? FIBER_FLAG_FPU : 0, NULL);
	for (uintptr_t i = CREATED; i < ALL; i++)
		thread_start_on_lasting_stack(thread, (void *)i);
	/* The alarms are for the others, once all are fibers. */
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGALRM);
	CHECK(pthread_sigmask(SIG_BLOCK, &blocked, NULL) == 0);
	pthread_barrier_wait(&barrier);
	CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
	while (atomic_load(&left) > 0)
		pause_briefly();
	timer = (struct itimerval) { 0 };
	CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
	WAIT_FOR(atomic_load(&at_the_end) >= THREADS);
	for (int i = 0; i < ALL; i++)
		activations += proc_number(ids[i], "Number of activations");
	CHECK(activations >= (uint64_t)switches);
	CHECK(atomic_load(&alarms) > 0);
	if (!use_vectors)
		skip("this CPU has no AVX2: all but the vectors was checked");
}

/*
 * Two threads, 1024 fibers, random targets, of which one is always running: who is in a fiber marks
 * it, so that two threads in one would see each other, and every result is in /proc.
 */
#define CROWD 1024
#define CROWD_THREADS 2

static struct member {
	uint64_t id;
	atomic_int occupied;
	atomic_long activations, failures;
} crowd[CROWD + CROWD_THREADS];

static void mingle(struct member *me)
{
	uint64_t seed = me->id;

	for (;;) {
		struct member *next = &crowd[random_next(&seed) % ARRAY_SIZE(crowd)];
		long err;

		CHECK(!atomic_exchange(&me->occupied, 1));
		if (atomic_fetch_sub(&left, 1) <= 0) {
			atomic_fetch_add(&at_the_end, 1);
			for (;;)
				pause();
		}
		/* Who comes next may resume this one before the result is known. */
		atomic_store(&me->occupied, 0);
		err = fiber_switch(next->id);
		CHECK(err == 0 || err == (next == me ? -EINVAL : -EBUSY));
		/* Counted by who arrives, or for who was not to be had. */
		atomic_fetch_add(err ? &next->failures : &me->activations, 1);
	}
}

static void mingle_created(void *arg)
{
	struct member *me = arg;

	atomic_fetch_add(&me->activations, 1);
	mingle(me);
}

static void *mingle_thread(void *arg)
{
	struct member *me = arg;

	me->id = convert(0);
	pthread_barrier_wait(&barrier);
	mingle(me);
	return NULL;
}

TEST(every_switch_of_a_crowd_is_counted)
{
	long attempts = getenv("KFIBER_STRESS") ? 2000000 : 50000;
	uint64_t activations = 0, failures = 0;

	atomic_store(&left, attempts);
	convert(0);
	pthread_barrier_init(&barrier, NULL, CROWD_THREADS);
	for (int i = 0; i < CROWD; i++)
		crowd[i].id = create(mingle_created, &crowd[i], 0, NULL);
	for (int i = CROWD; i < CROWD + CROWD_THREADS; i++)
		thread_start_on_lasting_stack(mingle_thread, &crowd[i]);
	while (atomic_load(&left) > 0)
		pause_briefly();
	WAIT_FOR(atomic_load(&at_the_end) == CROWD_THREADS);

	for (int i = 0; i < CROWD + CROWD_THREADS; i++) {
		uint64_t counted = (uint64_t)atomic_load(&crowd[i].activations);
		uint64_t failed = (uint64_t)atomic_load(&crowd[i].failures);

		CHECK_EQ(proc_number(crowd[i].id, "Number of activations"), counted);
		CHECK_EQ(proc_number(crowd[i].id, "Number of failed activations"), failed);
		activations += counted;
		failures += failed;
	}
	CHECK_EQ(activations + failures, (uint64_t)attempts);
}
