/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lock.h"
#include "thread.h"

/* A word of its own, and not a mutex, because lock_wait() must see it. */
enum lock_word {
	LOCK_FREE,
	LOCK_TAKEN,
	LOCK_AWAITED,	/* taken, and somebody sleeps */
};

static _Atomic uint32_t word;

void lock_take(struct lock_state *state)
{
	uint32_t before = LOCK_FREE;

	state->busy = thread_busy();
	state->saved_errno = errno;
	if (atomic_compare_exchange_strong(&word, &before, LOCK_TAKEN))
		return;
	while (atomic_exchange(&word, LOCK_AWAITED) != LOCK_FREE)
		syscall(SYS_futex, &word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, LOCK_AWAITED, NULL);
}

void lock_drop(const struct lock_state *state)
{
	if (atomic_exchange(&word, LOCK_FREE) == LOCK_AWAITED)
		syscall(SYS_futex, &word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
	errno = state->saved_errno;
	thread_idle(state->busy);
}

void lock_wait(void)
{
	struct lock_state state;

	if (atomic_load_explicit(&word, memory_order_relaxed) == LOCK_FREE)
		return;
	lock_take(&state);
	lock_drop(&state);
}
