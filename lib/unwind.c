/* SPDX-License-Identifier: MIT */
/*
 * fiber_unwind(): a forced unwind, as of a thread that is cancelled, on the stack of a fiber that
 * is suspended. The fiber is resumed, and instead of going on unwinds its own stack.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <unwind.h>

#include "fiber_cb.h"
#include "lock.h"
#include "sanitizer.h"
#include "switch.h"
#include "thread.h"

/* Nothing is left on the stack: it is as if the function had returned. */
static _Noreturn void leave(struct fiber_cb *cb)
{
	const struct stack stack = fiber_cb_stack(cb);

	sanitizer_unwound();
	switch_leave(stack.start + stack.size);
}

/* Before each frame's own handlers. */
static _Unwind_Reason_Code stop(int version, _Unwind_Action actions,
				_Unwind_Exception_Class exception_class,
				struct _Unwind_Exception *exception,
				struct _Unwind_Context *context, void *cb)
{
	(void)version;
	(void)exception_class;
	(void)exception;
	if ((actions & _UA_END_OF_STACK) || _Unwind_GetIP(context) == SWITCH_RETURN)
		leave(cb);
	return _URC_NO_REASON;
}

static void not_rethrown(_Unwind_Reason_Code reason, struct _Unwind_Exception *exception)
{
	static const char text[] = "libfiber: fiber_unwind(): a handler did not rethrow\n";

	(void)reason;
	(void)exception;
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		abort();
	abort();
}

void unwind_here(void)
{
	struct fiber_cb *cb = thread_cb();
	struct _Unwind_Exception *exception = &fiber_extra(cb)->unwinding;

	cb->unwinds = false;
	*exception = (struct _Unwind_Exception) { .exception_cleanup = not_rethrown };
	_Unwind_ForcedUnwind(exception, stop, cb);
	/* A frame that cannot be unwound. */
	leave(cb);
}

/*
 * A fiber that was left goes on in unwind_here() as if its last function had called that
 * instead of fiber_switch(): its saved registers, and the control words below, move down by a
 * word, for the return address that stays. A new one has the function in its own's place.
 */
void unwind_prepare(struct fiber_cb *cb)
{
	void **frame = cb->sp;

	if (frame[FRAME_IP] == switch_start + 1) {
		/* Else user/switch.c sees to it. */
		if (!sanitizer_watches())
			frame[FRAME_RBX] = unwind_here;
		return;
	}
	memmove(frame - 2, frame - 1, (FRAME_IP + 1) * sizeof(*frame));
	frame[FRAME_IP - 1] = unwind_here;
	cb->sp = frame - 1;
}

int fiber_unwind(fiber_id_t id)
{
	struct fiber_cb *self = thread_cb(), *cb;
	void *received = fiber_received();
	struct lock_state state;
	int err;

	if (!self)
		return EPERM;
	lock_take(&state);
	cb = fiber_cb_find(id);
	err = !cb ? ESRCH : cb->root_of ? EPERM : 0;
	lock_drop(&state);
	if (!err)
		err = switch_detour(id, NULL, SWITCH_UNWINDS);
	if (err)
		return err;
	/* Its end has brought NULL. */
	if (fiber_extra_used(self))
		fiber_extra(self)->received = received;
	return fiber_cb_find(id) ? EAGAIN : 0;
}
