/* SPDX-License-Identifier: MIT */
#include <stddef.h>
#include <sys/mman.h>

#include "control.h"
#include "sanitizer.h"

/* Of the runtimes; weak: mostly there is none. */
#define WEAK __attribute__((weak))

WEAK void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size);
WEAK void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *size);
WEAK void __asan_unpoison_memory_region(const volatile void *start, size_t size);
WEAK void *__tsan_get_current_fiber(void);
WEAK void *__tsan_create_fiber(unsigned int flags);
WEAK void __tsan_destroy_fiber(void *fiber);
WEAK void __tsan_switch_to_fiber(void *fiber, unsigned int flags);

/* ThreadSanitizer's fibers, by slot; each one's owner's. */
static void *_Atomic *contexts;

/* What the thread itself is to them. */
static _Thread_local void *thread_context;
static _Thread_local struct stack thread_stack;

bool sanitizer_watches(void)
{
	return __sanitizer_start_switch_fiber || __tsan_switch_to_fiber;
}

void sanitizer_convert(struct control *own)
{
	void *start;

	thread_stack = control_stack(own);
	if (!__tsan_switch_to_fiber)
		return;
	if (!contexts) {
		start = mmap(NULL, CONTROL_SLOTS * sizeof(*contexts), PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (start == MAP_FAILED)
			return;
		contexts = start;
	}
	thread_context = __tsan_get_current_fiber();
	contexts[control_slot(own)] = thread_context;
}

void sanitizer_forget(struct control *control)
{
	const struct stack stack = control_stack(control);
	void *context;

	/* Frames that were left for good, which the next fiber has its own in. */
	if (__asan_unpoison_memory_region && !control->home)
		__asan_unpoison_memory_region(stack.start, stack.size);
	if (!contexts)
		return;
	context = atomic_exchange(&contexts[control_slot(control)], NULL);
	if (context && !control->home)
		__tsan_destroy_fiber(context);
}

/* What the fiber did happened before whatever its next owner does. */
static __attribute__((noinline)) void release(struct control *control)
{
	atomic_fetch_or(&control->owner, 0);
}

/* Itself unwatched, as it begins in one fiber and ends in the other. */
__attribute__((no_sanitize("thread"))) void *sanitizer_leave(struct control *from,
							     struct control *to)
{
	const struct stack stack = control_stack(to);
	void *save = NULL;

	release(from);
	if (__sanitizer_start_switch_fiber)
		__sanitizer_start_switch_fiber(&save, stack.start, stack.size);
	if (contexts) {
		void *_Atomic *context = &contexts[control_slot(to)];

		if (!*context)
			*context = __tsan_create_fiber(0);
		__tsan_switch_to_fiber(*context, 0);
	}
	return save;
}

void sanitizer_arrive(void *left)
{
	if (__sanitizer_finish_switch_fiber)
		__sanitizer_finish_switch_fiber(left, NULL, NULL);
}

__attribute__((no_sanitize("thread"))) void sanitizer_end(void)
{
	/* The frames that were left there are still marked as such. */
	if (__asan_unpoison_memory_region)
		__asan_unpoison_memory_region(thread_stack.start, thread_stack.size);
	if (contexts)
		__tsan_switch_to_fiber(thread_context, 0);
}
