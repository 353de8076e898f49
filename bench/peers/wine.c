/* SPDX-License-Identifier: MIT */
/* Windows' fibers: by Wine, built by winegcc, with Wine's stacks; and by libfiber-windows. */
#include <windows.h>

#include "peer.h"

struct peer_fiber {
	void *fiber;
};

static void CALLBACK wine_body(void *unused)
{
	(void)unused;
	peer_body();
}

static void peer_begin(struct peer_fiber *self)
{
	self->fiber = ConvertThreadToFiber(NULL);
}

static int peer_create(struct peer_fiber *fiber)
{
	fiber->fiber = CreateFiberEx(0, PEER_STACK, 0, wine_body, NULL);
	return fiber->fiber ? 0 : -1;
}

static inline void peer_delete(struct peer_fiber *fiber)
{
	DeleteFiber(fiber->fiber);
}

static inline void peer_switch(struct peer_fiber *from, struct peer_fiber *to)
{
	(void)from;
	SwitchToFiber(to->fiber);
}

#include "measure.h"
