/* SPDX-License-Identifier: MIT */
/*
 * How a greenlet is left for another one.
 *
 *	green_switch()		finds the fiber that gets what is sent
 *	  begin()		makes one if that greenlet is new
 *	  transfer()		... until somebody comes back
 *	  tell()		calls the trace function
 *
 * and on the new fiber
 *
 *	green_run()		calls the function
 *	green_next_target()		finds the parent that gets its value
 *
 * What is sent is an argument tuple until its receiver is known: a new greenlet is called with
 * it, a suspended one gets what is in it.
 */
#include "green.h"
#include "interpreter.h"

PyObject *GreenletError, *GreenletExit;

/* --- trace functions ----------------------------------------------------- */

static bool is_traced(void)
{
	const struct thread *thread = thread_self();

	return __builtin_expect(thread->greenlets && thread->greenlets->trace, 0);
}

/* The calling greenlet is about to be left. */
static void note_origin(void)
{
	struct thread *thread = thread_self();

	Py_XSETREF(thread->greenlets->origin, (PyGreenlet *)Py_XNewRef((PyObject *)thread->current->greenlet));
}

/*
 * Tells the trace function that the calling greenlet goes on, with `message` or, if that is NULL,
 * an exception. Takes and returns it; NULL with an exception set.
 */
static PyObject *tell(PyObject *message)
{
	struct green_thread *here = thread_self()->greenlets;
	PyObject *trace = Py_NewRef(here->trace), *error, *result;
	PyGreenlet *origin = here->origin;

	here->origin = NULL;
	error = message ? NULL : interpreter_error_take();
	interpreter_trace_pause();
	result = PyObject_CallFunction(trace, "s(OO)", message ? "switch" : "throw",
				       origin ? (PyObject *)origin : Py_None,
				       thread_self()->current->greenlet);
	interpreter_trace_resume();
	Py_XDECREF(origin);
	Py_DECREF(trace);
	if (!result) {
		/* It is not called again, and what it raised goes to this greenlet. */
		Py_CLEAR(thread_self()->greenlets->trace);
		Py_XDECREF(message);
		Py_XDECREF(error);
		return NULL;
	}
	Py_DECREF(result);
	if (error)
		interpreter_error_give(error);
	return message;
}

/* --- who gets it --------------------------------------------------------- */

/* The thread whose greenlets it belongs to; NULL: one of its ancestors was collected. */
static struct thread *lineage(const PyGreenlet *self)
{
	for (; self; self = green_of(self)->parent)
		if (green_of(self)->thread)
			return green_of(self)->thread;
	return NULL;
}

/* -1 with an exception set: it may not be switched to from here. */
static int check_thread(const PyGreenlet *self)
{
	const struct thread *thread = lineage(self), *here = thread_self();

	if (__builtin_expect(thread == here, 1))
		return 0;
	if (!thread)
		PyErr_SetString(GreenletError, "cannot switch to a garbage collected greenlet");
	else if (!thread->alive)
		PyErr_SetString(GreenletError, "cannot switch to a different thread (which happens to have exited)");
	else
		PyErr_Format(GreenletError, "Cannot switch to a different thread\n\tCurrent:  %R\n\tExpected: %R",
			     here->greenlets->main, thread->greenlets->main);
	return -1;
}

/* What a suspended greenlet gets for that; takes both. NULL with an exception set. */
static PyObject *unpack(PyObject *args, PyObject *kwargs)
{
	PyObject *value;

	if (kwargs && PyDict_GET_SIZE(kwargs)) {
		if (!PyTuple_GET_SIZE(args)) {
			Py_DECREF(args);
			return kwargs;
		}
		value = PyTuple_Pack(2, args, kwargs);
	} else {
		value = Py_NewRef(PyTuple_GET_SIZE(args) == 1 ? PyTuple_GET_ITEM(args, 0) : args);
	}
	Py_DECREF(args);
	Py_XDECREF(kwargs);
	return value;
}

/*
 * A new greenlet's fiber. Its `run` may be anything, and run code: NULL, with `begun`, if that has started
 * it. NULL with an exception set.
 */
static Fiber *begin(PyGreenlet *self, bool *begun)
{
	PyObject *error = PyErr_Occurred() ? interpreter_error_take() : NULL, *run, *name;
	struct green *green = green_of(self);
	struct thread *thread;
	Fiber *fiber = NULL;

	run = PyObject_GetAttrString((PyObject *)self, "run");
	name = run ? green_name(self, run) : NULL;
	*begun = name && green->started;
	if (!name || *begun || check_thread(self)) {
		Py_XDECREF(run);
		Py_XDECREF(name);
		if (*begun)
			goto done;
		goto failed;
	}
	thread = thread_self();
	fiber = fiber_of_greenlet(self, run, name, thread);
	if (!fiber)
		goto failed;
	fiber->context = green->context;
	green->context = NULL;
	green->fiber = fiber;
	green->thread = thread;
	thread_take(thread);
	green->started = true;
done:
	if (error)
		interpreter_error_give(error);
	return fiber;

failed:
	Py_XDECREF(error);
	return NULL;
}

/* It could not be entered. */
void green_not_begun(Fiber *fiber)
{
	struct green *green = green_of(fiber->greenlet);

	green->started = false;
	green->fiber = NULL;
	green->context = fiber->context;
	fiber->context = NULL;
	thread_drop(green->thread);
	green->thread = NULL;
	fiber->greenlet = NULL;
	fiber->owner = (PyObject *)fiber;
	Py_DECREF(fiber);
}

/*
 * The first of `*self` and its ancestors that can go on, begun if it is new: its fiber, with a reference
 * to the fiber's owner. `args` is NULL if an exception is sent. Without any, the thread's root. NULL with an
 * exception set. `*self`, a reference, becomes where it stopped; NULL: nowhere.
 */
static Fiber *find(PyGreenlet **self, PyObject *args)
{
	Fiber *fiber = NULL;

	while (*self && !fiber) {
		struct green *green = green_of(*self);
		bool begun = false;

		if (green_active(green)) {
			fiber = green->fiber;
		} else if (green->started) {
			Py_XSETREF(*self, (PyGreenlet *)Py_XNewRef((PyObject *)green->parent));
		} else {
			fiber = begin(*self, &begun);
			if (fiber)
				fiber->args = Py_XNewRef(args);
			else if (!begun)
				return NULL;
		}
	}
	if (!fiber)
		fiber = thread_self()->root;
	Py_INCREF(fiber->owner);
	return fiber;
}

/* --- switching ----------------------------------------------------------- */

/* Whether a fiber that was found is still to be entered; if not, it may be freed. */
static bool is_there(const Fiber *fiber, PyObject *owner)
{
	if (Py_REFCNT(owner) == 1)
		return false;
	if (PyObject_TypeCheck(owner, &PyGreenlet_Type) && green_of((PyGreenlet *)owner)->fiber != fiber)
		return false;
	return fiber->state != STATE_FINISHED;
}

PyObject *green_back(PyObject *message)
{
	struct thread *thread;

	if (!is_traced())
		return message;
	thread = thread_self();
	/* If nobody was left the switch has failed. */
	if (thread->greenlets->origin && thread->greenlets->origin != thread->current->greenlet)
		return tell(message);
	return message;
}

/* To the calling greenlet itself. */
static PyObject *stay(PyObject *message)
{
	if (!is_traced())
		return message;
	note_origin();
	return tell(message);
}

/* To another one, with what find() has found: an argument tuple, or an exception; all taken. */
static PyObject *go(struct thread *thread, Fiber *fiber, PyObject *args, PyObject *kwargs, PyObject *error)
{
	PyObject *message;

	if (error)
		message = error;
	else if (fiber->state != STATE_NEW)
		message = unpack(args, kwargs);
	else
		message = kwargs ? kwargs : Py_NewRef(Py_None);
	if (!error && fiber->state == STATE_NEW)
		Py_DECREF(args);
	if (!message) {
		transfer_cancel();
		return NULL;
	}
	if (is_traced())
		note_origin();
	return green_back(transfer_commit(thread, fiber, message, error));
}

PyObject *green_switch(PyGreenlet *self, PyObject *args, PyObject *kwargs)
{
	PyObject *owner, *error = NULL;
	struct thread *thread;
	PyGreenlet *at;
	Fiber *fiber;
	bool there;

	if (!green_current())
		goto drop;
	for (;;) {
		at = (PyGreenlet *)Py_NewRef((PyObject *)self);
		fiber = check_thread(self) ? NULL : find(&at, args);
		Py_XDECREF(at);
		if (!fiber)
			goto drop;
		owner = fiber->owner;
		if (fiber == thread_self()->current) {
			Py_DECREF(owner);
			return stay(args ? unpack(args, kwargs) : NULL);
		}
		if (!args)
			error = interpreter_error_take();
		/* May run code, to which the greenlet may have gone on, and ended. */
		thread = transfer_begin();
		there = is_there(fiber, owner);
		Py_DECREF(owner);
		if (!thread) {
			Py_XDECREF(error);
			goto drop;
		}
		if (there)
			return go(thread, fiber, args, kwargs, error);
		transfer_cancel();
		if (!args)
			interpreter_error_give(error);
	}
drop:
	Py_XDECREF(args);
	Py_XDECREF(kwargs);
	return NULL;
}

/* Sets the exception that throw() was called with. -1 with another one set. */
static int set_error(PyObject *type, PyObject *value, PyObject *traceback)
{
	if (traceback == Py_None)
		traceback = NULL;
	if (traceback && !PyTraceBack_Check(traceback)) {
		PyErr_SetString(PyExc_TypeError, "throw() third argument must be a traceback object");
		return -1;
	}
	if (PyExceptionClass_Check(type)) {
		Py_INCREF(type);
		Py_XINCREF(value);
		Py_XINCREF(traceback);
		PyErr_NormalizeException(&type, &value, &traceback);
	} else if (PyExceptionInstance_Check(type)) {
		if (value && value != Py_None) {
			PyErr_SetString(PyExc_TypeError,
					"instance exception may not have a separate value");
			return -1;
		}
		value = Py_NewRef(type);
		type = Py_NewRef(PyExceptionInstance_Class(value));
		traceback = traceback ? Py_NewRef(traceback) : PyException_GetTraceback(value);
	} else {
		PyErr_Format(PyExc_TypeError, "exceptions must be classes, or instances, not %s",
			     Py_TYPE(type)->tp_name);
		return -1;
	}
	PyErr_Restore(type, value, traceback);
	return 0;
}

/* If the exception that is set is GreenletExit: it as a value, and none is set. NULL otherwise. */
static PyObject *take_exit(void)
{
	return PyErr_ExceptionMatches(GreenletExit) ? interpreter_error_take() : NULL;
}

PyObject *green_throw(PyGreenlet *self, PyObject *type, PyObject *value, PyObject *traceback)
{
	const struct green *green = green_of(self);
	PyObject *exit = NULL, *args = NULL;

	if (set_error(type, value, traceback))
		return NULL;
	/* What is dead has nothing to be ended. */
	if (green->started && !green_active(green))
		exit = take_exit();
	if (exit) {
		args = PyTuple_Pack(1, exit);
		Py_DECREF(exit);
		if (!args)
			return NULL;
	}
	return green_switch(self, args, NULL);
}

/* --- on the new fiber ---------------------------------------------------- */

PyObject *green_run(Fiber *fiber, PyObject *message)
{
	struct green *green = green_of(fiber->greenlet);
	PyObject *result = NULL;

	Py_CLEAR(green->run);
	if (is_traced())
		message = tell(message);
	if (message)
		result = PyObject_Call(fiber->target, fiber->args, message == Py_None ? NULL : message);
	Py_XDECREF(message);
	Py_CLEAR(fiber->target);
	Py_CLEAR(fiber->args);
	if (!result)
		result = take_exit();
	green->context = Py_XNewRef(fiber->tstate->context);
	green->ended = true;
	return result;
}

/* An exception becomes what is sent. */
static void send_error(PyObject **message, bool *failed)
{
	Py_XSETREF(*message, interpreter_error_take());
	*failed = true;
}

/* One of the ancestors; NULL with an exception set, and `*at` is where it failed. */
static Fiber *find_target(PyGreenlet **at, PyObject *message, bool failed)
{
	PyObject *args = failed ? NULL : PyTuple_Pack(1, message);
	Fiber *fiber;

	if (!failed && !args)
		return NULL;
	if (failed)
		interpreter_error_give(Py_NewRef(message));
	fiber = find(at, args);
	if (failed && fiber)
		PyErr_Clear();
	Py_XDECREF(args);
	if (!fiber)
		return NULL;
	/* Its child, which ends, refers to it. */
	Py_DECREF(fiber->owner);
	if (fiber->state == STATE_NEW) {
		if (!transfer_prepare(fiber))
			return fiber;
		green_not_begun(fiber);
	} else if (transfer_possible(fiber, thread_self())) {
		return fiber;
	} else {
		PyErr_SetString(GreenletError, "cannot switch to a parent that belongs to a different thread");
	}
	return NULL;
}

Fiber *green_next_target(Fiber *fiber, PyObject **message, bool *failed)
{
	PyGreenlet *at = (PyGreenlet *)Py_XNewRef((PyObject *)green_of(fiber->greenlet)->parent);
	Fiber *to;

	while (!(to = find_target(&at, *message, *failed))) {
		send_error(message, failed);
		if (!at) {
			to = thread_self()->root;
			break;
		}
		Py_XSETREF(at, (PyGreenlet *)Py_XNewRef((PyObject *)green_of(at)->parent));
	}
	Py_XDECREF(at);
	/* It has its argument already. */
	if (to->state == STATE_NEW && !*failed)
		Py_SETREF(*message, Py_NewRef(Py_None));
	if (is_traced())
		note_origin();
	return to;
}
