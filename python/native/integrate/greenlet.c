/* SPDX-License-Identifier: MIT */
/*
 * Greenlets beside fibers. While a thread's main greenlet runs, the frames of the others are in
 * the heap; a switch to one copies them to where it was started. So a fiber cannot be
 * left inside a greenlet, and a greenlet runs only on the fiber that started it: elsewhere it
 * would overwrite a stack that is in use, or not there any more.
 *
 * Whatever switches to a greenlet comes through here first: the methods switch() and throw(), the
 * same of the C API, and the end of a greenlet that nobody refers to, which is thrown into.
 */
#include "native.h"

#include <errno.h>

/* Places in the table of greenlet's documented C API, which only grows. */
enum {
	TYPE = 0,
	GET_CURRENT = 4,
	THROW = 5,
	SWITCH = 6,
	IS_MAIN = 8,
	IS_STARTED = 9,
	IS_ACTIVE = 10,
	GET_PARENT = 11,
};

#define CURRENT()		((PyObject *(*)(void))api[GET_CURRENT])()
#define PARENT(greenlet)	((PyObject *(*)(PyObject *))api[GET_PARENT])(greenlet)
#define IS(what, greenlet)	((int (*)(PyObject *))api[IS_##what])(greenlet)

typedef PyObject *throw_function(PyObject *, PyObject *, PyObject *, PyObject *);

bool greenlet_imported;
static void **api;

/* What is called if the switch is right. */
static PyCFunctionWithKeywords switch_method, switch_api;
static PyCFunction throw_method;
static throw_function *throw_api;
static destructor dealloc;

/* The number of the stack where it was started, by its address, for those that are not on 0. */
static PyObject *homes;
/* Of those that were started before anybody looked: struct thread has it. */
#define BEFORE ((fiber_id_t)-1)
/* Nobody else refers to them, but they may not end where that came about. */
static PyObject *dropped;

/* The main one of its thread. New reference; NULL with an exception set. */
static PyObject *main_of(PyObject *greenlet)
{
	PyObject *parent;

	Py_INCREF(greenlet);
	while (!IS(MAIN, greenlet) && (parent = PARENT(greenlet)))
		Py_SETREF(greenlet, parent);
	return greenlet;
}

/* The calling thread's. */
static PyObject *main_here(void)
{
	PyObject *current = CURRENT(), *main;

	if (!current)
		return NULL;
	main = main_of(current);
	Py_DECREF(current);
	return main;
}

/* Whether it belongs to the thread whose main greenlet that is. */
static bool belongs(PyObject *greenlet, PyObject *main)
{
	PyObject *its = main_of(greenlet);

	Py_DECREF(its);
	return its == main;
}

/* Whether it has frames beside those of its thread's main one. */
static bool has_frames(PyObject *greenlet)
{
	return IS(ACTIVE, greenlet) && !IS(MAIN, greenlet);
}

static fiber_id_t stack_here(void)
{
	struct thread *thread = thread_self();

	return thread ? thread->current->stack : 0;
}

/* -1 with an exception set. */
static int home_set(PyObject *greenlet, fiber_id_t stack)
{
	PyObject *key = PyLong_FromVoidPtr(greenlet), *number = PyLong_FromUnsignedLongLong(stack);
	int err = key && number ? PyDict_SetItem(homes, key, number) : -1;

	Py_XDECREF(key);
	Py_XDECREF(number);
	return err;
}

/* -1 with an exception set. */
static int home_get(PyObject *greenlet, fiber_id_t *stack)
{
	struct thread *thread = thread_self();
	PyObject *key, *number;

	*stack = 0;
	if (!PyDict_GET_SIZE(homes))
		return 0;
	key = PyLong_FromVoidPtr(greenlet);
	number = key ? PyDict_GetItemWithError(homes, key) : NULL;
	Py_XDECREF(key);
	if (number)
		*stack = PyLong_AsUnsignedLongLong(number);
	if (number && *stack == BEFORE)
		*stack = thread ? thread->greenlets_before : 0;
	return PyErr_Occurred() ? -1 : 0;
}

static void home_forget(PyObject *greenlet)
{
	PyObject *key = PyDict_GET_SIZE(homes) ? PyLong_FromVoidPtr(greenlet) : NULL;

	if (key && PyDict_Contains(homes, key) > 0)
		PyDict_DelItem(homes, key);
	Py_XDECREF(key);
}

/* Whether the calling fiber may throw into it. */
static bool may_end(PyObject *greenlet)
{
	PyObject *main = main_here();
	fiber_id_t home;
	bool may;

	may = main && belongs(greenlet, main) && !home_get(greenlet, &home) && home == stack_here();
	Py_XDECREF(main);
	return may;
}

/* Those that the calling fiber started. */
static void end_dropped(void)
{
	Py_ssize_t i;

	for (i = PyList_GET_SIZE(dropped); i-- > 0;) {
		PyObject *greenlet = PyList_GET_ITEM(dropped, i);

		if (!may_end(greenlet))
			continue;
		Py_INCREF(greenlet);
		PySequence_DelItem(dropped, i);
		/* Its end may run code, and that end others. */
		Py_DECREF(greenlet);
		i = PyList_GET_SIZE(dropped);
	}
	PyErr_Clear();
}

/* The calling fiber is about to switch to `greenlet`. -1 with an exception set: it may not. */
static int enter(PyObject *greenlet)
{
	fiber_id_t home, here;

	import_check();
	if (PyList_GET_SIZE(dropped))
		end_dropped();
	here = stack_here();
	if (!IS(STARTED, greenlet))
		return here ? home_set(greenlet, here) : 0;
	if (home_get(greenlet, &home))
		return -1;
	if (home == here || !has_frames(greenlet))
		return 0;
	if (home)
		error_format(FiberError, EINVAL,
			     "this greenlet was started on fiber %llu; hint: use it there only, and "
			     "gevent, whose hub is a greenlet, on one fiber of a thread", home);
	else
		error_format(FiberError, EINVAL,
			     "this greenlet was started on its thread's root; hint: use it there only, "
			     "and gevent, whose hub is a greenlet, on one fiber of a thread");
	return -1;
}

static PyObject *enter_switch(PyObject *self, PyObject *args, PyObject *kwargs)
{
	return enter(self) ? NULL : switch_method(self, args, kwargs);
}

static PyObject *enter_switch_api(PyObject *self, PyObject *args, PyObject *kwargs)
{
	return enter(self) ? NULL : switch_api(self, args, kwargs);
}

static PyObject *enter_throw(PyObject *self, PyObject *args)
{
	return enter(self) ? NULL : throw_method(self, args);
}

static PyObject *enter_throw_api(PyObject *self, PyObject *type, PyObject *value,
				 PyObject *traceback)
{
	return enter(self) ? NULL : throw_api(self, type, value, traceback);
}

/* Its last reference has gone. If it cannot end here it lives until it can, as greenlet does it. */
static void end(PyObject *self)
{
	PyObject *type, *value, *traceback;
	bool keep = false;

	if (has_frames(self)) {
		PyErr_Fetch(&type, &value, &traceback);
		Py_SET_REFCNT(self, 1);
		keep = !may_end(self) && !PyList_Append(dropped, self);
		Py_SET_REFCNT(self, Py_REFCNT(self) - 1);
		PyErr_Restore(type, value, traceback);
	}
	if (!keep) {
		home_forget(self);
		dealloc(self);
	} else if (PyType_HasFeature(Py_TYPE(self), Py_TPFLAGS_HEAPTYPE)) {
		/* What ends an instance of a subclass gives its class back. */
		Py_INCREF(Py_TYPE(self));
	}
}

/* Those that were started before anybody looked. */
static int note_all(void)
{
	PyObject *collector = PyImport_ImportModule("gc");
	PyObject *objects = collector ? PyObject_CallMethod(collector, "get_objects", NULL) : NULL;
	Py_ssize_t i;

	for (i = 0; objects && i < PyList_GET_SIZE(objects); i++) {
		PyObject *object = PyList_GET_ITEM(objects, i);

		if (PyObject_TypeCheck(object, (PyTypeObject *)api[TYPE]) && has_frames(object) &&
		    home_set(object, BEFORE))
			Py_CLEAR(objects);
	}
	Py_XDECREF(collector);
	Py_XDECREF(objects);
	return objects ? 0 : -1;
}

static PyMethodDef *method(PyTypeObject *type, const char *name, int flags)
{
	PyObject *descriptor = PyObject_GetAttrString((PyObject *)type, name);
	PyMethodDef *definition = NULL;

	if (descriptor && Py_IS_TYPE(descriptor, &PyMethodDescr_Type))
		definition = ((PyMethodDescrObject *)descriptor)->d_method;
	/* It is static in greenlet. */
	Py_XDECREF(descriptor);
	return definition && definition->ml_flags == flags ? definition : NULL;
}

/* Puts itself before all that switches greenlets. -1: this greenlet is made otherwise. */
static int guard(void)
{
	PyTypeObject *type = api[TYPE];
	PyMethodDef *to_switch = method(type, "switch", METH_VARARGS | METH_KEYWORDS);
	PyMethodDef *to_throw = method(type, "throw", METH_VARARGS);

	homes = PyDict_New();
	dropped = PyList_New(0);
	if (!to_switch || !to_throw || !homes || !dropped || note_all())
		return -1;
	switch_method = (PyCFunctionWithKeywords)(void (*)(void))to_switch->ml_meth;
	switch_api = (PyCFunctionWithKeywords)api[SWITCH];
	throw_method = to_throw->ml_meth;
	throw_api = (throw_function *)api[THROW];
	dealloc = type->tp_dealloc;
	to_switch->ml_meth = (PyCFunction)(void (*)(void))enter_switch;
	to_throw->ml_meth = enter_throw;
	api[SWITCH] = enter_switch_api;
	api[THROW] = enter_throw_api;
	type->tp_dealloc = end;
	return 0;
}

bool greenlet_import(PyObject *modules)
{
	PyObject *module = api ? NULL : PyDict_GetItemString(modules, "greenlet");
	void **table;

	/* None keeps programs from importing it. */
	if (!module || module == Py_None)
		return true;
	table = PyCapsule_Import("greenlet._C_API", 0);
	/* Ours are fibers. */
	if (table == green_api)
		return true;
	api = table;
	if (api && !guard())
		/* Until now each thread used them on the fiber that it is on. */
		threads_note_greenlets();
	PyErr_Clear();
	greenlet_imported = api;
	return greenlet_imported;
}

bool greenlet_inside(void)
{
	PyObject *current = CURRENT();
	bool inside;

	if (!current)
		return true;
	inside = !IS(MAIN, current);
	Py_DECREF(current);
	if (inside)
		error_format(FiberError, EINVAL, "fibers cannot be switched inside a greenlet");
	return inside;
}
