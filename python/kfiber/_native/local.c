/* SPDX-License-Identifier: MIT */
/*
 * Attributes that are each fiber's own. They belong to the fiber, under the
 * number of the Local, so that nothing outlives the fiber that set it.
 */
#include "native.h"

typedef struct {
	PyObject_HEAD
	/* Never used again. */
	PyObject *number;
} Local;

/* The running fiber's attributes, made at need. Borrowed. */
static PyObject *attributes(Local *self)
{
	struct thread *thread = thread_convert();
	PyObject *dict, *new;
	Fiber *fiber;

	if (!thread)
		return NULL;
	fiber = thread->current;
	/* A new dictionary may start a collection, whose finalizers may set attributes. */
	if (!fiber->locals) {
		new = PyDict_New();
		if (!new)
			return NULL;
		if (fiber->locals)
			Py_DECREF(new);
		else
			fiber->locals = new;
	}
	dict = PyDict_GetItemWithError(fiber->locals, self->number);
	if (dict || PyErr_Occurred())
		return dict;
	new = PyDict_New();
	if (!new)
		return NULL;
	dict = PyDict_SetDefault(fiber->locals, self->number, new);
	Py_DECREF(new);
	return dict;
}

static PyObject *local_getattro(PyObject *op, PyObject *name)
{
	PyObject *dict = attributes((Local *)op), *value;

	if (!dict)
		return NULL;
	if (PyUnicode_CompareWithASCIIString(name, "__dict__") == 0)
		return Py_NewRef(dict);
	value = PyDict_GetItemWithError(dict, name);
	if (value)
		return Py_NewRef(value);
	return PyErr_Occurred() ? NULL : PyObject_GenericGetAttr(op, name);
}

static int local_setattro(PyObject *op, PyObject *name, PyObject *value)
{
	PyObject *dict = attributes((Local *)op);
	int err;

	if (!dict)
		return -1;
	if (value)
		return PyDict_SetItem(dict, name, value);
	err = PyDict_DelItem(dict, name);
	if (err && PyErr_ExceptionMatches(PyExc_KeyError))
		PyErr_Format(PyExc_AttributeError, "'Local' object has no attribute %R", name);
	return err;
}

static PyObject *local_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static unsigned long long last;
	Local *self;

	if (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs))) {
		PyErr_SetString(PyExc_TypeError, "Local() takes no arguments");
		return NULL;
	}
	self = (Local *)type->tp_alloc(type, 0);
	if (!self)
		return NULL;
	self->number = PyLong_FromUnsignedLongLong(++last);
	if (!self->number)
		Py_CLEAR(self);
	return (PyObject *)self;
}

static void local_dealloc(PyObject *op)
{
	Local *self = (Local *)op;
	Fiber *fiber = fibers_living;

	while (self->number && fiber) {
		PyObject *dict = fiber->locals ?
				 PyDict_GetItemWithError(fiber->locals, self->number) : NULL;

		if (!dict) {
			fiber = fiber->next;
			continue;
		}
		Py_INCREF(dict);
		PyDict_DelItem(fiber->locals, self->number);
		/* May run code, and then fibers may have come and gone. */
		Py_DECREF(dict);
		fiber = fibers_living;
	}
	Py_XDECREF(self->number);
	Py_TYPE(op)->tp_free(op);
}

static PyTypeObject Local_Type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "kfiber.Local",
	.tp_basicsize = sizeof(Local),
	.tp_flags = Py_TPFLAGS_DEFAULT,
	.tp_new = local_new,
	.tp_dealloc = local_dealloc,
	.tp_getattro = local_getattro,
	.tp_setattro = local_setattro,
};

int local_type_init(PyObject *module)
{
	return PyModule_AddType(module, &Local_Type);
}
