/* SPDX-License-Identifier: MIT */
/*
 * Attributes that are each fiber's own. They belong to the fiber, under the
 * number of the Local, so that nothing outlives the fiber that set it.
 */
#include "docstrings.h"
#include "interpreter.h"

typedef struct {
	PyObject_HEAD
	/* Never used again. */
	PyObject *number;
	/* Of a subclass: what its __init__ is called with in each fiber. */
	PyObject *args, *kwargs;
	PyObject *weakrefs;
} Local;

static int local_has_init(PyTypeObject *type)
{
	return type->tp_init != PyBaseObject_Type.tp_init;
}

/* The running fiber's attributes, made at need and then, unless `bare`, set up by __init__. Borrowed. */
static PyObject *attributes(Local *self, bool bare)
{
	struct thread *thread = thread_convert();
	PyObject *dict, *new, *all;
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
	all = Py_NewRef(fiber->locals);
	dict = PyDict_SetDefault(all, self->number, new);
	if (dict == new && !bare && local_has_init(Py_TYPE(self)) &&
	    Py_TYPE(self)->tp_init((PyObject *)self, self->args, self->kwargs)) {
		PyObject *error = interpreter_error_take();

		/* The next use tries again. */
		if (PyDict_DelItem(all, self->number))
			PyErr_Clear();
		interpreter_error_give(error);
		dict = NULL;
	}
	Py_DECREF(all);
	Py_DECREF(new);
	return dict;
}

static PyObject *local_getattro(PyObject *op, PyObject *name)
{
	PyObject *dict = attributes((Local *)op, false), *value;

	if (!dict)
		return NULL;
	if (PyUnicode_CompareWithASCIIString(name, "__dict__") == 0)
		return Py_NewRef(dict);
	Py_INCREF(dict);
	value = _PyObject_GenericGetAttrWithDict(op, name, dict, 0);
	Py_DECREF(dict);
	return value;
}

static int local_setattro(PyObject *op, PyObject *name, PyObject *value)
{
	PyObject *dict = attributes((Local *)op, false);
	int err;

	if (!dict)
		return -1;
	if (PyUnicode_CompareWithASCIIString(name, "__dict__") == 0) {
		PyErr_Format(PyExc_AttributeError, "'%.100s' object attribute '__dict__' is read-only",
			     Py_TYPE(op)->tp_name);
		return -1;
	}
	Py_INCREF(dict);
	err = _PyObject_GenericSetAttrWithDict(op, name, value, dict);
	Py_DECREF(dict);
	return err;
}

static PyObject *local_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static unsigned long long last;
	Local *self;

	if (!local_has_init(type) && (PyTuple_GET_SIZE(args) || (kwargs && PyDict_GET_SIZE(kwargs)))) {
		PyErr_Format(PyExc_TypeError, "%.100s() takes no arguments", type->tp_name);
		return NULL;
	}
	self = (Local *)type->tp_alloc(type, 0);
	if (!self)
		return NULL;
	self->number = PyLong_FromUnsignedLongLong(++last);
	self->args = Py_NewRef(args);
	self->kwargs = Py_XNewRef(kwargs);
	/* The class calls __init__ in this fiber. */
	if (!self->number || (local_has_init(type) && !attributes(self, true)))
		Py_CLEAR(self);
	return (PyObject *)self;
}

static int local_traverse(PyObject *op, visitproc visit, void *arg)
{
	Py_VISIT(((Local *)op)->args);
	Py_VISIT(((Local *)op)->kwargs);
	return 0;
}

static int local_clear(PyObject *op)
{
	Py_CLEAR(((Local *)op)->args);
	Py_CLEAR(((Local *)op)->kwargs);
	return 0;
}

static void local_dealloc(PyObject *op)
{
	Local *self = (Local *)op;
	Fiber *fiber = fibers_living;

	PyObject_GC_UnTrack(op);
	if (self->weakrefs)
		PyObject_ClearWeakRefs(op);
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
	local_clear(op);
	Py_TYPE(op)->tp_free(op);
}

static PyTypeObject Local_Type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "kfiber.Local",
	.tp_doc = DOC_Local,
	.tp_basicsize = sizeof(Local),
	.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
	.tp_traverse = local_traverse,
	.tp_clear = local_clear,
	.tp_weaklistoffset = offsetof(Local, weakrefs),
	.tp_new = local_new,
	.tp_dealloc = local_dealloc,
	.tp_getattro = local_getattro,
	.tp_setattro = local_setattro,
};

int local_type_init(PyObject *module)
{
	return PyModule_AddType(module, &Local_Type);
}
