/* SPDX-License-Identifier: MIT */
#include <stdatomic.h>

#include "exception.h"

/*
 * Both are of the C++ ABI. Weak: C programs have neither. The first allocates
 * on its first call on a thread, the second never does.
 */
extern struct exception_state *__cxa_get_globals(void) __attribute__((weak));
extern struct exception_state *__cxa_get_globals_fast(void) __attribute__((weak));

/*
 * Where the state lies, counted from the thread pointer. It is the same for all
 * threads if the C++ runtime was loaded with the program, and then each word is
 * read and written by one instruction relative to the thread pointer: a
 * signal handler that moves the fiber to another thread in between does
 * no harm. If it was loaded later, the address must be asked for, and such a
 * handler could interfere; users' handlers that switch are not expected there.
 */
#define OFFSET_NONE	((intptr_t)0)	/* no runtime, or no thread was seen yet */
#define OFFSET_VARIES	((intptr_t)1)	/* never a real one: the state is aligned */

static _Atomic intptr_t offset = OFFSET_NONE;

static uintptr_t load(intptr_t at)
{
	uintptr_t value;

	__asm__ volatile("movq %%fs:(%1), %0" : "=r"(value) : "r"(at) : "memory");
	return value;
}

static void store(intptr_t at, uintptr_t value)
{
	__asm__ volatile("movq %0, %%fs:(%1)" : : "r"(value), "r"(at) : "memory");
}

void exception_attach(void)
{
	intptr_t here, before = OFFSET_NONE;
	uintptr_t thread;

	if (!__cxa_get_globals || !__cxa_get_globals_fast)
		return;
	__asm__("movq %%fs:0, %0" : "=r"(thread));
	here = (intptr_t)((uintptr_t)__cxa_get_globals() - thread);
	if (!atomic_compare_exchange_strong(&offset, &before, here) && before != here)
		atomic_store(&offset, OFFSET_VARIES);
}

/* Not inlined: a compiler may not carry the address over a switch. */
static __attribute__((noinline)) struct exception_state swap_by_address(struct exception_state new)
{
	struct exception_state *here = __cxa_get_globals_fast();
	struct exception_state old = *here;

	*here = new;
	return old;
}

struct exception_state exception_leave(void)
{
	const struct exception_state none = { 0, 0 };
	intptr_t at = atomic_load_explicit(&offset, memory_order_relaxed);
	struct exception_state state;

	if (at == OFFSET_NONE)
		return none;
	if (at == OFFSET_VARIES)
		return swap_by_address(none);
	state.caught = load(at);
	state.uncaught = load(at + 8);
	/* Usually both are 0 already, and a store that is not needed costs more than a test. */
	if (state.caught)
		store(at, 0);
	if (state.uncaught)
		store(at + 8, 0);
	return state;
}

void exception_enter(struct exception_state state)
{
	intptr_t at = atomic_load_explicit(&offset, memory_order_relaxed);

	if (at == OFFSET_NONE)
		return;
	if (at == OFFSET_VARIES) {
		swap_by_address(state);
		return;
	}
	store(at, state.caught);
	store(at + 8, state.uncaught);
}
