/* SPDX-License-Identifier: MIT */
#include "checker.h"

bool checker_valgrind, checker_helgrind;

void checker_open(void)
{
	char byte = 0, bits;

	if (!RUNNING_ON_VALGRIND)
		return;
	checker_valgrind = true;
	/* A request that no other tool knows. */
	checker_helgrind = VALGRIND_HG_GET_ABITS(&byte, &bits, 1) == 1;
}

void checker_lock(void *lock)
{
	if (checker_helgrind)
		ANNOTATE_HAPPENS_AFTER(lock);
	if (__tsan_acquire)
		__tsan_acquire(lock);
}

void checker_unlock(void *lock)
{
	if (checker_helgrind)
		ANNOTATE_HAPPENS_BEFORE(lock);
	if (__tsan_release)
		__tsan_release(lock);
}

void checker_ignore(const void *start, size_t size)
{
	if (checker_helgrind)
		VALGRIND_HG_DISABLE_CHECKING(start, size);
}
