/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "checker.h"
#include "lock.h"
#include "sole.h"
#include "thread.h"

_Atomic uint32_t lock_word;

void lock_take(struct lock_state *state)
{
	uint32_t before = LOCK_FREE;

	state->busy = thread_busy();
	state->saved_errno = errno;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state->cancel);
	if (!atomic_compare_exchange_strong(&lock_word, &before, LOCK_TAKEN))
		while (atomic_exchange(&lock_word, LOCK_AWAITED) != LOCK_FREE)
			syscall(SYS_futex, &lock_word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG,
				LOCK_AWAITED, NULL);
	checker_lock(&lock_word);
	if (!thread_self()->number)
		sole_suspend();
}

void lock_drop(const struct lock_state *state)
{
	sole_resume();
	checker_unlock(&lock_word);
	if (atomic_exchange(&lock_word, LOCK_FREE) == LOCK_AWAITED)
		syscall(SYS_futex, &lock_word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
	errno = state->saved_errno;
	pthread_setcancelstate(state->cancel, NULL);
	thread_idle(state->busy);
}
