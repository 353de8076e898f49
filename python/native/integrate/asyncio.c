/* SPDX-License-Identifier: MIT */
/*
 * asyncio's running loop is the thread's: a fiber that is entered from a callback
 * sees it. One that a created fiber has started leaves and returns with that
 * fiber, which belongs to the thread while it is suspended; and so do the hooks
 * for asynchronous generators that such a loop sets. Greenlets share their thread's, as
 * greenlet has it: Playwright sets it in one where another one runs it.
 */
#include "interpreter.h"

/* asyncio's functions, kept. */
static PyObject *get_loop, *set_loop;
bool loop_imported;

bool loop_import(PyObject *modules)
{
	PyObject *module = loop_imported ? NULL : PyDict_GetItemString(modules, "_asyncio");

	if (!module || module == Py_None)
		return true;
	get_loop = PyObject_GetAttrString(module, "_get_running_loop");
	set_loop = PyObject_GetAttrString(module, "_set_running_loop");
	loop_imported = get_loop && set_loop && !interpreter_loop_find(get_loop, set_loop);
	if (loop_imported)
		return true;
	PyErr_Clear();
	Py_CLEAR(get_loop);
	Py_CLEAR(set_loop);
	return false;
}

/* New reference; NULL: none, or it failed. */
static PyObject *loop_now(void)
{
	PyObject *loop = PyObject_CallNoArgs(get_loop);

	if (loop == Py_None)
		Py_CLEAR(loop);
	return loop;
}

static PyObject *hooks_now(void)
{
	PyObject *function = PySys_GetObject("get_asyncgen_hooks");

	return function ? PyObject_CallNoArgs(function) : NULL;
}

/* NULL stands for none. */
static void make_running(PyObject *loop, PyObject *hooks)
{
	PyObject *function = PySys_GetObject("set_asyncgen_hooks"), *none = NULL;

	Py_XDECREF(PyObject_CallOneArg(set_loop, loop ? loop : Py_None));
	if (!hooks)
		hooks = none = PyTuple_Pack(2, Py_None, Py_None);
	if (function && hooks)
		Py_XDECREF(PyObject_Call(function, hooks, NULL));
	Py_XDECREF(none);
	if (PyErr_Occurred())
		PyErr_WriteUnraisable(NULL);
}

static void look(struct thread *thread)
{
	Fiber *from = thread->current;
	PyObject *loop = loop_now();

	if (from->root || from->owner != (PyObject *)from) {
		Py_XSETREF(thread->loop, loop);
		Py_XSETREF(thread->hooks, hooks_now());
	} else if (loop == thread->loop) {
		Py_XDECREF(loop);
	} else {
		from->loop = loop;
		/* Before what may run code. A pinned one has it already. */
		if (!from->pinned_to) {
			from->pinned_to = thread;
			thread_take(thread);
		}
		from->hooks = hooks_now();
		from->task = interpreter_task_swap(thread->task);
		thread->task = NULL;
		make_running(thread->loop, thread->hooks);
	}
	PyErr_Clear();
}

void loop_leave(struct thread *thread)
{
	if (interpreter_loop_changed(thread))
		look(thread);
}

void loop_return(Fiber *fiber)
{
	PyObject *loop = fiber->loop, *hooks = fiber->hooks, *task = fiber->task;
	struct thread *thread = thread_self();

	fiber->loop = fiber->hooks = fiber->task = NULL;
	make_running(loop, hooks);
	Py_XSETREF(thread->task, interpreter_task_swap(task));
	Py_XDECREF(loop);
	Py_XDECREF(hooks);
	if (!fiber->pins) {
		thread_drop(fiber->pinned_to);
		fiber->pinned_to = NULL;
	}
}
