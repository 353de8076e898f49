/* SPDX-License-Identifier: MIT */
/* glibc's swapcontext(), which keeps the signal mask by a system call. */
#include <ucontext.h>

#include "stacks.h"

struct peer_fiber {
	ucontext_t context;
	char *stack;
};

static void peer_begin(struct peer_fiber *self)
{
	(void)self;
}

static int peer_create(struct peer_fiber *fiber)
{
	fiber->stack = stack_take();
	if (!fiber->stack || getcontext(&fiber->context))
		return -1;
	fiber->context.uc_stack.ss_sp = fiber->stack;
	fiber->context.uc_stack.ss_size = PEER_STACK;
	fiber->context.uc_link = NULL;
	makecontext(&fiber->context, peer_body, 0);
	return 0;
}

static inline void peer_delete(struct peer_fiber *fiber)
{
	stack_give(fiber->stack);
}

static inline void peer_switch(struct peer_fiber *from, struct peer_fiber *to)
{
	if (swapcontext(&from->context, &to->context))
		abort();
}

#include "measure.h"
