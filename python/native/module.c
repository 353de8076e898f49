/* SPDX-License-Identifier: MIT */
#include "docstrings.h"
#include "interpreter.h"

#include <errno.h>

static PyObject *current(PyObject *module, PyObject *unused)
{
	struct thread *thread = thread_convert();

	(void)module;
	(void)unused;
	return thread ? Py_NewRef((PyObject *)thread->current) : NULL;
}

static PyObject *root(PyObject *module, PyObject *unused)
{
	struct thread *thread = thread_convert();

	(void)module;
	(void)unused;
	return thread ? Py_NewRef((PyObject *)thread->root) : NULL;
}

static PyObject *fibers(PyObject *module, PyObject *unused)
{
	PyObject *list;
	Fiber *fiber;

	(void)module;
	(void)unused;
	/* Allocation may collect, and so end some of them. */
	list = PyList_New(0);
	if (!list)
		return NULL;
	for (fiber = fibers_living; fiber;) {
		Fiber *next;

		/* One that is being deallocated cannot be brought back. */
		if (!Py_REFCNT(fiber)) {
			fiber = fiber->next;
			continue;
		}
		Py_INCREF(fiber);
		if (PyList_Append(list, (PyObject *)fiber)) {
			Py_DECREF(fiber);
			Py_DECREF(list);
			return NULL;
		}
		next = fiber->next;
		Py_DECREF(fiber);
		fiber = next;
	}
	return list;
}

static PyObject *engine(PyObject *module, PyObject *unused)
{
	const char *name = fiber_engine();
	struct thread *thread;

	(void)module;
	(void)unused;
	if (name)
		return PyUnicode_FromString(name);
	thread = thread_convert();
	if (thread)
		return PyUnicode_FromString(fiber_engine());
	return NULL;
}

static PyObject *set_engine(PyObject *module, PyObject *name)
{
	const char *text = PyUnicode_AsUTF8(name);
	int err;

	(void)module;
	if (!text)
		return NULL;
	err = fiber_set_engine(text);
	if (err == EINVAL)
		return PyErr_Format(PyExc_ValueError, "no engine %R", name);
	if (err == EBUSY)
		return error_format(FiberError, err, "the engine is in use already");
	if (err)
		return error_raise(err, "set_engine");
	Py_RETURN_NONE;
}

static PyObject *swap(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return PyUnicode_FromString(interpreter_swap_name());
}

/* Of atexit: what is suspended may run its finally clauses, while there is an interpreter. */
static PyObject *end(PyObject *module, PyObject *unused)
{
	struct thread *here;
	PyObject *list;
	Py_ssize_t i;

	list = fibers(module, unused);
	if (!list)
		return NULL;
	here = thread_self();
	for (i = 0; i < PyList_GET_SIZE(list); i++) {
		Fiber *fiber = (Fiber *)PyList_GET_ITEM(list, i);

		/* Greenlets stay as they are, as greenlet has it. */
		if (fiber->state == STATE_SUSPENDED && !fiber->waiting && fiber->owner == (PyObject *)fiber &&
		    (!fiber->pinned_to || fiber->pinned_to == here) && !fiber->root)
			transfer_end(fiber, true);
	}
	Py_DECREF(list);
	fibers_over = true;
	Py_RETURN_NONE;
}

static PyObject *forked(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	interpreter_forked();
	thread_forked();
	Py_RETURN_NONE;
}

static PyObject *adopt(PyObject *module, PyObject *unused)
{
	Fiber *fiber;

	(void)module;
	(void)unused;
	for (fiber = fibers_living; fiber; fiber = fiber->next)
		fiber->inherited = false;
	Py_RETURN_NONE;
}

static PyObject *share_context(PyObject *module, PyObject *op)
{
	PyObject *context = PyThreadState_Get()->context;
	Fiber *fiber = (Fiber *)op;

	(void)module;
	if (!PyObject_TypeCheck(op, &Fiber_Type) || fiber->state != STATE_NEW) {
		PyErr_SetString(PyExc_TypeError, "share_context() takes a new Fiber");
		return NULL;
	}
	Py_XSETREF(fiber->context, Py_XNewRef(context));
	fiber->shared = true;
	Py_RETURN_NONE;
}

static PyObject *cycles(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return PyLong_FromUnsignedLongLong(__builtin_ia32_rdtsc());
}

static PyMethodDef functions[] = {
	{ "current", current, METH_NOARGS, DOC_current },
	{ "root", root, METH_NOARGS, DOC_root },
	{ "fibers", fibers, METH_NOARGS, DOC_fibers },
	{ "adopt", adopt, METH_NOARGS, DOC_adopt },
	{ "engine", engine, METH_NOARGS, DOC_engine },
	{ "set_engine", set_engine, METH_O, DOC_set_engine },
	{ "set_observer", switch_observer_set, METH_O, DOC_set_observer },
	{ "otel_enable", otel_enable, METH_NOARGS, DOC_otel_enable },
	{ "otel_set_span", otel_set_span, METH_VARARGS, DOC_otel_set_span },
	{ "share_context", share_context, METH_O, DOC_share_context },
	{ "swap", swap, METH_NOARGS, DOC_swap },
	{ "cycles", cycles, METH_NOARGS, DOC_cycles },
	{ 0 },
};

static PyMethodDef end_method = { "end", end, METH_NOARGS, NULL };
static PyMethodDef forked_method = { "forked", forked, METH_NOARGS, NULL };

/* Calls module.function(argument) or, with a keyword, module.function(keyword=argument). */
static int call(const char *module, const char *function, const char *keyword, PyMethodDef *method)
{
	PyObject *callback = PyCFunction_New(method, NULL), *imported = PyImport_ImportModule(module);
	PyObject *callable = NULL, *args = NULL, *kwargs = NULL, *result = NULL;

	if (callback && imported)
		callable = PyObject_GetAttrString(imported, function);
	if (callable) {
		args = keyword ? PyTuple_New(0) : PyTuple_Pack(1, callback);
		if (keyword)
			kwargs = Py_BuildValue("{sO}", keyword, callback);
		if (args && (kwargs || !keyword))
			result = PyObject_Call(callable, args, kwargs);
	}
	Py_XDECREF(callback);
	Py_XDECREF(imported);
	Py_XDECREF(callable);
	Py_XDECREF(args);
	Py_XDECREF(kwargs);
	Py_XDECREF(result);
	return result ? 0 : -1;
}

/* Runs for each import, those of other interpreters included. */
static int begin(PyObject *module)
{
	/* Owned: what is made once. */
	static PyObject *first;

#ifdef Py_GIL_DISABLED
	PyErr_Format(PyExc_ImportError,
		     "kfiber: a free-threaded Python cannot move fibers between threads; hint: use the "
		     "build with the GIL, python%d.%d", PY_MAJOR_VERSION, PY_MINOR_VERSION);
	return -1;
#endif
	if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
		PyErr_SetString(PyExc_ImportError, "kfiber: fibers run in the main interpreter only");
		return -1;
	}
	if (first)
		return PyDict_Merge(PyModule_GetDict(module), PyModule_GetDict(first), 0);
	if (interpreter_init())
		return -1;
	if (otel_begin())
		return -1;
	if (import_init() || error_init(module) || fiber_type_init(module) || local_type_init(module) ||
	    attach_type_init(module) || pin_type_init(module) || green_init_module(module) ||
	    call("atexit", "register", NULL, &end_method) ||
	    call("os", "register_at_fork", "after_in_child", &forked_method))
		return -1;
	first = Py_NewRef(module);
	return 0;
}

static PyModuleDef_Slot slots[] = {
	{ Py_mod_exec, begin },
	{ 0 },
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "kfiber._native",
	.m_doc = DOC_module,
	.m_methods = functions,
	.m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
	return PyModuleDef_Init(&definition);
}
