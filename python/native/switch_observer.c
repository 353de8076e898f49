/* SPDX-License-Identifier: MIT */
/*
 * Who is told of each switch: a profiler or tracer that keeps something for each fiber. libfiber has
 * the same for C, fiber_set_observer(), in the middle of a switch; this one may run Python.
 */
#include "interpreter.h"

#include <errno.h>

PyObject *switch_observer;

void switch_observer_tell(Fiber *left)
{
	PyObject *error = PyErr_Occurred() ? interpreter_error_take() : NULL;
	struct thread *thread = thread_self();
	PyObject *told = Py_NewRef(switch_observer), *result;

	if (!thread->observed) {
		thread->observed = true;
		result = PyObject_CallFunctionObjArgs(told, left, thread->current, NULL);
		thread->observed = false;
		if (!result) {
			PyErr_WriteUnraisable(told);
			/* One that failed once would fail at each switch. */
			if (switch_observer == told)
				Py_CLEAR(switch_observer);
		}
		Py_XDECREF(result);
	}
	Py_DECREF(told);
	if (error)
		interpreter_error_give(error);
}

PyObject *switch_observer_set(PyObject *module, PyObject *function)
{
	PyObject *former = switch_observer ? switch_observer : Py_NewRef(Py_None);

	(void)module;
	if (function != Py_None && !PyCallable_Check(function)) {
		if (!switch_observer)
			Py_DECREF(former);
		return PyErr_Format(PyExc_TypeError, "an observer must be callable or None, not %.100s",
				    Py_TYPE(function)->tp_name);
	}
	switch_observer = function == Py_None ? NULL : Py_NewRef(function);
	return former;
}
