/* SPDX-License-Identifier: MIT */
/* The parts of a switch that are the same for each engine, or are engine `kernel`'s. */
#include <errno.h>
#include <stddef.h>

#include "engine.h"
#include "exception.h"
#include "fiber_cb.h"
#include "observer.h"
#include "switch.h"
#include "thread.h"

/* By the owner of `to`, before it runs: who resumes it, and what comes along. */
void switch_note(struct fiber_cb *to, fiber_id_t from, void *value, unsigned int kind)
{
	if (!(kind & SWITCH_YIELDS))
		to->resumer = from;
	if (kind & SWITCH_VALUE) {
		atomic_fetch_or(&to->flags, CB_EXTRA);
		fiber_extra(to)->received = value;
	}
	if (kind & SWITCH_UNWINDS) {
		atomic_fetch_or(&to->flags, CB_RETURNS | CB_ENDS);
		to->unwinds = true;
	}
}

/* The calling fiber's control block, which was switched to; `otel` is its pointer. */
struct fiber_cb *switch_arrived(void *otel)
{
	struct thread *self = thread_self();
	struct fiber_cb *cb = fiber_cb_at(self->next_id);
	fiber_id_t left = self->current_id;

	observer_switched(left, self->next_id);
	if (otel_travels())
		otel_arrive(otel, self->next_id);
	switch_note(cb, left, self->next_value, self->next_kind);
	self->current_id = self->next_id;
	if (self->next_kind & SWITCH_ENDS)
		engine_current()->left(left);
	thread_idle(0);
	return cb;
}

/* The same for a fiber that begins. */
struct fiber_cb *switch_began(void)
{
	struct fiber_cb *cb = switch_arrived(NULL);

	if (cb->unwinds)
		unwind_here();
	return cb;
}

/* The thread is busy. */
static int detour(fiber_id_t id, void *value, unsigned int kind)
{
	struct exceptions ours = exception_leave();
	struct fiber_cb *cb = thread_cb();
	bool before = switch_mark(cb);
	int err = kind ? user_switch(id, value, kind) : switch_user(id);

	exception_arrive(ours);
	switch_unmark(cb, before);
	return err;
}

bool switch_mark(struct fiber_cb *cb)
{
	bool before = cb && cb->detoured;

	if (cb)
		cb->detoured = true;
	return before;
}

void switch_unmark(struct fiber_cb *cb, bool before)
{
	if (!cb)
		return;
	cb->detoured = before;
	if (cb->unwinds && !before)
		unwind_here();
}

int exception_switch(fiber_id_t id)
{
	return detour(id, NULL, 0);
}

int switch_detour(fiber_id_t id, void *value, unsigned int kind)
{
	uint64_t busy = thread_busy();

	if (!busy)
		return detour(id, value, kind);
	thread_idle(busy);
	return user_nested(id);
}

int switch_end(fiber_id_t id)
{
	return switch_detour(id, NULL, SWITCH_YIELDS | SWITCH_VALUE | SWITCH_ENDS);
}

int fiber_transfer(fiber_id_t id, void *value)
{
	return switch_detour(id, value, SWITCH_VALUE);
}

int fiber_yield(void *value)
{
	fiber_id_t id;
	int err = fiber_resumer(&id);

	return err ? err : switch_detour(id, value, SWITCH_YIELDS | SWITCH_VALUE);
}

void *fiber_received(void)
{
	struct fiber_cb *cb = thread_cb();
	struct fiber_extra *extra = cb ? fiber_extra_used(cb) : NULL;

	return extra ? extra->received : NULL;
}

int fiber_resumer(fiber_id_t *id)
{
	struct fiber_cb *cb = thread_cb();

	if (!id)
		return EINVAL;
	if (!cb)
		return EPERM;
	if (!cb->resumer)
		return ESRCH;
	*id = cb->resumer;
	return 0;
}
