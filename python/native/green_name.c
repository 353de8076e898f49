/* SPDX-License-Identifier: MIT */
/*
 * What tools show of a greenlet. gevent's know more of themselves than their function: where they were
 * spawned, and the name that somebody gave them. Those without have one with a number, which gevent gives
 * out when it is asked for the first time: to ask would change the numbers of others.
 */
#include "green.h"

/* New reference; NULL without an exception: it has none. */
static PyObject *attribute(PyObject *object, const char *name)
{
	PyObject *value = PyObject_GetAttrString(object, name);

	PyErr_Clear();
	return value;
}

static PyObject *text(PyObject *object, const char *name)
{
	PyObject *value = attribute(object, name);

	if (value && (!PyUnicode_Check(value) || !PyUnicode_GET_LENGTH(value)))
		Py_CLEAR(value);
	return value;
}

/*
 * " file.py:5", of the first frame outside gevent, else of its own, but of those that spawn for others;
 * empty: not known. New reference.
 */
static PyObject *spawn_site(PyObject *self)
{
	PyObject *frame = attribute(self, "spawning_stack"), *result = NULL;
	bool outside = false;

	while (frame && frame != Py_None && !outside) {
		PyObject *code = attribute(frame, "f_code"), *line = attribute(frame, "f_lineno");
		PyObject *file = code ? text(code, "co_filename") : NULL;
		const char *path = file ? PyUnicode_AsUTF8(file) : NULL;

		outside = path && !strstr(path, "/gevent/");
		if (path && line && (outside || (!result && !strstr(path, "/gevent/pool.py"))))
			Py_XSETREF(result, PyUnicode_FromFormat(" %s:%S", strrchr(path, '/') ?
								strrchr(path, '/') + 1 : path, line));
		Py_XDECREF(code);
		Py_XDECREF(line);
		Py_XDECREF(file);
		Py_SETREF(frame, attribute(frame, "f_back"));
	}
	Py_XDECREF(frame);
	PyErr_Clear();
	return result ? result : PyUnicode_FromString("");
}

/* Of the task for which Celery's pool calls that function: the first argument of what it is to call. New reference. */
static PyObject *celery_task(PyObject *self, PyObject *function)
{
	PyObject *module = text(function, "__module__"), *args = NULL, *call, *name = NULL;

	if (module && !PyUnicode_CompareWithASCIIString(module, "celery.concurrency.gevent"))
		args = attribute(self, "args");
	if (args && PyTuple_Check(args) && PyTuple_GET_SIZE(args) > 1) {
		call = PyTuple_GET_ITEM(args, 1);
		if (PyTuple_Check(call) && PyTuple_GET_SIZE(call))
			name = PyTuple_GET_ITEM(call, 0);
	}
	name = name && PyUnicode_Check(name) ? Py_NewRef(name) : NULL;
	Py_XDECREF(module);
	Py_XDECREF(args);
	return name;
}

/* That somebody gave it. Borrowed; NULL: none. */
static PyObject *given_name(const PyGreenlet *self)
{
	PyObject *name = self->dict ? PyDict_GetItemString(self->dict, "name") : NULL;

	return name && PyUnicode_Check(name) ? name : NULL;
}

PyObject *green_name(PyGreenlet *self, PyObject *run)
{
	PyObject *function, *target, *name, *site, *result;

	/* The class says whether it is gevent's, which is quick. */
	if (Py_TYPE(self) == &PyGreenlet_Type || !PyObject_HasAttrString((PyObject *)Py_TYPE(self), "spawning_stack"))
		return fiber_default_name(run);
	target = attribute((PyObject *)self, "_run");
	function = target ? celery_task((PyObject *)self, target) : NULL;
	if (!function)
		function = fiber_default_name(target ? target : run);
	site = function ? spawn_site((PyObject *)self) : NULL;
	name = given_name(self);
	if (name)
		result = site ? PyUnicode_FromFormat("%U %U%U", name, function, site) : NULL;
	else
		result = site ? PyUnicode_FromFormat("%U%U", function, site) : NULL;
	Py_XDECREF(target);
	Py_XDECREF(function);
	Py_XDECREF(site);
	return result;
}
