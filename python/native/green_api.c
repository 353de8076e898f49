/* SPDX-License-Identifier: MIT */
/*
 * The module that programs import as greenlet._greenlet, and the table of functions that
 * compiled ones take from it, in greenlet's order.
 */
#include "green.h"
#include "interpreter.h"

#include <time.h>

/* --- the C API ----------------------------------------------------------- */

static bool check(PyGreenlet *self)
{
	if (self && PyObject_TypeCheck(self, &PyGreenlet_Type))
		return true;
	PyErr_BadArgument();
	return false;
}

static PyGreenlet *api_current(void)
{
	if (interpreter_ends()) {
		PyErr_SetString(PyExc_RuntimeError, "greenlet is being finalized");
		return NULL;
	}
	return (PyGreenlet *)Py_XNewRef((PyObject *)green_current());
}

static PyGreenlet *api_new(PyObject *run, PyGreenlet *parent)
{
	return (PyGreenlet *)PyObject_CallFunctionObjArgs((PyObject *)&PyGreenlet_Type, run ? run : Py_None,
							  parent, NULL);
}

static PyObject *api_throw(PyGreenlet *self, PyObject *type, PyObject *value, PyObject *traceback)
{
	return check(self) ? green_throw(self, type, value, traceback) : NULL;
}

static PyObject *api_switch(PyGreenlet *self, PyObject *args, PyObject *kwargs)
{
	if (!check(self))
		return NULL;
	args = args ? Py_NewRef(args) : PyTuple_New(0);
	if (!args)
		return NULL;
	return green_switch(self, args, kwargs && PyDict_Check(kwargs) ? Py_NewRef(kwargs) : NULL);
}

static int api_set_parent(PyGreenlet *self, PyGreenlet *parent)
{
	return green_set_parent(self, (PyObject *)parent);
}

static int api_is_main(PyGreenlet *self)
{
	return check(self) ? green_of(self)->main : -1;
}

static int api_is_started(PyGreenlet *self)
{
	return check(self) ? green_of(self)->started : -1;
}

static int api_is_active(PyGreenlet *self)
{
	return check(self) ? green_active(green_of(self)) : -1;
}

/* NULL without an exception: none. */
static PyGreenlet *api_parent(PyGreenlet *self)
{
	return check(self) ? (PyGreenlet *)Py_XNewRef((PyObject *)green_of(self)->parent) : NULL;
}

void *green_api[] = {
	&PyGreenlet_Type,
	/* The two exceptions. */
	NULL,
	NULL,
	api_new,
	api_current,
	api_throw,
	api_switch,
	api_set_parent,
	api_is_main,
	api_is_started,
	api_is_active,
	api_parent,
};

/* --- functions ----------------------------------------------------------- */

static PyObject *getcurrent(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return (PyObject *)api_current();
}

static PyObject *gettrace(PyObject *module, PyObject *unused)
{
	struct green_thread *here = green_thread();

	(void)module;
	(void)unused;
	if (!here)
		return NULL;
	return Py_NewRef(here->trace ? here->trace : Py_None);
}

static PyObject *settrace(PyObject *module, PyObject *function)
{
	struct green_thread *here = green_thread();
	PyObject *former;

	(void)module;
	if (!here)
		return NULL;
	former = here->trace;
	here->trace = function == Py_None ? NULL : Py_NewRef(function);
	return former ? former : Py_NewRef(Py_None);
}

static PyObject *set_thread_local(PyObject *module, PyObject *args)
{
	PyObject *key, *value;

	(void)module;
	if (!PyArg_UnpackTuple(args, "set_thread_local", 2, 2, &key, &value) ||
	    PyDict_SetItem(PyThreadState_GetDict(), key, value))
		return NULL;
	Py_RETURN_NONE;
}

/* A thread's greenlets are dealt with when it ends, so none is pending. */
static PyObject *get_pending_cleanup_count(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return PyLong_FromLong(0);
}

static PyObject *get_total_main_greenlets(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return PyLong_FromSsize_t(green_mains);
}

/* What takes greenlet a search by the collector takes no time here; None: it was switched off. */
static bool cleanup = true;

static PyObject *get_clocks_used_doing_optional_cleanup(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	if (!cleanup)
		Py_RETURN_NONE;
	return PyLong_FromLong(0);
}

static PyObject *enable_optional_cleanup(PyObject *module, PyObject *flag)
{
	int wish = PyObject_IsTrue(flag);

	(void)module;
	if (wish < 0)
		return NULL;
	cleanup = wish;
	Py_RETURN_NONE;
}

#if PY_VERSION_HEX < 0x030d0000
static PyObject *get_tstate_trash_delete_nesting(PyObject *module, PyObject *unused)
{
	PyThreadState *state = PyThreadState_Get();

	(void)module;
	(void)unused;
#if PY_VERSION_HEX >= 0x030c0000
	return PyLong_FromLong(state->trash.delete_nesting);
#else
	return PyLong_FromLong(state->trash_delete_nesting);
#endif
}
#endif

static PyMethodDef functions[] = {
	{ "getcurrent", getcurrent, METH_NOARGS, "getcurrent()\n--\n\nThe calling greenlet." },
	{ "settrace", settrace, METH_O,
	  "settrace(callback, /)\n--\n\n"
	  "Has callback(event, (origin, target)) called after each switch of this thread, in the target: event\n"
	  "is 'switch' or 'throw'. None: no more. Returns the former one." },
	{ "gettrace", gettrace, METH_NOARGS, "gettrace()\n--\n\nThis thread's trace function, or None." },
	{ "set_thread_local", set_thread_local, METH_VARARGS, NULL },
	{ "get_pending_cleanup_count", get_pending_cleanup_count, METH_NOARGS, NULL },
	{ "get_total_main_greenlets", get_total_main_greenlets, METH_NOARGS, NULL },
	{ "get_clocks_used_doing_optional_cleanup", get_clocks_used_doing_optional_cleanup, METH_NOARGS,
	  NULL },
	{ "enable_optional_cleanup", enable_optional_cleanup, METH_O, NULL },
#if PY_VERSION_HEX < 0x030d0000
	{ "get_tstate_trash_delete_nesting", get_tstate_trash_delete_nesting, METH_NOARGS, NULL },
#endif
	{ 0 },
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "greenlet._greenlet",
	.m_doc = "Greenlets that are fibers.",
	.m_size = -1,
	.m_methods = functions,
};

/* What greenlet's class has from its module. */
static const char *const of_class[] = { "getcurrent", "error", "GreenletExit", "settrace", "gettrace" };

int green_init_module(PyObject *native)
{
	PyObject *module = PyModule_Create(&definition), *dict;
	size_t i;

	if (!module || PyModule_AddObjectRef(native, "greenlet", module))
		return -1;
	dict = PyModule_GetDict(module);
	Py_DECREF(module);
	GreenletError = PyErr_NewExceptionWithDoc("greenlet.error", "A greenlet cannot do what was asked.",
						  NULL, NULL);
	GreenletExit = PyErr_NewExceptionWithDoc("greenlet.GreenletExit",
						 "Ends a greenlet, whose value it becomes.",
						 PyExc_BaseException, NULL);
	if (!GreenletError || !GreenletExit || green_type_init())
		return -1;
	green_api[1] = GreenletError;
	green_api[2] = GreenletExit;
	if (PyModule_AddObjectRef(module, "greenlet", (PyObject *)&PyGreenlet_Type) ||
	    PyModule_AddObjectRef(module, "error", GreenletError) ||
	    PyModule_AddObjectRef(module, "GreenletExit", GreenletExit) ||
	    PyModule_AddIntConstant(module, "GREENLET_USE_GC", 1) ||
	    PyModule_AddIntConstant(module, "GREENLET_USE_TRACING", 1) ||
	    PyModule_AddIntConstant(module, "GREENLET_USE_CONTEXT_VARS", 1) ||
	    PyModule_AddIntConstant(module, "GREENLET_USE_STANDARD_THREADING", 1) ||
	    PyModule_AddIntConstant(module, "CLOCKS_PER_SEC", CLOCKS_PER_SEC) ||
	    PyModule_AddObject(module, "_C_API", PyCapsule_New(green_api, "greenlet._C_API", NULL)))
		return -1;
	for (i = 0; i < sizeof(of_class) / sizeof(of_class[0]); i++)
		if (PyDict_SetItemString(PyGreenlet_Type.tp_dict, of_class[i],
					 PyDict_GetItemString(dict, of_class[i])))
			return -1;
	return 0;
}
