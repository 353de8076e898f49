/* SPDX-License-Identifier: MIT */
/*
 * kmod/x86/xstate.c against this CPU's own XSAVE, XSAVEOPT, XSAVEC, FXSAVE,
 * XRSTOR and FXRSTOR, with random registers, components and formats.
 *
 * KFIBER_SEED chooses the random numbers; a failure prints the seed.
 */
#include <cpuid.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/bits.h>

#include "../harness.h"
#include "x86/xstate.h"

#define CASES 15000

#define X87	BIT_ULL(0)
#define SSE	BIT_ULL(1)
#define PKRU	BIT_ULL(9)
/* x87, SSE, AVX, AVX-512, PKRU and APX: any contents are valid, or can be made so. */
#define KNOWN	(X87 | SSE | BIT_ULL(2) | BIT_ULL(5) | BIT_ULL(6) | BIT_ULL(7) | PKRU | BIT_ULL(19))

#define AREA 8192

struct image {
	union {
		struct fiber_xstate xstate;
		uint8_t bytes[AREA];
	};
} __aligned(64);

enum format { STANDARD, OPTIMIZED, COMPACTED, FORMATS };

static struct fiber_xstate_layout layout;
/* The components of KNOWN that this CPU has. */
static uint64_t components;
static uint32_t mxcsr_mask;
static bool has_xsaveopt;
static uint64_t seed, random_state;
static unsigned int number;

__attribute__((noreturn, format(printf, 2, 3)))
static void case_failed(int line, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	check_failed(__FILE__, line, "%s; case %u, again by: KFIBER_SEED=%llu", text, number,
		     (unsigned long long)seed);
}

#define CASE_EQ(got, wanted)								\
	do {										\
		unsigned long long got_ = (got), wanted_ = (wanted);			\
		if (got_ != wanted_)							\
			case_failed(__LINE__, "%s is 0x%llx, not 0x%llx", #got, got_, wanted_); \
	} while (0)

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state * UINT64_C(0x2545f4914f6cdd1d);
}

static bool one_in(unsigned int count)
{
	return (random_next() >> 32) % count == 0;
}

static void random_fill(void *start, size_t size)
{
	uint8_t *bytes = start;

	for (size_t i = 0; i < size; i += 8) {
		uint64_t value = random_next();

		memcpy(bytes + i, &value, size - i < 8 ? size - i : 8);
	}
}

/* XRSTOR faults on a wrong image. The kernel has cleared the registers for us. */
static void on_fault(int signal_number)
{
	(void)signal_number;
	case_failed(__LINE__, "the CPU refused an image");
}

/* What the CPU does in one go, while its registers are not the compiler's. */
#define LOADS 3
struct job {
	struct image *load[LOADS];
	uint64_t load_mask[LOADS];
	uint64_t sets;
	struct image *save;
	uint64_t save_mask;
	uint64_t format;
	struct image *own;
	uint64_t own_mask;
	uint32_t mxcsr;
	uint32_t fcw;
	uint32_t got_mxcsr;
	uint32_t got_fcw;
	uint32_t env[7];
};

void job_run(struct job *job);
__asm__(".text\n"
	".type job_run, @function\n"
	"job_run:\n"
	"mov 88(%rdi), %eax\n mov 92(%rdi), %edx\n mov 80(%rdi), %rsi\n"
	"xsave64 (%rsi)\n"
	".irp i,0,1,2\n"
	"mov (8 * \\i)(%rdi), %rsi\n"
	"test %rsi, %rsi\n"
	"jz 1f\n"
	"mov (24 + 8 * \\i)(%rdi), %eax\n mov (28 + 8 * \\i)(%rdi), %edx\n"
	"xrstor64 (%rsi)\n"
	"1:\n"
	".endr\n"
	"cmpq $0, 48(%rdi)\n"
	"je 2f\n"
	"ldmxcsr 96(%rdi)\n"
	/* No exception that is pending hits us. */
	"fnstenv 112(%rdi)\n"
	"mov 100(%rdi), %ax\n mov %ax, 112(%rdi)\n"
	"fldenv 112(%rdi)\n"
	"2:\n"
	"stmxcsr 104(%rdi)\n"
	"fnstcw 108(%rdi)\n"
	"mov 56(%rdi), %rsi\n"
	"mov 64(%rdi), %eax\n mov 68(%rdi), %edx\n"
	"cmpq $1, 72(%rdi)\n"
	"jb 3f\n"
	"je 4f\n"
	"xsavec64 (%rsi)\n"
	"jmp 5f\n"
	"3: xsave64 (%rsi)\n"
	"jmp 5f\n"
	"4: xsaveopt64 (%rsi)\n"
	"5:\n"
	"mov 88(%rdi), %eax\n mov 92(%rdi), %edx\n mov 80(%rdi), %rsi\n"
	"xrstor64 (%rsi)\n"
	"ret\n"
	".size job_run, . - job_run\n");
_Static_assert(offsetof(struct job, load_mask) == 24 && offsetof(struct job, sets) == 48 &&
	       offsetof(struct job, save) == 56 && offsetof(struct job, format) == 72 &&
	       offsetof(struct job, own) == 80 && offsetof(struct job, mxcsr) == 96 &&
	       offsetof(struct job, env) == 112 && STANDARD == 0 && OPTIMIZED == 1,
	       "the assembly above knows it");

static void run(struct job job, struct job *result)
{
	static struct image own;

	job.own = &own;
	job.own_mask = components;
	job_run(&job);
	if (result)
		*result = job;
}

static void cpu_find(void)
{
	uint32_t a, b, c, d;
	struct sigaction action = { .sa_handler = on_fault };
	static struct image image;
	const char *text = getenv("KFIBER_SEED");

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1U << 27))
		skip("this CPU has no XSAVE");
	__cpuid_count(0xd, 1, a, b, c, d);
	if (!(a & 2))
		skip("this CPU has no XSAVEC");
	has_xsaveopt = a & 1;
	__asm__("xgetbv" : "=a" (a), "=d" (d) : "c" (0));
	components = ((uint64_t)d << 32 | a) & KNOWN;
	layout.header = true;
	for (unsigned int i = 2; i < FIBER_XSTATE_COMPONENTS; i++) {
		__cpuid_count(0xd, i, layout.size[i], layout.offset[i], c, d);
		if (c & 2)
			layout.aligned |= BIT_ULL(i);
		if (components & BIT_ULL(i))
			CHECK(layout.offset[i] + layout.size[i] <= AREA);
	}
	__asm__ volatile("fxsave64 %0" : "=m" (image));
	mxcsr_mask = image.xstate.mxcsr_mask ? image.xstate.mxcsr_mask : 0xffbf;

	seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) << 20 | (uint64_t)getpid();
	random_state = seed ? seed : 1;
	CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
}

static uint64_t random_components(uint64_t from)
{
	return random_next() & random_next() >> 7 & from;
}

/* x87 and SSE, as everywhere, and some more; not PKRU. */
static void random_layout(void)
{
	layout.mask = X87 | SSE | (one_in(3) ? components : random_next() & components);
	layout.mask &= ~PKRU;
}

static uint32_t random_mxcsr(void)
{
	return one_in(3) ? FIBER_MXCSR_INIT : (uint32_t)random_next() & mxcsr_mask;
}

static uint16_t random_fcw(void)
{
	return one_in(3) ? FIBER_FCW_INIT : (uint16_t)((random_next() & 0x1f3f) | 0x40);
}

/* Valid in the standard format, with random registers in random components. */
static void random_image(struct image *image)
{
	random_fill(image, sizeof(*image));
	image->xstate.fcw = random_fcw();
	image->xstate.mxcsr = random_mxcsr();
	image->xstate.xstate_bv = random_next() & components;
	if (one_in(4))
		image->xstate.xstate_bv = random_components(components);
	image->xstate.xcomp_bv = 0;
	memset(image->xstate.reserved, 0, sizeof(image->xstate.reserved));
	if (one_in(8)) {
		/* Initial values, although the image holds them. */
		memset(image->xstate.x87, 0, sizeof(image->xstate.x87));
		memset(image->xstate.st, 0, sizeof(image->xstate.st));
		memset(image->xstate.xmm, 0, sizeof(image->xstate.xmm));
		image->xstate.fcw = FIBER_FCW_INIT;
	}
	/* Key 0 guards our own memory. */
	if (components & PKRU)
		image->bytes[layout.offset[9]] &= 0xfc;
}

/* What the CPU writes of *registers, over garbage as in a place that was used before. */
static struct job save_as(struct image *registers, enum format format, uint64_t mask,
			  struct image *image)
{
	struct job result;

	random_fill(image, sizeof(*image));
	memset(&image->xstate.xstate_bv, 0, 64);
	run((struct job) {
		.load = { registers },
		.load_mask = { components },
		.save = image,
		.save_mask = mask,
		.format = format,
	}, &result);
	return result;
}

static enum format random_format(void)
{
	enum format format = (enum format)(random_next() % FORMATS);

	return format == OPTIMIZED && !has_xsaveopt ? STANDARD : format;
}

/* As the kernel's own image of a thread: at least the components of fibers. */
static struct job random_kernel_image(struct image *image, uint64_t *mask)
{
	static struct image registers;

	*mask = layout.mask | (random_next() & components);
	random_image(&registers);
	return save_as(&registers, random_format(), *mask, image);
}

/* All registers after *job, in a form to compare. */
static void registers_after(struct job job, struct image *registers)
{
	memset(registers, 0, sizeof(*registers));
	job.save = registers;
	job.save_mask = components;
	job.format = STANDARD;
	run(job, NULL);
	/* Which components are in their initial state is the CPU's to say. */
	registers->xstate.xstate_bv = 0;
}

static void compare(int line, const struct image *got, const struct image *wanted)
{
	for (size_t i = 0; i < sizeof(*got); i++)
		if (got->bytes[i] != wanted->bytes[i])
			case_failed(line, "byte %zu is 0x%x, not 0x%x; components 0x%llx", i,
				    got->bytes[i], wanted->bytes[i],
				    (unsigned long long)layout.mask);
}

#define COMPARE(got, wanted) compare(__LINE__, &(got), &(wanted))

TEST(control_registers_are_read)
{
	static struct image image;
	uint64_t mask;

	cpu_find();
	for (number = 0; number < CASES; number++) {
		struct job job;

		random_layout();
		job = random_kernel_image(&image, &mask);
		CASE_EQ(fiber_xstate_mxcsr(&layout, &image.xstate), job.got_mxcsr);
		CASE_EQ(fiber_xstate_fcw(&layout, &image.xstate), job.got_fcw);
	}
}

/* FNSTENV and FLDENV keep the low halves of the addresses only. */
static void halve_addresses(struct image *registers)
{
	memset(registers->xstate.x87 + 12, 0, 4);
	memset(registers->xstate.x87 + 20, 0, 4);
}

TEST(control_registers_are_written)
{
	static struct image before, image, others, got, wanted;
	uint64_t mask;

	cpu_find();
	for (number = 0; number < CASES; number++) {
		uint32_t mxcsr = random_mxcsr();
		uint16_t fcw = random_fcw();

		random_layout();
		random_kernel_image(&image, &mask);
		before = image;
		random_image(&others);

		fiber_xstate_set_mxcsr(&layout, &image.xstate, mxcsr);
		fiber_xstate_set_fcw(&layout, &image.xstate, fcw);
		CASE_EQ(fiber_xstate_mxcsr(&layout, &image.xstate), mxcsr);
		CASE_EQ(fiber_xstate_fcw(&layout, &image.xstate), fcw);

		registers_after((struct job) {
			.load = { &others, &image },
			.load_mask = { components, mask },
		}, &got);
		registers_after((struct job) {
			.load = { &others, &before },
			.load_mask = { components, mask },
			.sets = 1,
			.mxcsr = mxcsr,
			.fcw = fcw,
		}, &wanted);
		halve_addresses(&got);
		halve_addresses(&wanted);
		COMPARE(got, wanted);
	}
}

/* What a fiber with FIBER_FLAG_FPU takes along. */
TEST(components_are_copied_out_of_the_kernel_image)
{
	static struct image image, own, others, got, wanted;
	uint64_t mask;

	cpu_find();
	for (number = 0; number < CASES; number++) {
		random_layout();
		random_kernel_image(&image, &mask);
		random_image(&others);
		random_image(&own);
		own.xstate.xstate_bv &= layout.mask;

		fiber_xstate_copy(&layout, &own.xstate, &image.xstate);
		registers_after((struct job) {
			.load = { &others, &own },
			.load_mask = { components, layout.mask },
		}, &got);
		registers_after((struct job) {
			.load = { &others, &image },
			.load_mask = { components, layout.mask },
		}, &wanted);
		COMPARE(got, wanted);
	}
}

TEST(components_are_copied_into_the_kernel_image)
{
	static struct image before, image, own, others, got, wanted;
	uint64_t mask;

	cpu_find();
	for (number = 0; number < CASES; number++) {
		random_layout();
		random_kernel_image(&image, &mask);
		before = image;
		random_image(&others);
		random_image(&own);
		own.xstate.xstate_bv &= layout.mask;
		if (one_in(2)) {
			/* As the CPU left it when the fiber was suspended in registers. */
			static struct image registers;

			registers = own;
			save_as(&registers, STANDARD, layout.mask, &own);
		}

		fiber_xstate_copy(&layout, &image.xstate, &own.xstate);
		registers_after((struct job) {
			.load = { &others, &image },
			.load_mask = { components, mask },
		}, &got);
		registers_after((struct job) {
			.load = { &others, &before, &own },
			.load_mask = { components, mask, layout.mask },
		}, &wanted);
		COMPARE(got, wanted);
	}
}

/* XRSTOR takes no supervisor state in user mode, so this CPU is made up. */
TEST(supervisor_components_take_room)
{
	static const struct fiber_xstate_layout made_up = {
		.header = true,
		.mask = X87 | SSE | BIT_ULL(2) | BIT_ULL(19),
		.aligned = BIT_ULL(17),
		.size = { [2] = 256, [8] = 128, [9] = 8, [11] = 16, [12] = 24, [17] = 64,
			  [19] = 128 },
		.offset = { [2] = 576, [9] = 2688, [17] = 2752, [19] = 960 },
	};
	/* AVX ends at 832, PT at 960, PKRU at 968, CET at 984 and 1008, tiles at 1088. */
	const size_t apx = 1088, end = 1216;
	static struct image kernel, before, own, wanted;

	seed = random_state = 1;
	random_fill(&kernel, sizeof(kernel));
	memset(&kernel.xstate.xstate_bv, 0, 64);
	kernel.xstate.xcomp_bv = BIT_ULL(63) | X87 | SSE | BIT_ULL(2) | BIT_ULL(8) | PKRU |
				 BIT_ULL(11) | BIT_ULL(12) | BIT_ULL(17) | BIT_ULL(19);
	kernel.xstate.xstate_bv = kernel.xstate.xcomp_bv & ~BIT_ULL(63);
	before = kernel;

	memset(&own, 0x55, sizeof(own));
	memset(&own.xstate.xstate_bv, 0, 64);
	fiber_xstate_copy(&made_up, &own.xstate, &kernel.xstate);
	COMPARE(kernel, before);
	CASE_EQ(own.xstate.xstate_bv, made_up.mask);
	CASE_EQ(own.xstate.xcomp_bv, 0);
	CHECK(memcmp(own.bytes + 576, kernel.bytes + 576, 256) == 0);
	CHECK(memcmp(own.bytes + 960, kernel.bytes + apx, 128) == 0);

	/* Back, changed: nothing but those two components and the header changes. */
	memset(own.bytes + 576, 0x11, 256);
	memset(own.bytes + 960, 0x22, 128);
	wanted = before;
	memset(wanted.bytes + 576, 0x11, 256);
	memset(wanted.bytes + apx, 0x22, end - apx);
	fiber_xstate_copy(&made_up, &kernel.xstate, &own.xstate);
	COMPARE(kernel, wanted);

	/* Initial states of a fiber leave the bits of all others alone. */
	own.xstate.xstate_bv = 0;
	own.xstate.mxcsr = FIBER_MXCSR_INIT;
	wanted.xstate.xstate_bv &= ~made_up.mask;
	fiber_xstate_copy(&made_up, &kernel.xstate, &own.xstate);
	COMPARE(kernel, wanted);

	/* No place, no bit: XRSTOR would fault. */
	own.xstate.xstate_bv = made_up.mask;
	kernel.xstate.xcomp_bv &= ~BIT_ULL(19);
	wanted = kernel;
	fiber_xstate_copy(&made_up, &kernel.xstate, &own.xstate);
	CASE_EQ(kernel.xstate.xstate_bv & ~kernel.xstate.xcomp_bv, 0);
	CHECK(memcmp(kernel.bytes + 832, wanted.bytes + 832, sizeof(kernel) - 832) == 0);
}

/* A CPU without XSAVE: 512 bytes and no header, so what follows is not looked at. */
TEST(images_of_fxsave)
{
	static struct image registers, image, before, own, got, wanted, saved;

	cpu_find();
	layout.header = false;
	layout.mask = X87 | SSE;
	for (number = 0; number < CASES; number++) {
		uint32_t mxcsr = random_mxcsr();
		uint16_t fcw = random_fcw();

		random_image(&registers);
		random_fill(&image, sizeof(image));
		__asm__ volatile("fxsave64 %0\n\tfxrstor64 %2\n\tfxsave64 %1\n\tfxrstor64 %0"
				 : "+m" (saved), "+m" (image)
				 : "m" (registers) : "memory");
		before = image;
		CASE_EQ(fiber_xstate_mxcsr(&layout, &image.xstate), registers.xstate.mxcsr);
		CASE_EQ(fiber_xstate_fcw(&layout, &image.xstate), registers.xstate.fcw);
		fiber_xstate_set_mxcsr(&layout, &image.xstate, mxcsr);
		fiber_xstate_set_fcw(&layout, &image.xstate, fcw);
		wanted = before;
		wanted.xstate.mxcsr = mxcsr;
		wanted.xstate.fcw = fcw;
		COMPARE(image, wanted);

		random_fill(&own, sizeof(own));
		got = own;
		fiber_xstate_copy(&layout, &own.xstate, &image.xstate);
		CHECK(memcmp(own.xstate.x87, image.xstate.x87, 28) == 0);
		CHECK(memcmp(own.xstate.st, image.xstate.st, 128 + 256) == 0);
		CHECK(memcmp(own.bytes + 416, got.bytes + 416, sizeof(own) - 416) == 0);
	}
}
