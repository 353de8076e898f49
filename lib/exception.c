/* SPDX-License-Identifier: MIT */
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "exception.h"
#include "sanitizer.h"
#include "switch.h"
#include "thread.h"

/* struct __cxa_eh_globals of the Itanium C++ ABI, as two words. */
struct exceptions {
	uintptr_t caught;	/* the stack of caught exceptions */
	uintptr_t uncaught;	/* how many are on their way; the upper half is padding */
};

/*
 * Both are of the C++ ABI. Weak: C programs have neither. The first allocates
 * on its first call on a thread, the second never does.
 */
extern struct exceptions *__cxa_get_globals(void) __attribute__((weak));
extern struct exceptions *__cxa_get_globals_fast(void) __attribute__((weak));

/*
 * See exception.h. The place is the same for all threads if the C++ runtime was
 * loaded with the program, and then each word is read and written by one
 * instruction relative to the thread pointer: a signal handler that moves the
 * fiber to another thread in between does no harm. If it was loaded later, the
 * address must be asked for, and such a handler could interfere; users' handlers
 * that switch are not expected there.
 */
_Atomic intptr_t exception_offset __attribute__((visibility("hidden")));

static intptr_t from_thread_pointer(const void *address)
{
	uintptr_t thread_pointer;

	__asm__("movq %%fs:0, %0" : "=r"(thread_pointer));
	return (intptr_t)((uintptr_t)address - thread_pointer);
}

void exception_attach(void)
{
	static _Atomic bool varies;
	intptr_t here, before = 0;

	if (sanitizer_watches())
		return;
	if (__cxa_get_globals && __cxa_get_globals_fast)
		here = from_thread_pointer(__cxa_get_globals());
	else
		here = from_thread_pointer(thread_self()->exceptions);
	if (atomic_load(&varies))
		return;
	if (!atomic_compare_exchange_strong(&exception_offset, &before, here) && before != here)
		atomic_store(&varies, true);
	/* Also where another thread has found that out just now. */
	if (atomic_load(&varies))
		atomic_store(&exception_offset, 0);
}

/* Not inlined: a compiler may not carry the address over a switch. */
static __attribute__((noinline)) struct exceptions exchange(struct exceptions new)
{
	intptr_t at = atomic_load(&exception_offset);
	struct exceptions *here, old = { 0, 0 };

	if (at) {
		__asm__ volatile("movq %%fs:(%1), %0" : "=r"(old.caught) : "r"(at));
		__asm__ volatile("movq %%fs:8(%1), %0" : "=r"(old.uncaught) : "r"(at));
		__asm__ volatile("movq %0, %%fs:(%1)" : : "r"(new.caught), "r"(at) : "memory");
		__asm__ volatile("movq %0, %%fs:8(%1)" : : "r"(new.uncaught), "r"(at) : "memory");
	} else if (__cxa_get_globals_fast) {
		here = __cxa_get_globals_fast();
		/* NULL on a thread that was never attached: it is no fiber. */
		if (here) {
			old = *here;
			*here = new;
		}
	}
	return old;
}

int exception_switch(fiber_id_t id)
{
	const struct exceptions none = { 0, 0 };
	struct exceptions ours = exchange(none);
	int err = sanitizer_watches() ? user_switch(id) : switch_user(id);

	exchange(ours);
	return err;
}
