// SPDX-License-Identifier: GPL-2.0-only
/*
 * Registers: the only file that knows the architecture.
 *
 * A thread inside SwitchToFiber has its user registers in pt_regs on its kernel
 * stack. Swapping what a called function preserves, and the stack and
 * instruction pointers, makes the return to user mode land in the other fiber:
 *
 *	saved and loaded	rip rsp rbp rbx r12-r15, FP control registers
 *	with FIBER_FLAG_FPU	all that XSAVE covers but PKRU and AMX tiles
 *	loaded			rdi, for the first entry
 *	the thread's		fs and gs bases, PKRU, rflags, segments
 *	lost			rax (the result) rcx rdx rsi r8 r9 r10 r11
 *
 * rcx becomes rip, and rflags, r11 and the segments stay, so that the kernel
 * can leave by SYSRET.
 */
#include <linux/kernel.h>
#include <linux/sched.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>
#include <asm/cpufeature.h>
#include <asm/fpu/api.h>
#include <asm/fpu/types.h>
#include <asm/fpu/xcr.h>
#include <asm/processor.h>
#include <asm/ptrace.h>

#include "compat.h"
#include "x86/context.h"
#include "x86/xstate.h"

/* PKRU guards the thread's memory accesses, and tiles are too large to carry. */
#define FIBER_XFEATURES_NOT	(XFEATURE_MASK_PKRU | XFEATURE_MASK_XTILE)

static struct kmem_cache *xstate_cache;
static unsigned int xstate_size __ro_after_init;
static struct fiber_xstate_layout xstate_layout __ro_after_init;

static void __init layout_init(struct fiber_xstate_layout *layout)
{
	unsigned int i;

	layout->mask = XFEATURE_MASK_FPSSE;
	layout->header = boot_cpu_has(X86_FEATURE_OSXSAVE);
	if (!layout->header)
		return;
	layout->mask = xgetbv(XCR_XFEATURE_ENABLED_MASK) & ~FIBER_XFEATURES_NOT;
	/* All components: each that the kernel saves takes room in its images. */
	for (i = 2; i < FIBER_XSTATE_COMPONENTS; i++) {
		u32 edx, flags;

		cpuid_count(0xd, i, &layout->size[i], &layout->offset[i], &flags, &edx);
		if (flags & BIT(1))
			layout->aligned |= BIT_ULL(i);
	}
}

int __init fiber_xstate_cache_init(void)
{
	unsigned int i;

	BUILD_BUG_ON(offsetof(struct fiber_xstate, mxcsr) !=
		     offsetof(struct xregs_state, i387.mxcsr));
	BUILD_BUG_ON(offsetof(struct fiber_xstate, st) !=
		     offsetof(struct xregs_state, i387.st_space));
	BUILD_BUG_ON(offsetof(struct fiber_xstate, xmm) !=
		     offsetof(struct xregs_state, i387.xmm_space));
	BUILD_BUG_ON(offsetof(struct fiber_xstate, xstate_bv) !=
		     offsetof(struct xregs_state, header));
	BUILD_BUG_ON(sizeof(struct fiber_xstate) != sizeof(struct xregs_state));

	layout_init(&xstate_layout);
	xstate_size = sizeof(struct fiber_xstate);
	for (i = 2; i < FIBER_XSTATE_COMPONENTS; i++)
		if (xstate_layout.mask & BIT_ULL(i))
			xstate_size = max(xstate_size,
					  xstate_layout.offset[i] + xstate_layout.size[i]);
	xstate_cache = kmem_cache_create("fiber_xstate", xstate_size, 64, SLAB_ACCOUNT, NULL);
	return xstate_cache ? 0 : -ENOMEM;
}

void fiber_xstate_cache_exit(void)
{
	kmem_cache_destroy(xstate_cache);
}

static void xstate_reset(struct fiber_xstate *xstate)
{
	/*
	 * An empty header means initial values. XRSTOR reads MXCSR all the same, and
	 * FXRSTOR reads everything.
	 */
	memset(xstate, 0, xstate_size);
	xstate->fcw = FIBER_FCW_INIT;
	xstate->mxcsr = FIBER_MXCSR_INIT;
}

static void xstate_save(struct fiber_xstate *xstate)
{
	if (likely(xstate_layout.header))
		asm volatile("xsave64 (%0)"
			     : : "r" (xstate), "a" (lower_32_bits(xstate_layout.mask)),
			       "d" (upper_32_bits(xstate_layout.mask))
			     : "memory");
	else
		asm volatile("fxsave64 (%0)" : : "r" (xstate) : "memory");
}

/* The CPU or the kernel wrote the contents, or xstate_reset(): XRSTOR cannot fault. */
static void xstate_load(struct fiber_xstate *xstate)
{
	if (likely(xstate_layout.header))
		asm volatile("xrstor64 (%0)"
			     : : "r" (xstate), "a" (lower_32_bits(xstate_layout.mask)),
			       "d" (upper_32_bits(xstate_layout.mask))
			     : "memory");
	else
		asm volatile("fxrstor64 (%0)" : : "r" (xstate) : "memory");
}

/*
 * FLDCW faults, here in the kernel, where user mode left an unmasked exception
 * pending. FNSTENV masks them all and FLDENV does not wait, so this cannot; a
 * pending exception then hits the next x87 instruction in user mode, as it
 * should. Rare, and its frame is not for every switch.
 */
static noinline void load_fcw(u16 fcw)
{
	u32 env[7];

	asm volatile("fnstenv %0" : "=m" (env));
	env[0] = (env[0] & ~0xffffU) | fcw;
	asm volatile("fldenv %0" : : "m" (env));
}

static void control_registers_save(struct fiber_context *ctx)
{
	asm volatile("stmxcsr %0" : "=m" (ctx->mxcsr));
	asm volatile("fnstcw %0" : "=m" (ctx->fcw));
}

/* @now: what the registers contain */
static void control_registers_load(const struct fiber_context *now,
				   const struct fiber_context *ctx)
{
	if (unlikely(now->mxcsr != ctx->mxcsr))
		asm volatile("ldmxcsr %0" : : "m" (ctx->mxcsr));
	if (unlikely(now->fcw != ctx->fcw))
		load_fcw(ctx->fcw);
}

/* Bytes that fiber_context_init() allocates. */
size_t fiber_context_bytes(bool fpu)
{
	return fpu ? xstate_size : 0;
}

/* @fpu: the fiber has FIBER_FLAG_FPU. -ENOMEM. */
int fiber_context_init(bool fpu, struct fiber_context *ctx)
{
	memset(ctx, 0, sizeof(*ctx));
	if (!fpu)
		return 0;
	ctx->xstate = kmem_cache_alloc(xstate_cache, GFP_KERNEL);
	if (!ctx->xstate)
		return -ENOMEM;
	/* XSAVE writes part of the header only, and XRSTOR faults on a wrong one. */
	xstate_reset(ctx->xstate);
	return 0;
}

void fiber_context_destroy(struct fiber_context *ctx)
{
	if (ctx->xstate)
		kmem_cache_free(xstate_cache, ctx->xstate);
}

/* As it is before the first instruction. */
void fiber_context_reset(struct fiber_context *ctx, unsigned long entry,
			 unsigned long arg, unsigned long sp)
{
	struct fiber_xstate *xstate = ctx->xstate;

	*ctx = (struct fiber_context) {
		.ip = entry,
		.sp = sp,
		.di = arg,
		.mxcsr = FIBER_MXCSR_INIT,
		.fcw = FIBER_FCW_INIT,
		.xstate = xstate,
	};
	if (xstate)
		xstate_reset(xstate);
}

static void fpu_switch_in_registers(struct fiber_context *from, const struct fiber_context *to)
{
	control_registers_save(from);
	if (unlikely(from->xstate))
		xstate_save(from->xstate);
	if (unlikely(to->xstate))
		xstate_load(to->xstate);
	else
		control_registers_load(from, to);
}

/*
 * The thread was scheduled out since it entered the kernel. The kernel loads its
 * image into the registers before the return to user mode.
 */
static noinline void fpu_switch_in_memory(struct fiber_context *from,
					  const struct fiber_context *to)
{
	struct fpu *fpu = fiber_task_fpu(current);
	struct fiber_xstate *image = (struct fiber_xstate *)&fpu->fpstate->regs;

	from->mxcsr = fiber_xstate_mxcsr(&xstate_layout, image);
	from->fcw = fiber_xstate_fcw(&xstate_layout, image);
	if (from->xstate)
		fiber_xstate_copy(&xstate_layout, from->xstate, image);
	if (to->xstate) {
		fiber_xstate_copy(&xstate_layout, image, to->xstate);
	} else {
		fiber_xstate_set_mxcsr(&xstate_layout, image, to->mxcsr);
		fiber_xstate_set_fcw(&xstate_layout, image, to->fcw);
	}
	/* Otherwise the kernel may find the image unchanged in a CPU's registers. */
	fpu->last_cpu = -1;
}

/*
 * Interrupts are off: neither a context switch nor a softirq may move the FPU
 * registers to memory meanwhile.
 */
void fiber_context_switch(struct fiber_context *from, struct fiber_context *to)
{
	struct pt_regs *regs = current_pt_regs();

	from->bx = regs->bx;
	from->bp = regs->bp;
	from->r12 = regs->r12;
	from->r13 = regs->r13;
	from->r14 = regs->r14;
	from->r15 = regs->r15;
	from->sp = regs->sp;
	from->ip = regs->ip;

	regs->bx = to->bx;
	regs->bp = to->bp;
	regs->r12 = to->r12;
	regs->r13 = to->r13;
	regs->r14 = to->r14;
	regs->r15 = to->r15;
	regs->sp = to->sp;
	regs->di = to->di;
	regs->ip = to->ip;
	regs->cx = to->ip;

	if (unlikely(test_thread_flag(TIF_NEED_FPU_LOAD)))
		fpu_switch_in_memory(from, to);
	else
		fpu_switch_in_registers(from, to);
}
