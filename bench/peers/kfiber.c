/* SPDX-License-Identifier: MIT */
/* libfiber, by its public names alone. Which engine, KFIBER_ENGINE says. */
#include <errno.h>
#include <fiber.h>
#include <stdio.h>
#include <stdlib.h>

#include "peer.h"

struct peer_fiber {
	fiber_id_t id;
};

static void kfiber_body(void *unused)
{
	(void)unused;
	peer_body();
}

static void peer_begin(struct peer_fiber *self)
{
	int err = fiber_convert(0, &self->id);

	if (err) {
		errno = err;
		perror("fiber_convert");
		exit(77);
	}
}

static int peer_create(struct peer_fiber *fiber)
{
	static const struct fiber_attr attr = { .stack_size = PEER_STACK };

	errno = fiber_create(&fiber->id, kfiber_body, NULL, &attr);
	return errno ? -1 : 0;
}

static inline void peer_delete(struct peer_fiber *fiber)
{
	if (fiber_delete(fiber->id))
		abort();
}

static inline void peer_switch(struct peer_fiber *from, struct peer_fiber *to)
{
	(void)from;
	if (fiber_switch(to->id))
		abort();
}

#ifdef PEER_HINT
static inline void peer_hint(const struct peer_fiber *fiber)
{
	fiber_prefetch(fiber->id);
}
#endif

#include "measure.h"
