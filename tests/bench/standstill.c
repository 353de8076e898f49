/* SPDX-License-Identifier: MIT */
/* A peer whose fibers never run, which the measuring program has to notice. */
#include "bench/peers/peer.h"

struct peer_fiber {
	int unused;
};

static void peer_begin(struct peer_fiber *self)
{
	(void)self;
}

static int peer_create(struct peer_fiber *fiber)
{
	(void)fiber;
	return 0;
}

static inline void peer_delete(struct peer_fiber *fiber)
{
	(void)fiber;
}

static inline void peer_switch(struct peer_fiber *from, struct peer_fiber *to)
{
	(void)from;
	(void)to;
}

#include "bench/peers/measure.h"
