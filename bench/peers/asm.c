/* SPDX-License-Identifier: MIT */
/*
 * Switches in assembly, written for this comparison: what the same work costs without a library
 * around it. That is no lower bound. On some processors the library's own switch is faster. With
 * -DASM_PLAIN the switch without accounting and owner.
 */
#include <stddef.h>
#include <string.h>

#include "asm.h"
#include "stacks.h"

_Static_assert(offsetof(struct peer_fiber, owner) == ASM_OWNER, "");
_Static_assert(offsetof(struct peer_fiber, sp) == ASM_SP, "");
_Static_assert(offsetof(struct peer_fiber, activations) == ASM_ACTIVATIONS, "");
_Static_assert(offsetof(struct peer_fiber, run_time) == ASM_RUN_TIME, "");

_Thread_local struct asm_thread asm_thread = { .number = 1 };

static void peer_begin(struct peer_fiber *self)
{
	self->owner = asm_thread.number;
	asm_thread.since = __builtin_ia32_rdtsc();
}

/* Enters with the stack as a call leaves it. The body never returns. */
static int peer_create(struct peer_fiber *fiber)
{
	char *stack = stack_take();
	uint64_t *top;

	if (!stack)
		return -1;
	top = (uint64_t *)(stack + PEER_STACK);
	/* Control words, six registers, where to go on, no return address. */
	top[-9] = 0x1f80 | (uint64_t)0x37f << 32;
	memset(&top[-8], 0, 6 * sizeof(*top));
	top[-2] = (uintptr_t)peer_body;
	top[-1] = 0;
	*fiber = (struct peer_fiber) { .sp = &top[-9], .stack = stack };
	return 0;
}

static inline void peer_delete(struct peer_fiber *fiber)
{
	stack_give(fiber->stack);
}

static inline void peer_switch(struct peer_fiber *from, struct peer_fiber *to)
{
#ifdef ASM_PLAIN
	asm_switch_plain(from, to);
#else
	if (asm_switch_full(from, to))
		abort();
#endif
}

#ifdef PEER_HINT
static inline void peer_hint(const struct peer_fiber *fiber)
{
	__builtin_prefetch(fiber, 1);
	/* What was saved, and what the caller of the switch goes on with. */
	__builtin_prefetch(fiber->sp, 1);
	__builtin_prefetch((char *)fiber->sp + 64, 1);
}
#endif

#include "measure.h"
