/* SPDX-License-Identifier: GPL-2.0-only */
/* What of the CPU belongs to a fiber while no thread runs it. */
#ifndef FIBER_X86_CONTEXT_H
#define FIBER_X86_CONTEXT_H

#include <linux/types.h>

struct fiber_xstate;

/**
 * struct fiber_context - the saved user registers of a fiber
 * @ip, @sp, @bp, @bx, @r12, @r13, @r14, @r15: what a called function preserves
 * @di: first argument of the entry point. Loaded at every switch, since a
 *      resumed fiber has declared rdi lost.
 * @mxcsr, @fcw: the FP control registers, meaningful if @xstate is NULL
 * @xstate: the whole FPU state of a fiber with FIBER_FLAG_FPU, owned by the
 *      context, else NULL
 *
 * Only the fiber's owner touches it.
 */
struct fiber_context {
	unsigned long ip, sp, bp, bx, r12, r13, r14, r15;
	unsigned long di;
	u32 mxcsr;
	u16 fcw;
	struct fiber_xstate *xstate;
};

size_t fiber_context_bytes(bool fpu);
int fiber_context_init(bool fpu, struct fiber_context *ctx);
void fiber_context_destroy(struct fiber_context *ctx);
void fiber_context_reset(struct fiber_context *ctx, unsigned long entry,
			 unsigned long arg, unsigned long sp);
void fiber_context_switch(struct fiber_context *from, struct fiber_context *to);

int fiber_xstate_cache_init(void);
void fiber_xstate_cache_exit(void);

#endif /* FIBER_X86_CONTEXT_H */
