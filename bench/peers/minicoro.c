/* SPDX-License-Identifier: MIT */
/*
 * minicoro, whose coroutines only return to whoever resumed them: a switch from one to another is a
 * yield to the thread and a resume of the other one.
 */
#define MINICORO_IMPL
#define MCO_NO_DEBUG
#include <minicoro.h>

#include "peer.h"

struct peer_fiber {
	mco_coro *coroutine;	/* NULL: the thread */
};

/* Whom the thread resumes next; NULL: it goes on itself. */
static struct peer_fiber *resume_next;

static void minicoro_body(mco_coro *unused)
{
	(void)unused;
	peer_body();
}

static void peer_begin(struct peer_fiber *self)
{
	self->coroutine = NULL;
}

static int peer_create(struct peer_fiber *fiber)
{
	mco_desc desc = mco_desc_init(minicoro_body, PEER_STACK);

	return mco_create(&fiber->coroutine, &desc) == MCO_SUCCESS ? 0 : -1;
}

static inline void peer_delete(struct peer_fiber *fiber)
{
	mco_destroy(fiber->coroutine);
}

static inline void peer_switch(struct peer_fiber *from, struct peer_fiber *to)
{
	resume_next = to->coroutine ? to : NULL;
	if (from->coroutine) {
		mco_yield(from->coroutine);
		return;
	}
	while (resume_next)
		mco_resume(resume_next->coroutine);
}

#include "measure.h"
