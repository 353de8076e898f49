// SPDX-License-Identifier: GPL-2.0-only
/*
 * Registers: the only file that knows the architecture.
 *
 * A thread inside SwitchToFiber has its user registers in pt_regs on its kernel
 * stack. Swapping what a called function preserves, and the stack and
 * instruction pointers, makes the return to user mode land in the other fiber:
 *
 *	saved and loaded	rip rsp rbp rbx r12 r13 r14 r15, MXCSR, x87 CW
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

#define FIBER_MXCSR_INIT	0x1f80
#define FIBER_FCW_INIT		0x37f

/* PKRU guards the thread's memory accesses, and tiles are too large to carry. */
#define FIBER_XFEATURES_NOT	(XFEATURE_MASK_PKRU | XFEATURE_MASK_XTILE)

/* An XSAVE area in the standard format, or an FXSAVE area on a CPU without. */
struct fiber_xstate {
	u8 area[0];
} __aligned(64);

static struct kmem_cache *xstate_cache;
static unsigned int xstate_size __ro_after_init;
static u64 xstate_mask __ro_after_init;	/* 0: no XSAVE */

int __init fiber_xstate_cache_init(void)
{
	xstate_size = sizeof(struct fxregs_state);
	if (boot_cpu_has(X86_FEATURE_OSXSAVE)) {
		unsigned int i;

		xstate_mask = xgetbv(XCR_XFEATURE_ENABLED_MASK) & ~FIBER_XFEATURES_NOT;
		xstate_size = sizeof(struct fxregs_state) + sizeof(struct xstate_header);
		for (i = 2; i < 63; i++) {
			u32 size, offset, ecx, edx;

			if (!(xstate_mask & BIT_ULL(i)))
				continue;
			cpuid_count(0xd, i, &size, &offset, &ecx, &edx);
			xstate_size = max(xstate_size, offset + size);
		}
	}
	xstate_cache = kmem_cache_create("fiber_xstate", xstate_size, 64, SLAB_ACCOUNT, NULL);
	return xstate_cache ? 0 : -ENOMEM;
}

void fiber_xstate_cache_exit(void)
{
	kmem_cache_destroy(xstate_cache);
}

static void xstate_reset(struct fiber_xstate *xstate)
{
	struct fxregs_state *fx = (struct fxregs_state *)xstate;

	/* An empty header means initial values; MXCSR and FXRSTOR read the area. */
	memset(xstate, 0, xstate_size);
	fx->cwd = FIBER_FCW_INIT;
	fx->mxcsr = FIBER_MXCSR_INIT;
}

static void xstate_save(struct fiber_xstate *xstate)
{
	if (xstate_mask)
		asm volatile("xsave64 (%0)"
			     : : "r" (xstate), "a" (lower_32_bits(xstate_mask)),
			       "d" (upper_32_bits(xstate_mask))
			     : "memory");
	else
		asm volatile("fxsave64 (%0)" : : "r" (xstate) : "memory");
}

/* The area holds only what xstate_save() or xstate_reset() put there. */
static void xstate_load(struct fiber_xstate *xstate)
{
	if (xstate_mask)
		asm volatile("xrstor64 (%0)"
			     : : "r" (xstate), "a" (lower_32_bits(xstate_mask)),
			       "d" (upper_32_bits(xstate_mask))
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

static void control_words_save(struct fiber_context *ctx)
{
	asm volatile("stmxcsr %0" : "=m" (ctx->mxcsr));
	asm volatile("fnstcw %0" : "=m" (ctx->fcw));
}

/* @now: the words in the registers */
static void control_words_load(const struct fiber_context *now, const struct fiber_context *ctx)
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
		switch_fpu_return();

	control_words_save(from);
	if (unlikely(from->xstate))
		xstate_save(from->xstate);
	if (unlikely(to->xstate))
		xstate_load(to->xstate);
	else
		control_words_load(from, to);
}
