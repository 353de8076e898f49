// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads, writes and copies images of the FPU registers; see xstate.h.
 *
 * MXCSR belongs to the SSE component in the compacted format. In the standard
 * format XRSTOR loads it whether the image holds that component or not.
 */
#include <linux/bits.h>
#include <linux/string.h>
#include <linux/types.h>

#include "x86/xstate.h"

#define XCOMP_COMPACTED	BIT_ULL(63)

static bool is_compacted(const struct fiber_xstate_layout *layout,
			 const struct fiber_xstate *image)
{
	return layout->header && image->xcomp_bv & XCOMP_COMPACTED;
}

static bool holds(const struct fiber_xstate_layout *layout,
		  const struct fiber_xstate *image, unsigned int component)
{
	return !layout->header || image->xstate_bv & BIT_ULL(component);
}

/* The place of @component, from 2 on, from the image's start. */
static size_t component_offset(const struct fiber_xstate_layout *layout,
			       const struct fiber_xstate *image, unsigned int component)
{
	size_t offset = sizeof(*image);
	unsigned int i;

	if (!is_compacted(layout, image))
		return layout->offset[component];
	/* Every earlier component takes room, also one that no fiber carries. */
	for (i = 2; i <= component; i++) {
		if (!(image->xcomp_bv & BIT_ULL(i)))
			continue;
		if (layout->aligned & BIT_ULL(i))
			offset = (offset + 63) & ~(size_t)63;
		if (i < component)
			offset += layout->size[i];
	}
	return offset;
}

u32 fiber_xstate_mxcsr(const struct fiber_xstate_layout *layout,
		       const struct fiber_xstate *image)
{
	if (is_compacted(layout, image) && !holds(layout, image, FIBER_XSTATE_SSE))
		return FIBER_MXCSR_INIT;
	return image->mxcsr;
}

u16 fiber_xstate_fcw(const struct fiber_xstate_layout *layout,
		     const struct fiber_xstate *image)
{
	return holds(layout, image, FIBER_XSTATE_X87) ? image->fcw : FIBER_FCW_INIT;
}

/* @mxcsr: valid on this CPU. All other registers in the image stay as they are. */
void fiber_xstate_set_mxcsr(const struct fiber_xstate_layout *layout,
			    struct fiber_xstate *image, u32 mxcsr)
{
	if (is_compacted(layout, image) && !holds(layout, image, FIBER_XSTATE_SSE)) {
		if (mxcsr == FIBER_MXCSR_INIT)
			return;
		memset(image->xmm, 0, sizeof(image->xmm));
		image->xstate_bv |= BIT_ULL(FIBER_XSTATE_SSE);
	}
	image->mxcsr = mxcsr;
}

/* All other registers in the image stay as they are. */
void fiber_xstate_set_fcw(const struct fiber_xstate_layout *layout,
			  struct fiber_xstate *image, u16 fcw)
{
	if (!holds(layout, image, FIBER_XSTATE_X87)) {
		if (fcw == FIBER_FCW_INIT)
			return;
		memset(image->x87, 0, sizeof(image->x87));
		memset(image->st, 0, sizeof(image->st));
		image->xstate_bv |= BIT_ULL(FIBER_XSTATE_X87);
	}
	image->fcw = fcw;
}

static void component_copy(const struct fiber_xstate_layout *layout, unsigned int component,
			   struct fiber_xstate *to, const struct fiber_xstate *from)
{
	switch (component) {
	case FIBER_XSTATE_X87:
		memcpy(to->x87, from->x87, sizeof(to->x87));
		memcpy(to->st, from->st, sizeof(to->st));
		break;
	case FIBER_XSTATE_SSE:
		memcpy(to->xmm, from->xmm, sizeof(to->xmm));
		break;
	default:
		memcpy((u8 *)to + component_offset(layout, to, component),
		       (const u8 *)from + component_offset(layout, from, component),
		       layout->size[component]);
	}
}

/**
 * fiber_xstate_copy() - copy the components that a fiber carries
 * @layout: of both images
 * @to: keeps its format and its other components
 * @from: of either format
 *
 * A component that has no place in @to is in its initial state there afterwards.
 * No kernel is known that leaves out one of the mask.
 */
void fiber_xstate_copy(const struct fiber_xstate_layout *layout,
		       struct fiber_xstate *to, const struct fiber_xstate *from)
{
	u64 held = layout->mask;
	unsigned int i;

	if (layout->header) {
		held &= from->xstate_bv;
		if (is_compacted(layout, to))
			held &= to->xcomp_bv;
		to->xstate_bv = (to->xstate_bv & ~layout->mask) | held;
	}
	for (i = 0; i < FIBER_XSTATE_COMPONENTS; i++)
		if (held & BIT_ULL(i))
			component_copy(layout, i, to, from);
	fiber_xstate_set_mxcsr(layout, to, fiber_xstate_mxcsr(layout, from));
}
