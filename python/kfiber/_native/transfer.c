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
	PyObject *message = fiber->message;
	bool failed = fiber->failed;

	/* Before the other one goes, which may switch to this one again. */
	fiber->message = NULL;
	Py_DECREF(left);
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
	thread->left = from;
	thread->current = (Fiber *)Py_NewRef((PyObject *)to);
	err = fiber_switch(to->id);
	if (!err)
		return 0;
	to->state = former;
	thread->left = NULL;
	thread->current = from;
	Py_DECREF(to);
	return err;
}

static bool enterable(const Fiber *fiber, const struct thread *thread)
{
	return fiber->state == STATE_SUSPENDED && !fiber->waiting &&
	       (!fiber->home || fiber->home == thread);
}

/* `self` counts as suspended: NULL, or the one that has just been left in thought. */
static Fiber *heir(Fiber *from, const struct thread *thread, const Fiber *self)
{
	Fiber *fiber;

	for (fiber = from->parent; fiber; fiber = fiber->parent)
		if (fiber == self || enterable(fiber, thread))
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

	error_format(FiberError, ECANCELED, "it does not end; what it holds is lost");
	PyErr_WriteUnraisable((PyObject *)self);
	self->state = STATE_FINISHED;
	fiber_unlink(self);
	to->message = Py_NewRef(Py_None);
	to->failed = false;
	leave(thread_self(), to);
	Py_FatalError("kfiber: a fiber that was given up goes on");
}

/* The calling fiber's target has returned or raised: `message`, taken. */
static _Noreturn void finish(Fiber *self, PyObject *message, bool failed)
{
	struct thread *thread;
	Fiber *to;

	/* All of this may run code, which may switch. */
	import_check();
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
	to = self->exiting ? self->ender : heir(self, thread, NULL);
	self->refusals = 0;
	self->state = STATE_FINISHED;
	to->message = message;
	to->failed = failed;
	leave(thread, to);
	Py_FatalError("kfiber: a finished fiber goes on");
}

void transfer_start(void *unused)
{
	Fiber *self = thread_self()->current;
	PyObject *result;

	(void)unused;
	Py_XDECREF(receive(self));
	interpreter_set_context(self->tstate, self->context);
	self->context = NULL;
	/* They stay where a collection finds them. */
	result = PyObject_Call(self->target, self->args, NULL);
	if (result)
		finish(self, result, false);
	finish(self, interpreter_error_take(), true);
}

static PyObject *refuse_state(Fiber *to)
{
	if (to->state == STATE_FINISHED)
		return error_format(FiberFinishedError, EOWNERDEAD, "%R has finished", to);
	/* To be counted there too. Not while its thread is on its way to it or away. */
	if (to->thread && to->thread->alive && to->thread->current == to && !to->thread->left)
		fiber_switch(to->id);
	return error_format(FiberRunningError, EBUSY, "%R is running", to);
}

/* Whether `thread` may leave its current fiber for `to`. False with an exception set. */
static bool may_enter(struct thread *thread, Fiber *to)
{
	Fiber *from = thread->current;

	if (__builtin_expect(from->exiting, 0)) {
		if (++from->refusals > REFUSALS_MAX)
			abandon(from);
		error_format(FiberError, ECANCELED,
			     "nobody reaches this fiber any more: it may not leave before it has ended");
		return false;
	}
	if (__builtin_expect(fibers_over, 0) && interpreter_ends()) {
		error_format(FiberError, ECANCELED, "the interpreter ends: fibers run no more");
		return false;
	}
	if (__builtin_expect(to->state != STATE_SUSPENDED && to->state != STATE_NEW, 0)) {
		refuse_state(to);
		return false;
	}
	if (__builtin_expect(to->home && to->home != thread, 0)) {
		error_format(FiberPinnedError, EPERM, "%R belongs to another thread", to);
		return false;
	}
	if (__builtin_expect(to->waiting, 0)) {
		error_format(FiberPinnedError, EPERM, "%R waits for another one to end", to);
		return false;
	}
	return !greenlet_imported || !greenlet_inside();
}

/* throw() into a new fiber. */
static PyObject *finish_unrun(struct thread *thread, Fiber *self, PyObject *error)
{
	Fiber *from = thread->current, *to;

	fiber_retire(self);
	/* Which may have run code. */
	thread = thread_self();
	to = heir(self, thread, from);
	if (to != from)
		return transfer(to, error, true);
	if (from->loop)
		loop_return(from);
	interpreter_error_give(error);
	return NULL;
}

PyObject *transfer(Fiber *to, PyObject *message, bool failed)
{
	struct thread *thread;
	Fiber *from;
	int err;

	import_check();
	thread = thread_self();
	if (__builtin_expect(!thread, 0)) {
		thread = thread_convert();
		if (!thread)
			goto refuse;
	}
	/* What may run code may go on elsewhere. */
	if (__builtin_expect(thread->doomed != NULL, 0)) {
		thread_drain(thread);
		thread = thread_self();
	}
	if (loop_imported) {
		loop_leave(thread);
		thread = thread_self();
	}
	if (!may_enter(thread, to))
		goto stay;
	if (to->state == STATE_NEW) {
		if (failed)
			return finish_unrun(thread, to, message);
		if (message != Py_None) {
			PyErr_SetString(PyExc_TypeError,
					"the first switch() to a fiber takes no value: its arguments "
					"are those of Fiber()");
			goto stay;
		}
		to->tstate = interpreter_state_new(to->id, to->stack_size);
		if (!to->tstate)
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
	from = thread_self()->current;
	if (from->loop) {
		PyObject *error = interpreter_error_take();

		loop_return(from);
		interpreter_error_give(error);
	}
refuse:
	Py_DECREF(message);
	return NULL;
}

/* Of an ending: the engine refused. */
static void report(Fiber *self, int err)
{
	error_raise(err, "a fiber that nobody reaches cannot be ended");
	PyErr_WriteUnraisable((PyObject *)self);
}

static void end_here(Fiber *self)
{
	PyObject *error = PyObject_CallNoArgs(FiberExit), *result;
	Fiber *from = thread_self()->current;
	bool waiting = from->waiting;
	int err;

	if (!error) {
		PyErr_WriteUnraisable((PyObject *)self);
		return;
	}
	if (loop_imported)
		loop_leave(thread_self());
	/* All that may have run code, to which it may have gone. */
	if (self->state != STATE_SUSPENDED || self->waiting) {
		Py_DECREF(error);
		goto stay;
	}
	self->message = error;
	self->failed = true;
	self->exiting = true;
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
		report(self, err);
		goto stay;
	}
	/* Whatever its target made of FiberExit is nobody's. */
	if (!result && PyErr_ExceptionMatches(FiberExit))
		PyErr_Clear();
	else if (!result)
		PyErr_WriteUnraisable((PyObject *)self);
	Py_XDECREF(result);
	return;
stay:
	if (from->loop)
		loop_return(from);
}

void transfer_end(Fiber *self, bool here)
{
	struct thread *owner = self->home ? self->home : self->thread;
	PyObject *error;
	bool lent;

	if (fibers_over)
		return;
	error = PyErr_Occurred() ? interpreter_error_take() : NULL;
	if (!here && owner->alive && owner != thread_self()) {
		self->next_doomed = owner->doomed;
		owner->doomed = (Fiber *)Py_NewRef((PyObject *)self);
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
