/* SPDX-License-Identifier: MIT */
#include "lock.h"

pthread_mutex_t windows_lock = PTHREAD_MUTEX_INITIALIZER;

/* Over a fork(): the child's copy of what it guards is whole. */
static void fork_prepare(void)
{
	pthread_mutex_lock(&windows_lock);
}

static void fork_end(void)
{
	pthread_mutex_unlock(&windows_lock);
}

/* As early as libfiber's, which says why. */
__attribute__((constructor(101))) static void fork_watch(void)
{
	pthread_atfork(fork_prepare, fork_end, fork_end);
}
