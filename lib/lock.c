/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>

#include "lock.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void lock_take(struct lock_state *state)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &state->mask);
	state->saved_errno = errno;
	pthread_mutex_lock(&mutex);
}

void lock_drop(const struct lock_state *state)
{
	pthread_mutex_unlock(&mutex);
	errno = state->saved_errno;
	pthread_sigmask(SIG_SETMASK, &state->mask, NULL);
}
