/* SPDX-License-Identifier: MIT */
/* libco, on stacks as all others have. It keeps its words at the lowest address of the stack. */
#include <libco.h>

#include "stacks.h"

struct peer_fiber {
	cothread_t thread;
};

static void peer_begin(struct peer_fiber *self)
{
	self->thread = co_active();
}

static int peer_create(struct peer_fiber *fiber)
{
	char *stack = stack_take();

	if (!stack)
		return -1;
	fiber->thread = co_derive(stack, PEER_STACK, peer_body);
	return fiber->thread ? 0 : -1;
}

/* A libco thread's handle is the address of its memory. */
static inline void peer_delete(struct peer_fiber *fiber)
{
	stack_give(fiber->thread);
}

static inline void peer_switch(struct peer_fiber *from, struct peer_fiber *to)
{
	(void)from;
	co_switch(to->thread);
}

#include "measure.h"
