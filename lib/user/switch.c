/* SPDX-License-Identifier: MIT */
/*
 * What fiber_switch() does not do in one go: the assembly jumps here, so that these
 * functions return in its place, and they call its second half. So the two files
 * import each other.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"
#include "fibers.h"
#include "observer.h"
#include "owner.h"
#include "sanitizer.h"
#include "slots.h"
#include "switch.h"
#include "thread.h"

/* A fiber's function where a sanitizer watches. */
static void begin_watched(void *cb)
{
	struct fiber_cb *self = cb;

	sanitizer_arrive(NULL);
	thread_idle(0);
	if (self->unwinds)
		unwind_here();
	self->entry(self->arg);
}

/*
 * The calling thread is busy and has taken a fiber in C, or one that is another
 * thread: such a one may have ended.
 */
static int go_on(struct fiber_cb *to, fiber_id_t id, void *value, unsigned int kind)
{
	struct thread *self = thread_self();
	uint32_t home = to->root_of;
	struct fiber_cb *from = self->current;
	bool before;
	void *left;
	int err;

	if (!home) {
		if (to->sp == to) {
			switch_begin(to);
			if (sanitizer_watches()) {
				((void **)to->sp)[FRAME_RBX] = begin_watched;
				((void **)to->sp)[FRAME_R12] = to;
			}
		}
	} else if (home != self->number &&
		   (table_thread_is_dead(home) ||
		    (atomic_load(&to->owner) & OWNER_MASK) != self->number)) {
		/* Or it had ended, and this one's exit became pending meanwhile. */
		fiber_finish(to);
		thread_idle(0);
		thread_gone(home);
		return EOWNERDEAD;
	}
	switch_note(to, self->current_id, value, kind);
	if (kind & SWITCH_UNWINDS && !to->detoured)
		unwind_prepare(to);
	observer_switched(self->current_id, id);
	if (otel_travels())
		otel_switched(self->current_id, id);
	if (kind & SWITCH_ENDS)
		from->root_of = CB_LEFT;
	if (!sanitizer_watches())
		return switch_taken(to, id);
	before = switch_mark(from);
	left = sanitizer_leave(from, to);
	self->busy--;
	err = switch_taken(to, id);
	sanitizer_arrive(left);
	thread_idle(0);
	switch_unmark(from, before);
	return err;
}

int user_taken(struct fiber_cb *to, fiber_id_t id)
{
	return go_on(to, id, NULL, 0);
}

/* Whether the caller is on its signal's alternate stack, whose frames the next signal overwrites. */
static bool on_alternate_stack(const struct thread *self)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	struct stack stack = fiber_cb_stack(self->current);
	stack_t alternate;

	if (here - (uintptr_t)stack.start < stack.size)
		return false;
	return !syscall(SYS_sigaltstack, NULL, &alternate) && (alternate.ss_flags & SS_ONSTACK);
}

static void count_failure(struct fiber_cb *cb)
{
	__atomic_fetch_add(&slot_of(cb)->failed, 1, __ATOMIC_RELAXED);
}

/* The calling thread is busy by something else. */
int user_nested(fiber_id_t id)
{
	if (table.head && fiber_cb_find(id))
		count_failure(fiber_cb_at(id));
	return EAGAIN;
}

/*
 * The calling thread is busy by this switch and nothing else has changed: there is more to it, or
 * it was refused, or somebody is told of each switch.
 */
int user_switch(fiber_id_t id, void *value, unsigned int kind)
{
	struct thread *self = thread_self();
	struct fiber_cb *from = self->current, *to;
	uint64_t owner;
	int err;

	if (!self->number || self->ending) {
		if (self->current_id && !self->ending)
			return engine_current()->switch_to(id, value, kind);
		thread_idle(0);
		return EPERM;
	}
	owner_settle(self);
	if (on_alternate_stack(self)) {
		thread_idle(0);
		return EINVAL;
	}
	if (!fiber_cb_exists(id)) {
		thread_idle(0);
		return ESRCH;
	}
	to = fiber_cb_at(id);
	owner = GENERATION(id) | OWNER_FREE;
	while (!atomic_compare_exchange_strong(&to->owner, &owner, GENERATION(id) | self->number)) {
		if (owner_lives(owner, id) && owner_gone(owner)) {
			owner = GENERATION(id) | OWNER_FREE;
			continue;
		}
		err = owner_refusal(id, owner);
		if (err == EBUSY) {
			count_failure(to);
			if (to == from)
				err = EINVAL;
		}
		thread_idle(0);
		return err;
	}
	return go_on(to, id, value, kind);
}

/* It is no fiber, or not on its fiber's stack, or the fiber is not free, or somebody is told. */
int user_refused(fiber_id_t id)
{
	return user_switch(id, NULL, 0);
}

/* On the next fiber's stack: nobody else has the fiber that has ended. */
static void free_ended(struct fiber_cb *cb)
{
	fiber_id_t id = id_of(cb);
	struct detached detached;

	cb->root_of = 0;
	atomic_exchange(&cb->owner, GENERATION(id) | OWNER_DELETED);
	fiber_detach(cb, &detached);
	observer_ended(id);
	user_free(&detached);
}

/*
 * The calling thread has left and saved a fiber that ends, or somebody else's root fiber, whose
 * thread's exit may have become pending meanwhile.
 */
void user_release(struct fiber_cb *cb)
{
	if (cb->root_of == CB_LEFT)
		free_ended(cb);
	else
		root_release(cb);
}

void fiber_prefetch(fiber_id_t id)
{
	struct fiber_cb *cb;
	const char *sp;

	if (!table.head || !fiber_cb_exists(id))
		return;
	cb = fiber_cb_at(id);
	__builtin_prefetch(slot_of(cb), 1);
	/* May be of another moment, which does no harm. */
	sp = __atomic_load_n(&cb->sp, __ATOMIC_RELAXED);
	__builtin_prefetch(sp, 1);
	__builtin_prefetch(sp + 64, 1);
}
