/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <linux/membarrier.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#else
#define __libc_single_threaded false
#endif

#include "checker.h"
#include "fiber_cb.h"
#include "sole.h"
#include "table.h"

_Atomic uint32_t sole;

/* Under the lock, as all here. Threads that vanished count until somebody notices. */
static unsigned int threads;

/* Whether there may be a sole thread, which must be able to be told. */
static enum { UNKNOWN, FORBIDDEN, ALLOWED } barriers;

static int membarrier(int command)
{
	return (int)syscall(SYS_membarrier, command, 0, 0);
}

/*
 * Old kernels have none, and a sandbox may forbid it. To register costs nothing while the
 * process has one thread, and 10 ms later, so then it waits for the first barrier.
 */
static bool barriers_work(void)
{
	int commands = membarrier(MEMBARRIER_CMD_QUERY);

	if (commands < 0 || !(commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED))
		return false;
	return !__libc_single_threaded || !membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
}

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec) { .tv_nsec = ms * 1000000 }, NULL);
}

static void barrier(void)
{
	if (!membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED))
		return;
	if (!membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) &&
	    !membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED))
		return;
	/*
	 * A sandbox that was entered later forbids it. A store stays in the processor's buffer
	 * for microseconds; at the latest the next interrupt writes it.
	 */
	pause_ms(50);
}

void sole_count(int change)
{
	if (barriers == UNKNOWN)
		checker_ignore(&sole, sizeof(sole));
	if (barriers == UNKNOWN)
		barriers = barriers_work() ? ALLOWED : FORBIDDEN;
	threads += (unsigned int)change;
}

void sole_child(int fiber)
{
	threads = (unsigned int)fiber;
}

/* The sole thread is where it must not be disturbed. */
static bool between(const struct fiber_thread_area *area)
{
	uint64_t target = __atomic_load_n(&area->target, __ATOMIC_ACQUIRE);

	return target && !area->dead && fiber_cb_exists(target) &&
	       atomic_load(&fiber_cb_at(target)->owner) == (target | OWNER_FREE);
}

void sole_suspend(void)
{
	static uint32_t number;
	uint32_t i;

	if (!atomic_load_explicit(&sole, memory_order_relaxed))
		return;
	atomic_store(&sole, 0);
	barrier();
	/* There is one that has a pid. */
	if (!table.areas[number].tid)
		for (i = 1; i < table.head->areas_used; i++)
			if (table.areas[i].tid)
				number = i;
	while (between(&table.areas[number]))
		pause_ms(1);
}

void sole_resume(void)
{
	uint32_t now = threads == 1 && barriers == ALLOWED;

	if (atomic_load_explicit(&sole, memory_order_relaxed) != now)
		atomic_store_explicit(&sole, now, memory_order_release);
}
