/* SPDX-License-Identifier: MIT */
/*
 * How one fiber is left for another.
 *
 *	transfer()		writes what it sends into the other one's `message`
 *	  leave()		makes it the thread's current one and swaps the stacks
 *	... the other one, where it had left, or transfer_start():
 *	    arrive()		swaps the thread states; the former one is suspended
 *	  receive()		takes its message, then lets the former one go
 *
 * Nothing thread-local is kept over leave(): it may return on another thread.
 */
#include "interpreter.h"

#include <errno.h>

/* How often a fiber that is being ended may try to go elsewhere. */
#define REFUSALS_MAX 100

/* The calling fiber goes on; returns the one that was left, owned. */
static inline Fiber *arrive(Fiber *fiber)
{
	struct thread *thread = thread_self();
	Fiber *left = thread->left;
	bool moved = fiber->thread != thread;

	/* Greenlets of a thread have one depth of tracing, as greenlet has it. */
	if (__builtin_expect(left->tstate->tracing != fiber->tstate->tracing, 0) && left->greenlet &&
	    fiber->greenlet)
		fiber->tstate->tracing = left->tstate->tracing;
	interpreter_swap(left->tstate, fiber->tstate, moved);
	thread->left = NULL;
	if (moved) {
		thread_take(thread);
		thread_drop(fiber->thread);
		fiber->thread = thread;
	}
	if (left->state == STATE_RUNNING) {
		left->state = STATE_SUSPENDED;
	} else if (!left->refusals) {
		interpreter_state_free(left->tstate);
		left->tstate = NULL;
		fiber_delete(left->id);
	}
	return left;
}

static inline __attribute__((always_inline)) PyObject *receive(Fiber *fiber)
{
	Fiber *left = arrive(fiber);
	PyObject *message = fiber->message, *owner = left->owner;
	bool failed = fiber->failed;

	/* Before the other one goes, which may switch to this one again. */
	fiber->message = NULL;
	if (__builtin_expect(fiber->generators_held, 0)) {
		fiber->generators_held = false;
		interpreter_release_generators(fiber->tstate);
	}
	if (__builtin_expect(switch_observer != NULL, 0))
		switch_observer_tell(left);
	if (__builtin_expect(left->state == STATE_FINISHED && left->greenlet, 0))
		green_ended(left);
	Py_DECREF(owner);
	if (__builtin_expect(fiber->loop != NULL, 0))
		loop_return(fiber);
	if (!failed)
		return message;
	interpreter_error_give(message);
	return NULL;
}

/* Returns when somebody comes back, or at once with an error number. */
static inline __attribute__((always_inline)) int leave(struct thread *thread, Fiber *to)
{
	Fiber *from = thread->current;
	enum state former = to->state;
	int err;

	to->state = STATE_RUNNING;
	to->inherited = false;
	thread->left = from;
	thread->current = to;
	Py_INCREF(to->owner);
	err = fiber_switch(to->id);
	if (!err)
		return 0;
	to->state = former;
	thread->left = NULL;
	thread->current = from;
	Py_DECREF(to->owner);
	return err;
}

bool transfer_possible(const Fiber *fiber, const struct thread *thread)
{
	return fiber->state == STATE_SUSPENDED && !fiber->waiting &&
	       (!fiber->pinned_to || fiber->pinned_to == thread);
}

/* `self` counts as suspended: NULL, or the one that has just been left in thought. */
static Fiber *next_target(Fiber *from, const struct thread *thread, const Fiber *self)
{
	Fiber *fiber;

	for (fiber = from->parent; fiber; fiber = fiber->parent)
		if (fiber == self || transfer_possible(fiber, thread))
			return fiber;
	return thread->root;
}

/*
 * The end of a fiber that is being ended and goes elsewhere all the same, again
 * and again: its stack is given up, with all that it refers to.
 */
static _Noreturn void abandon(Fiber *self)
{
	Fiber *to = self->ender;

	error_format(FiberError, ECANCELED, "it does not end; what it refers to is lost");
	PyErr_WriteUnraisable((PyObject *)self);
	self->state = STATE_FINISHED;
	fiber_unlink(self);
	waiters_wake(self);
	to->message = Py_NewRef(Py_None);
	to->failed = false;
	leave(thread_self(), to);
	Py_FatalError("kfiber: a fiber that was given up goes on");
}

static bool is_of_greenlet(const Fiber *fiber)
{
	return fiber->owner != (const PyObject *)fiber;
}

/* The calling fiber's target has returned or raised: `message`, taken. */
static _Noreturn void finish(Fiber *self, PyObject *message, bool failed)
{
	struct thread *thread;
	Fiber *to;

	/* All of this may run code, which may switch. */
	import_check();
	if (self->context && PyContext_Exit(self->context))
		PyErr_Clear();
	interpreter_set_context(self->tstate, NULL);
	fiber_retire(self);
	if (loop_imported)
		loop_leave(thread_self());

	/* The one that forked: there is nothing to go back to. */
	if (self->root) {
		if (failed) {
			interpreter_error_give(message);
			PyErr_Print();
		}
		Py_Exit(failed);
	}
	thread = thread_self();
	if (self->exiting)
		to = self->ender;
	else if (is_of_greenlet(self))
		to = green_next_target(self, &message, &failed);
	else
		to = next_target(self, thread, NULL);
	self->refusals = 0;
	self->state = STATE_FINISHED;
	/* The traceback of what ended it would keep what it held. */
	if (!is_of_greenlet(self) && !self->exiting) {
		self->result = Py_NewRef(message);
		self->raised = failed;
	}
	waiters_wake(self);
	to->message = message;
	to->failed = failed;
	leave(thread, to);
	Py_FatalError("kfiber: a finished fiber goes on");
}

void transfer_start(void *unused)
{
	Fiber *self = thread_self()->current;
	PyObject *result, *message;
	bool shared;

	(void)unused;
	message = receive(self);
	shared = self->shared || is_of_greenlet(self);
	interpreter_set_context(self->tstate, shared ? self->context : NULL);
	if (shared)
		self->context = NULL;
	/* transfer_prepare() has tried it. */
	if (self->context && PyContext_Enter(self->context)) {
		Py_CLEAR(self->context);
		Py_XDECREF(message);
		result = NULL;
	} else if (is_of_greenlet(self)) {
		result = green_run(self, message);
	} else {
		Py_XDECREF(message);
		/* They stay where a collection finds them. */
		result = PyObject_Call(self->target, self->args, self->kwargs);
	}
	if (result)
		finish(self, result, false);
	finish(self, interpreter_error_take(), true);
}

static PyObject *refuse_state(Fiber *to)
{
	if (to->state == STATE_FINISHED)
		return fiber_finished(to);
	/* To be counted there too. Not while its thread is on its way to it or away. */
	if (to->thread && to->thread->alive && to->thread->current == to && !to->thread->left)
		fiber_switch(to->id);
	return error_format(FiberRunningError, EBUSY, "%R is running", to);
}

/* Whether `to` may run on `thread` now. False with an exception set. */
static bool may_reach(struct thread *thread, Fiber *to)
{
	if (__builtin_expect(thread->observed, 0)) {
		error_format(FiberError, EAGAIN, "an observer may not switch fibers");
		return false;
	}
	if (__builtin_expect(fibers_over, 0) && interpreter_ends()) {
		error_format(FiberError, ECANCELED, "the interpreter is ending: fibers cannot run any more");
		return false;
	}
	if (__builtin_expect(to->state != STATE_SUSPENDED && to->state != STATE_NEW, 0)) {
		refuse_state(to);
		return false;
	}
	if (__builtin_expect(to->pinned_to && to->pinned_to != thread, 0)) {
		error_format(FiberPinnedError, EPERM, "%R belongs to another thread", to);
		return false;
	}
	if (__builtin_expect(to->waiting, 0)) {
		error_format(FiberPinnedError, EPERM, "%R is waiting for another fiber to end", to);
		return false;
	}
	return !greenlet_imported || !greenlet_inside();
}

/* Whether `thread` may leave its current fiber for `to`. False with an exception set. */
static bool may_enter(struct thread *thread, Fiber *to)
{
	Fiber *from = thread->current;

	if (__builtin_expect(from->exiting, 0)) {
		if (++from->refusals > REFUSALS_MAX)
			abandon(from);
		error_format(FiberError, ECANCELED,
			     "nothing refers to this fiber any more: it cannot switch while it is being ended");
		return false;
	}
	return may_reach(thread, to);
}

/* throw() into a new fiber. */
static PyObject *finish_unrun(struct thread *thread, Fiber *self, PyObject *error)
{
	Fiber *from = thread->current, *to;

	fiber_retire(self);
	self->result = Py_NewRef(error);
	self->raised = true;
	waiters_wake(self);
	/* Which may have run code. */
	thread = thread_self();
	to = next_target(self, thread, from);
	if (to != from)
		return transfer(to, error, true);
	if (from->loop)
		loop_return(from);
	interpreter_error_give(error);
	return NULL;
}

/* Whether a new fiber may enter its context, which at most one may at a time. -1 with an exception set. */
static int try_context(Fiber *to)
{
	if (!to->context || to->shared || is_of_greenlet(to))
		return 0;
	if (PyContext_Enter(to->context))
		return -1;
	return PyContext_Exit(to->context);
}

int transfer_prepare(Fiber *to)
{
	if (try_context(to))
		return -1;
	to->tstate = interpreter_state_new(to->id, to->stack_size);
	return to->tstate ? 0 : -1;
}

static inline __attribute__((always_inline)) struct thread *begin(void)
{
	struct thread *thread;

	import_check();
	thread = thread_self();
	if (__builtin_expect(!thread, 0)) {
		thread = thread_convert();
		if (!thread)
			return NULL;
	}
	/* What may run code may go on elsewhere. */
	if (__builtin_expect(thread->to_end != NULL, 0)) {
		thread_drain(thread);
		thread = thread_self();
	}
	if (loop_imported) {
		loop_leave(thread);
		thread = thread_self();
	}
	return thread;
}

struct thread *transfer_begin(void)
{
	return begin();
}

/* Nobody was left, and an exception may be set. */
void transfer_cancel(void)
{
	Fiber *from = thread_self()->current;
	PyObject *error;

	if (!from->loop)
		return;
	error = PyErr_Occurred() ? interpreter_error_take() : NULL;
	loop_return(from);
	if (error)
		interpreter_error_give(error);
}

static inline __attribute__((always_inline)) PyObject *
commit(struct thread *thread, Fiber *to, PyObject *message, bool failed)
{
	Fiber *from;
	int err;

	if (!may_enter(thread, to))
		goto stay;
	if (to->state == STATE_NEW) {
		if (!is_of_greenlet(to)) {
			if (failed)
				return finish_unrun(thread, to, message);
			if (message != Py_None) {
				PyErr_SetString(PyExc_TypeError,
						"the first switch() to a fiber takes no value: its "
						"arguments are those of Fiber()");
				goto stay;
			}
		}
		if (transfer_prepare(to))
			goto stay;
	}
	from = thread->current;
	to->message = message;
	to->failed = failed;
	err = leave(thread, to);
	if (!err)
		return receive(from);
	to->message = NULL;
	if (to->state == STATE_NEW) {
		interpreter_state_free(to->tstate);
		to->tstate = NULL;
	}
	error_raise(err, "the switch failed");
stay:
	if (to->state == STATE_NEW && is_of_greenlet(to))
		green_not_begun(to);
	transfer_cancel();
	Py_DECREF(message);
	return NULL;
}

PyObject *transfer_commit(struct thread *thread, Fiber *to, PyObject *message, bool failed)
{
	return commit(thread, to, message, failed);
}

PyObject *transfer_resume(Fiber *to, PyObject *message, bool *gone)
{
	struct thread *thread = thread_self();

	if (__builtin_expect(loop_imported || thread->to_end ||
			     atomic_load_explicit(&import_pending, memory_order_relaxed), 0)) {
		Py_INCREF(to);
		thread = begin();
		*gone = Py_REFCNT(to) == 1;
		Py_DECREF(to);
		if (*gone || !thread) {
			transfer_cancel();
			Py_DECREF(message);
			return NULL;
		}
	}
	return commit(thread, to, message, false);
}

PyObject *transfer(Fiber *to, PyObject *message, bool failed)
{
	struct thread *thread = begin();

	if (thread)
		return commit(thread, to, message, failed);
	Py_DECREF(message);
	return NULL;
}

/* Of an ending: the engine refused. */
static void report(Fiber *self, int err)
{
	error_raise(err, "a fiber that nothing refers to cannot be ended");
	PyErr_WriteUnraisable((PyObject *)self);
}

static void end_here(Fiber *self)
{
	PyObject *error = PyObject_CallNoArgs(FiberExit), *generators = NULL, *result;
	Fiber *from = thread_self()->current;
	bool waiting = from->waiting;
	int err;

	if (!error) {
		PyErr_WriteUnraisable((PyObject *)self);
		return;
	}
	if (loop_imported)
		loop_leave(thread_self());
	/*
	 * A collection of another thread may have come as far as to finalize them, and go on at any time:
	 * they stay held until they have been unwound.
	 */
	if (self->generators_held && !(generators = interpreter_generators(self->tstate)))
		PyErr_Clear();
	/* All that may have run code, to which it may have gone. */
	if (self->state != STATE_SUSPENDED || self->waiting) {
		Py_DECREF(error);
		goto stay;
	}
	self->message = error;
	self->failed = true;
	self->exiting = true;
	self->generators_held = self->generators_held && !generators;
	self->ender = from;
	from->waiting = true;
	/* What is unwound may have been the last that referred to it. */
	Py_INCREF(from);
	err = leave(thread_self(), self);
	result = err ? NULL : receive(from);
	from->waiting = waiting;
	Py_DECREF(from);
	if (err) {
		Py_CLEAR(self->message);
		self->generators_held = generators != NULL;
		report(self, err);
		goto stay;
	}
	/* Whatever its target made of FiberExit is nobody's. */
	if (!result && PyErr_ExceptionMatches(FiberExit))
		PyErr_Clear();
	else if (!result)
		PyErr_WriteUnraisable((PyObject *)self);
	Py_XDECREF(result);
	if (generators)
		interpreter_release_list(generators);
	return;
stay:
	Py_XDECREF(generators);
	if (from->loop)
		loop_return(from);
}

int transfer_kill(Fiber *self)
{
	struct thread *thread;

	import_check();
	thread = thread_convert();
	if (!thread)
		return -1;
	if (self->state == STATE_FINISHED && self->id)
		return 0;
	if (self->root) {
		error_format(FiberError, EPERM, "%R is a thread's root fiber: it ends with its thread", self);
		return -1;
	}
	if (!may_reach(thread, self))
		return -1;
	if (self->state == STATE_NEW) {
		fiber_retire(self);
		waiters_wake(self);
		return 0;
	}
	/* Somebody has to own it when its frames do not any more. */
	Py_INCREF(self);
	end_here(self);
	Py_DECREF(self);
	return 0;
}

void transfer_end(Fiber *self, bool here)
{
	struct thread *owner = self->pinned_to ? self->pinned_to : self->thread;
	PyObject *error;
	bool lent;

	/* The parent of a fork() ends its own. */
	if (fibers_over || self->inherited)
		return;
	error = PyErr_Occurred() ? interpreter_error_take() : NULL;
	if (!here && owner->alive && owner != thread_self()) {
		self->next_to_end = owner->to_end;
		owner->to_end = (Fiber *)Py_NewRef((PyObject *)self);
	} else if (thread_lend(&lent)) {
		end_here(self);
		if (lent)
			thread_give_back();
	} else {
		PyErr_WriteUnraisable((PyObject *)self);
	}
	if (error)
		interpreter_error_give(error);
}
