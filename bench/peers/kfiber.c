/* SPDX-License-Identifier: MIT */
/*
 * libfiber, by its public names alone. Which engine, KFIBER_ENGINE says. With -DPEER_RIVAL a second
 * thread is a fiber as well and sleeps, so that switches have to exclude it.
 */
#include <errno.h>
#include <fiber.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "peer.h"

struct peer_fiber {
	fiber_id_t id;
};

static void kfiber_body(void *unused)
{
	(void)unused;
	peer_body();
}

static void convert(fiber_id_t *id)
{
	int err = fiber_convert(0, id);

	if (err) {
		errno = err;
		perror("fiber_convert");
		exit(77);
	}
}

#ifdef PEER_RIVAL
static _Noreturn void *rival(void *ready)
{
	convert(NULL);
	pthread_barrier_wait((pthread_barrier_t *)ready);
	for (;;)
		pause();
}
#endif

static void peer_begin(struct peer_fiber *self)
{
#ifdef PEER_RIVAL
	pthread_barrier_t ready;
	pthread_t thread;

	pthread_barrier_init(&ready, NULL, 2);
	if (pthread_create(&thread, NULL, rival, &ready))
		abort();
	pthread_barrier_wait(&ready);
#endif
	convert(&self->id);
}

static int peer_create(struct peer_fiber *fiber)
{
	static const struct fiber_attr attr = { .size = sizeof(attr), .stack_size = PEER_STACK };

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
