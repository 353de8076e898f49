/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Images of the FPU registers in memory, as XSAVE, XSAVEOPT, XSAVEC, XSAVES and
 * FXSAVE write them. These functions work on memory only. A user-mode test
 * compiles the same source file, so it includes no header but four simple ones.
 */
#ifndef FIBER_X86_XSTATE_H
#define FIBER_X86_XSTATE_H

#include <linux/compiler.h>
#include <linux/types.h>

#define FIBER_MXCSR_INIT	0x1f80
#define FIBER_FCW_INIT		0x37f

/* XSTATE components 0 to 62. Bit 63 of XCOMP_BV means the compacted format. */
#define FIBER_XSTATE_COMPONENTS	63
#define FIBER_XSTATE_X87	0
#define FIBER_XSTATE_SSE	1

/**
 * struct fiber_xstate - the part of an image that has the same place in each
 *	format; the components from 2 on follow
 * @x87: the x87 component but for @st
 * @xstate_bv: the components that the image holds. Each other one is in its
 *	initial state, whatever its place in the image contains.
 * @xcomp_bv: 0 in the standard format. In the compacted one the components that
 *	have a place in the image.
 *
 * FXSAVE writes the first 512 bytes only; there is no header.
 */
struct fiber_xstate {
	union {
		u16 fcw;
		u8 x87[24];
	};
	u32 mxcsr;
	u32 mxcsr_mask;
	u8 st[128];
	u8 xmm[256];
	u8 unused[96];
	u64 xstate_bv;
	u64 xcomp_bv;
	u64 reserved[6];
} __aligned(64);

/**
 * struct fiber_xstate_layout - what CPUID says about components
 * @mask: the components that a fiber carries; x87 and SSE are among them
 * @header: images have a header; false on a CPU that has FXSAVE only
 * @aligned: the components that begin at multiples of 64 in the compacted format
 * @offset: from the image's start in the standard format
 * @size: of each component that the CPU has, whether in @mask or not
 *
 * @aligned, @offset and @size begin to matter with component 2.
 */
struct fiber_xstate_layout {
	u64 mask;
	bool header;
	u64 aligned;
	u32 offset[FIBER_XSTATE_COMPONENTS];
	u32 size[FIBER_XSTATE_COMPONENTS];
};

u32 fiber_xstate_mxcsr(const struct fiber_xstate_layout *layout,
		       const struct fiber_xstate *image);
u16 fiber_xstate_fcw(const struct fiber_xstate_layout *layout,
		     const struct fiber_xstate *image);
void fiber_xstate_set_mxcsr(const struct fiber_xstate_layout *layout,
			    struct fiber_xstate *image, u32 mxcsr);
void fiber_xstate_set_fcw(const struct fiber_xstate_layout *layout,
			  struct fiber_xstate *image, u16 fcw);
void fiber_xstate_copy(const struct fiber_xstate_layout *layout,
		       struct fiber_xstate *to, const struct fiber_xstate *from);

#endif /* FIBER_X86_XSTATE_H */
