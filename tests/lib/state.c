/* SPDX-License-Identifier: MIT */
/*
 * What the processor keeps for a fiber: registers that calls preserve, control
 * words, and under FIBER_FPU all of the vector state.
 */
#include <fcntl.h>
#include <immintrin.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "check.h"
#include "uapi/fiber.h"

static fiber_id_t home;
static int visits;

/*
 * Loads rbx, rbp and r12 to r15 with six values, switches, and stores what is in
 * them afterwards.
 */
int switch_with_registers(fiber_id_t id, uint64_t value[6]);
__asm__(
	".pushsection .text\n"
	"switch_with_registers:\n\t"
	"push %rbx\n\t"
	"push %rbp\n\t"
	"push %r12\n\t"
	"push %r13\n\t"
	"push %r14\n\t"
	"push %r15\n\t"
	"push %rsi\n\t"		/* and the stack is aligned for the call */
	"mov 0(%rsi), %rbx\n\t"
	"mov 8(%rsi), %rbp\n\t"
	"mov 16(%rsi), %r12\n\t"
	"mov 24(%rsi), %r13\n\t"
	"mov 32(%rsi), %r14\n\t"
	"mov 40(%rsi), %r15\n\t"
	"call fiber_switch@PLT\n\t"
	"pop %rsi\n\t"
	"mov %rbx, 0(%rsi)\n\t"
	"mov %rbp, 8(%rsi)\n\t"
	"mov %r12, 16(%rsi)\n\t"
	"mov %r13, 24(%rsi)\n\t"
	"mov %r14, 32(%rsi)\n\t"
	"mov %r15, 40(%rsi)\n\t"
	"pop %r15\n\t"
	"pop %r14\n\t"
	"pop %r13\n\t"
	"pop %r12\n\t"
	"pop %rbp\n\t"
	"pop %rbx\n\t"
	"ret\n"
	".popsection");

static void fill(uint64_t value[6], uint64_t seed)
{
	int i;

	for (i = 0; i < 6; i++)
		value[i] = seed * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)i;
}

static void keeps_registers(void *arg)
{
	uint64_t set[6], got[6], round;

	for (round = 0;; round++) {
		fill(set, (uintptr_t)arg * 1000 + round);
		memcpy(got, set, sizeof(got));
		CHECK(switch_with_registers(home, got) == 0);
		CHECK(!memcmp(set, got, sizeof(got)));
		visits++;
	}
}

TEST(preserved_registers)
{
	uint64_t set[6], got[6];
	fiber_id_t id[3];
	int i;

	CHECK_OK(fiber_convert(0, &home));
	for (i = 0; i < 3; i++)
		CHECK_OK(fiber_create(&id[i], keeps_registers, (void *)(intptr_t)(i + 1), NULL));
	for (i = 0; i < 300; i++) {
		fill(set, (uint64_t)i + 1000000);
		memcpy(got, set, sizeof(got));
		CHECK(switch_with_registers(id[i % 3], got) == 0);
		CHECK(!memcmp(set, got, sizeof(got)));
	}
	CHECK(visits == 297);
}

#define MXCSR_CREATOR 0x3f80
#define MXCSR_ROUND_UP 0x5f80
#define MXCSR_FLUSH 0x9f80
#define X87_CREATOR 0xb7f
#define X87_SINGLE 0x07f
#define X87_ROUND_DOWN 0x77f

static unsigned int x87(void)
{
	uint16_t word;

	__asm__ volatile("fnstcw %0" : "=m"(word));
	return word;
}

static void set_x87(uint16_t word)
{
	__asm__ volatile("fldcw %0" : : "m"(word));
}

#define MXCSR_CONTROL (~0x3fu)	/* the rest are flags, which calls do not preserve */

static void keeps_control_words(void *arg)
{
	unsigned int mxcsr = arg ? MXCSR_FLUSH : MXCSR_ROUND_UP;
	uint16_t word = arg ? X87_SINGLE : X87_ROUND_DOWN;

	CHECK((_mm_getcsr() & MXCSR_CONTROL) == MXCSR_CREATOR);
	CHECK(x87() == X87_CREATOR);
	_mm_setcsr(mxcsr);
	set_x87(word);
	for (;;) {
		CHECK_OK(fiber_switch(home));
		CHECK((_mm_getcsr() & MXCSR_CONTROL) == mxcsr);
		CHECK(x87() == word);
		visits++;
	}
}

static void try_control_words(unsigned int mine, unsigned int first, unsigned int second)
{
	struct fiber_attr attr = FIBER_ATTR_INIT;
	fiber_id_t id[2];
	int i;

	CHECK_OK(fiber_convert(mine, &home));
	_mm_setcsr(MXCSR_CREATOR);
	set_x87(X87_CREATOR);
	attr.flags = first;
	CHECK_OK(fiber_create(&id[0], keeps_control_words, NULL, &attr));
	attr.flags = second;
	CHECK_OK(fiber_create(&id[1], keeps_control_words, &visits, &attr));
	for (i = 0; i < 100; i++) {
		CHECK_OK(fiber_switch(id[i % 2]));
		CHECK((_mm_getcsr() & MXCSR_CONTROL) == MXCSR_CREATOR);
		CHECK(x87() == X87_CREATOR);
	}
	CHECK(visits == 98);
}

TEST(control_words)
{
	try_control_words(0, 0, 0);
}

TEST(control_words_with_fpu)
{
	try_control_words(FIBER_FPU, FIBER_FPU, FIBER_FPU);
}

TEST(control_words_with_and_without_fpu)
{
	try_control_words(0, FIBER_FPU, 0);
}

TEST(control_words_without_and_with_fpu)
{
	try_control_words(FIBER_FPU, 0, FIBER_FPU);
}

/*
 * All sixteen ymm registers over one request of the module. Not by
 * fiber_switch(): the calling convention lets that one use them.
 */
static int device;

struct vectors {
	uint8_t ymm[16][32];
};

#define LOAD(n) "vmovdqu 32*" #n "(%rcx), %ymm" #n "\n\t"
#define STORE(n) "vmovdqu %ymm" #n ", 32*" #n "(%rbx)\n\t"
#define ALL(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)

long switch_with_vectors(int file, unsigned long number, fiber_id_t id, struct vectors *vectors);
__asm__(
	".pushsection .text\n"
	"switch_with_vectors:\n\t"
	"push %rbx\n\t"
	"mov %rcx, %rbx\n\t"
	ALL(LOAD)
	"mov $16, %eax\n\t"	/* __NR_ioctl */
	"syscall\n\t"
	ALL(STORE)
	"vzeroupper\n\t"
	"pop %rbx\n\t"
	"ret\n"
	".popsection");

static long switch_and_store(fiber_id_t id, struct vectors *vectors)
{
	return switch_with_vectors(device, FIBER_IOC_SWITCH, id, vectors);
}

static void fill_vectors(struct vectors *vectors, unsigned int seed)
{
	unsigned int i;

	for (i = 0; i < sizeof(*vectors); i++)
		((uint8_t *)vectors)[i] = (uint8_t)((seed + i) * 167 >> 3);
}

static void keeps_vectors(void *arg)
{
	unsigned int round, seed = (unsigned int)(uintptr_t)arg;
	struct vectors set, got;

	/* The library begins a fiber, and from here on the test switches by itself. */
	CHECK_OK(fiber_switch(home));
	for (round = 0;; round++) {
		fill_vectors(&set, seed + 31 * round);
		got = set;
		CHECK(switch_and_store(home, &got) == 0);
		CHECK(!memcmp(&set, &got, sizeof(set)));
		visits++;
	}
}

TEST(avx_with_fpu)
{
	struct fiber_attr attr = { .size = sizeof(attr), .flags = FIBER_FPU };
	struct vectors set, got;
	fiber_id_t id[3];
	int i;

	if (!__builtin_cpu_supports("avx"))
		check_skip("the processor has no AVX");
	only_on("kernel", "its switch is a call, which loses these registers");
	CHECK_OK(fiber_convert(FIBER_FPU, &home));
	device = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);
	CHECK(device >= 0);
	for (i = 0; i < 3; i++) {
		CHECK_OK(fiber_create(&id[i], keeps_vectors, (void *)(intptr_t)(i * 77 + 1),
				      &attr));
		CHECK_OK(fiber_switch(id[i]));
	}
	for (i = 0; i < 300; i++) {
		fill_vectors(&set, 5000 + (unsigned int)i);
		got = set;
		CHECK(switch_and_store(id[i % 3], &got) == 0);
		CHECK(!memcmp(&set, &got, sizeof(set)));
	}
	CHECK(visits == 297);
}
