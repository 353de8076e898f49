/* SPDX-License-Identifier: MIT */
#include <stddef.h>
#include <sys/mman.h>

#include "checker.h"
#include "fiber_cb.h"
#include "sanitizer.h"
#include "thread.h"

/* More of the runtimes. */
#define WEAK __attribute__((weak))

WEAK void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *size);
WEAK void __asan_unpoison_memory_region(const volatile void *start, size_t size);
WEAK void __asan_handle_no_return(void);
WEAK void *__tsan_get_current_fiber(void);
WEAK void *__tsan_create_fiber(unsigned int flags);
WEAK void __tsan_destroy_fiber(void *fiber);
WEAK void __lsan_unregister_root_region(const void *start, size_t size);

/* ThreadSanitizer's fibers, by slot; each one's owner's. */
static void *_Atomic *contexts;

/* AddressSanitizer's copies of frames (use after return) of suspended fibers, by slot; the same. */
static void *_Atomic *fakes;

/* What the thread itself is to them. */
static _Thread_local void *thread_context;
static _Thread_local struct stack thread_stack;

/* A pointer for each slot; NULL: no memory. With the lock held. */
static void *_Atomic *by_slot(void *_Atomic *before)
{
	void *start;

	if (before)
		return before;
	start = mmap(NULL, CB_SLOTS * sizeof(*before), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return start == MAP_FAILED ? NULL : start;
}

void sanitizer_convert(struct fiber_cb *own)
{
	thread_stack = fiber_cb_stack(own);
	if (__sanitizer_start_switch_fiber)
		fakes = by_slot(fakes);
	if (!__tsan_switch_to_fiber)
		return;
	contexts = by_slot(contexts);
	if (!contexts)
		return;
	thread_context = __tsan_get_current_fiber();
	contexts[fiber_cb_slot(own)] = thread_context;
}

void sanitizer_create(struct fiber_cb *cb)
{
	const struct stack stack = fiber_cb_stack(cb);

	sanitizer_root(stack.start, stack.size);
	if (__tsan_release)
		__tsan_release(cb);
	if (!checker_valgrind)
		return;
	/* By it Valgrind tells a switch from a large frame. */
	fiber_extra(cb)->valgrind_stack = (unsigned int)
		VALGRIND_STACK_REGISTER(stack.start, stack.start + stack.size - 1);
	VALGRIND_MAKE_MEM_UNDEFINED(stack.start, stack.size);
	ANNOTATE_HAPPENS_BEFORE(cb);
}

/* As if the calling thread switched to the fiber and back, leaving it for good. */
__attribute__((no_sanitize("address"))) static void drop_fake(const struct stack *stack, void *fake)
{
	const void *here;
	void *ours;
	size_t size;

	__sanitizer_start_switch_fiber(&ours, stack->start, stack->size);
	__sanitizer_finish_switch_fiber(fake, &here, &size);
	__sanitizer_start_switch_fiber(NULL, here, size);
	__sanitizer_finish_switch_fiber(ours, NULL, NULL);
}

void sanitizer_reset(struct fiber_cb *cb)
{
	const struct stack stack = fiber_cb_stack(cb);
	void *context, *fake;

	/* What it did happened before whatever comes now. */
	if (__tsan_acquire)
		__tsan_acquire(cb);
	/* Frames that were left for good, which the next fiber has its own in. */
	if (__asan_unpoison_memory_region && !cb->root_of)
		__asan_unpoison_memory_region(stack.start, stack.size);
	if (fakes) {
		fake = atomic_exchange(&fakes[fiber_cb_slot(cb)], NULL);
		if (fake && !cb->root_of)
			drop_fake(&stack, fake);
	}
	if (contexts) {
		context = atomic_exchange(&contexts[fiber_cb_slot(cb)], NULL);
		if (context && !cb->root_of)
			__tsan_destroy_fiber(context);
	}
	if (__tsan_release)
		__tsan_release(cb);
	if (!checker_valgrind)
		return;
	ANNOTATE_HAPPENS_AFTER(cb);
	if (!cb->root_of) {
		VALGRIND_MAKE_MEM_UNDEFINED(stack.start, stack.size);
		VALGRIND_HG_ENABLE_CHECKING(stack.start, stack.size);
	}
	ANNOTATE_HAPPENS_BEFORE(cb);
}

void sanitizer_forget(struct fiber_cb *cb)
{
	const struct stack stack = fiber_cb_stack(cb);

	sanitizer_reset(cb);
	if (__lsan_unregister_root_region && !cb->root_of)
		__lsan_unregister_root_region(stack.start, stack.size);
	if (checker_valgrind && !cb->root_of)
		VALGRIND_STACK_DEREGISTER(fiber_extra(cb)->valgrind_stack);
}

/* To the runtimes it still runs, so it cannot be destroyed. */
void sanitizer_lost(struct fiber_cb *cb)
{
	if (fakes)
		fakes[fiber_cb_slot(cb)] = NULL;
	if (contexts)
		contexts[fiber_cb_slot(cb)] = NULL;
}

/* The frames that are left are marked as such. */
void sanitizer_unwound(void)
{
	if (__asan_handle_no_return)
		__asan_handle_no_return();
}

/*
 * The frames of a switch around that address, which is in the calling one. A switch writes them
 * after the last moment at which Helgrind can be told that the fiber is released.
 */
#define FRAMES_BELOW	512
#define FRAMES_SIZE	1024

static char *switch_frames(char *here, const struct fiber_cb *cb, size_t *size)
{
	const struct stack stack = fiber_cb_stack(cb);
	char *end = stack.start + stack.size;

	here -= FRAMES_BELOW;
	*size = end > here && end - here < FRAMES_SIZE ? (size_t)(end - here) : FRAMES_SIZE;
	return here;
}

/* Itself unwatched, as it begins in one fiber and ends in the other. */
__attribute__((no_sanitize("thread"))) void *sanitizer_leave(struct fiber_cb *from,
							     struct fiber_cb *to)
{
	const struct stack stack = fiber_cb_stack(to);
	void *save = NULL;

	if (__tsan_release)
		__tsan_release(from);
	if (__tsan_acquire)
		__tsan_acquire(to);
	if (checker_helgrind) {
		size_t size;
		char *frames = switch_frames(__builtin_frame_address(0), from, &size);

		VALGRIND_HG_DISABLE_CHECKING(frames, size);
		ANNOTATE_HAPPENS_BEFORE(from);
		ANNOTATE_HAPPENS_AFTER(to);
	}
	if (__sanitizer_start_switch_fiber)
		__sanitizer_start_switch_fiber(from->root_of == CB_LEFT ? NULL : &save, stack.start,
					       stack.size);
	if (fakes) {
		fakes[fiber_cb_slot(from)] = save;
		fakes[fiber_cb_slot(to)] = NULL;
	}
	if (contexts) {
		void *_Atomic *context = &contexts[fiber_cb_slot(to)];

		if (!*context)
			*context = __tsan_create_fiber(0);
		__tsan_switch_to_fiber(*context, 0);
	}
	return save;
}

void sanitizer_arrive(void *left)
{
	if (checker_helgrind) {
		size_t size;
		char *frames = switch_frames(__builtin_frame_address(0), thread_self()->current, &size);

		VALGRIND_HG_ENABLE_CHECKING(frames, size);
	}
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
