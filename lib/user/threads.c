/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <time.h>

#include "areas.h"
#include "clock.h"
#include "fibers.h"
#include "lock.h"
#include "observer.h"
#include "owner.h"
#include "sanitizer.h"
#include "slots.h"
#include "thread.h"
#include "threads.h"

/* The kernel keeps 128 MiB free for the main thread's stack at least. */
#define MAIN_STACK_MAX	((rlim_t)64 << 20)

/*
 * The main thread's stack ends above what the kernel left there for the program, and the
 * kernel keeps as much free below as the limit says. NULL: this is another stack.
 */
static char *main_stack(size_t *size)
{
	uintptr_t top = (getauxval(AT_RANDOM) + STACK_PAGE) & ~(STACK_PAGE - 1);
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	struct rlimit limit;

	/* What is more than is always kept free may have been allowed since the program began. */
	if (getrlimit(RLIMIT_STACK, &limit) || limit.rlim_cur > MAIN_STACK_MAX)
		return NULL;
	*size = limit.rlim_cur & ~(STACK_PAGE - 1);
	return top - here < *size ? (char *)top - *size : NULL;
}

/*
 * What is to be known of the calling thread's own stack, for telling it from others. The
 * C library finds the main thread's among all mappings, however many there are.
 */
static void stack_measure(struct stack *stack)
{
	int saved_errno = errno;
	pthread_attr_t attr;
	void *start;

	*stack = (struct stack) { .start = NULL };
	stack->start = main_stack(&stack->size);
	if (stack->start)
		return;
	if (!pthread_getattr_np(pthread_self(), &attr)) {
		if (!pthread_attr_getstack(&attr, &start, &stack->size)) {
			stack->start = start;
			if (stack->size > STACK_MAX)
				stack->size = STACK_MAX;
		}
		pthread_attr_destroy(&attr);
	}
	errno = saved_errno;
}

_Static_assert(FIBER_THREADS_MAX == FIBER_THREAD_AREAS - 1, "area 0 is nobody's");

int user_convert(unsigned int flags, fiber_id_t *id)
{
	struct thread *self = thread_self();
	struct fiber_cb *cb;
	struct lock_state state;
	struct fiber_slot *slot;
	struct stack stack;
	uint32_t number;
	int err;

	/* Of the FPU a call keeps the control words only, and those travel always. */
	(void)flags;
	if (self->number)
		return EEXIST;
	stack_measure(&stack);
	lock_take(&state);
	err = area_take(&number);
	if (err)
		goto unlock;
	err = fiber_cb_take(&cb);
	if (err) {
		area_give(number);
		goto unlock;
	}
	fiber_cb_set_stack(cb, &stack);
	sanitizer_convert(cb);
	fiber_cb_begin(cb, NULL, NULL, 0);
	cb->root_of = (uint16_t)number;
	*id = id_of(cb);
	slot = slot_of(cb);
	slot->parent = table.areas[number].tid;
	slot->state = FIBER_STATE_RUNNING;
	slot->area = number;
	slot->last_switch = cycles();
	slot_show(*id, slot);
	own(cb, number);
	self->number = number;
	self->takes = number - (uint64_t)OWNER_FREE;
	self->runs = (uint64_t)number << 32 | FIBER_STATE_RUNNING;
	self->slot = slot;
	self->area = &table.areas[number];
	self->area->fiber = *id;
	area_begin(self->area, slot->last_switch);
	self->root = cb;
	self->root_id = *id;
	self->current = cb;
	self->current_id = *id;
unlock:
	lock_drop(&state);
	return err;
}

/* The thread is no fiber any more. */
static void thread_leave(struct thread *self)
{
	struct lock_state state;

	free_list_trim(self, 0);
	lock_take(&state);
	area_give((uint32_t)self->number);
	self->number = 0;
	self->current_id = 0;
	self->current = &thread_nobody;
	self->root = self->ending = NULL;
	self->slot = NULL;
	self->area = NULL;
	lock_drop(&state);
}

int user_revert(struct detached *detached)
{
	/* A switch in a handler would leave from a thread that is no fiber. */
	uint64_t busy = thread_busy();
	struct thread *self = thread_self();
	struct fiber_cb *cb = self->root;

	if (!self->number || self->current != cb) {
		int err = self->number ? EINVAL : EPERM;

		thread_idle(busy);
		return err;
	}
	atomic_exchange(&cb->owner, GENERATION(id_of(cb)) | OWNER_DELETED);
	thread_leave(self);
	fiber_detach(cb, detached);
	thread_idle(busy);
	return 0;
}

/* Waits while another thread runs the root fiber. It may be called again. */
int user_retire(void)
{
	/* A thread that vanishes wakes nobody. */
	const struct timespec patience = { .tv_nsec = 100000000 };
	struct thread *self = thread_self();
	struct fiber_cb *cb = self->root;
	uint64_t owner;

	if (!self->number)
		return EPERM;
	if (!cb)
		return 0;
	if (self->current == cb)
		return EINVAL;
	owner = atomic_load(&cb->owner);
	/* Once it is finished anybody may delete it, and another fiber have its slot. */
	while (owner_lives(owner, self->root_id) && (owner & OWNER_MASK) != OWNER_FINISHED) {
		uint64_t word = owner & OWNER_MASK;

		if (word == OWNER_FREE) {
			/* Taken first, since from its finish on anybody may delete it. */
			if (!atomic_compare_exchange_strong(&cb->owner, &owner,
							    GENERATION(owner) | self->number))
				continue;
			fiber_finish(cb);
			break;
		}
		if (!(word & OWNER_EXIT_PENDING)) {
			atomic_compare_exchange_strong(&cb->owner, &owner,
						       owner | OWNER_EXIT_PENDING);
		} else if (!owner_gone(owner)) {
			owner_futex(&cb->owner, FUTEX_WAIT, (uint32_t)owner, &patience);
		}
		owner = atomic_load(&cb->owner);
	}
	self->root = NULL;
	return 0;
}

/* Books the run that ends now, and for good. */
static void book(struct thread *self)
{
	struct fiber_thread_area *area = self->area;
	uint64_t off = area->off, now = cycles();
	int64_t run = (int64_t)(now - area->since - (off - area->off_since));

	if (run < 0)
		run = 0;
	/* So that readers know the run as booked: stat.c. */
	__atomic_store_n(&self->slot->last_switch, now, __ATOMIC_RELEASE);
	self->slot->run_time += (uint64_t)run;
	if (self->slot->longest_run < (uint64_t)run)
		self->slot->longest_run = (uint64_t)run;
}

/* Off the fiber's stack for good, and retired. */
void user_leave(void)
{
	struct thread *self = thread_self();
	struct fiber_cb *cb = self->ending;
	struct detached detached;

	if (!cb)
		return;
	book(self);
	owner_settle(self);
	/* Before its number is another thread's. */
	if (cb->root_of) {
		fiber_finish(cb);
	} else if (atomic_load(&cb->flags) & CB_ENDS) {
		atomic_exchange(&cb->owner, GENERATION(id_of(cb)) | OWNER_DELETED);
		fiber_detach(cb, &detached);
		observer_ended(self->current_id);
		user_free(&detached);
	} else {
		fiber_reset(cb);
		own(cb, OWNER_FREE);
	}
	thread_leave(self);
}
