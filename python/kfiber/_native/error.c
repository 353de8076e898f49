/* SPDX-License-Identifier: MIT */
#include "native.h"

#include <errno.h>
#include <stdarg.h>

PyObject *FiberError, *FiberRunningError, *FiberFinishedError, *FiberPinnedError, *FiberLimitError,
	*FiberExit;

/* A class whose instances have `errno` number unless they are given another one. */
static int add(PyObject *module, PyObject **type, const char *name, PyObject *base, int number)
{
	PyObject *dict = number ? Py_BuildValue("{si}", "errno", number) : NULL;

	if (number && !dict)
		return -1;
	*type = PyErr_NewException(name, base, dict);
	Py_XDECREF(dict);
	if (!*type)
		return -1;
	return PyModule_AddObjectRef(module, strrchr(name, '.') + 1, *type);
}

int error_init(PyObject *module)
{
	if (add(module, &FiberError, "kfiber.FiberError", PyExc_RuntimeError, EINVAL) ||
	    add(module, &FiberRunningError, "kfiber.FiberRunningError", FiberError, EBUSY) ||
	    add(module, &FiberFinishedError, "kfiber.FiberFinishedError", FiberError, EOWNERDEAD) ||
	    add(module, &FiberPinnedError, "kfiber.FiberPinnedError", FiberError, EPERM) ||
	    add(module, &FiberLimitError, "kfiber.FiberLimitError", FiberError, EAGAIN) ||
	    add(module, &FiberExit, "kfiber.FiberExit", PyExc_BaseException, 0))
		return -1;
	return 0;
}

PyObject *error_format(PyObject *type, int err, const char *format, ...)
{
	PyObject *text, *number = NULL, *error = NULL;
	va_list arguments;

	va_start(arguments, format);
	text = PyUnicode_FromFormatV(format, arguments);
	va_end(arguments);
	if (!text)
		return NULL;
	error = PyObject_CallOneArg(type, text);
	number = PyLong_FromLong(err);
	if (error && number && !PyObject_SetAttrString(error, "errno", number))
		PyErr_SetObject(type, error);
	Py_DECREF(text);
	Py_XDECREF(number);
	Py_XDECREF(error);
	return NULL;
}

PyObject *error_raise(int err, const char *what)
{
	switch (err) {
	case ENOMEM:
		return PyErr_NoMemory();
	case EAGAIN:
		return error_format(FiberLimitError, err,
				    "%s: too many fibers, or mappings for their stacks; mend: raise "
				    "vm.max_map_count (engine kernel: the module's max_fibers too)", what);
	case EDQUOT:
		return error_format(FiberLimitError, err,
				    "%s: this user's fibers take too much kernel memory; mend: raise the "
				    "module's max_user_kib", what);
	case EBUSY:
		return error_format(FiberRunningError, err, "%s: it is running", what);
	case ESRCH:
	case EOWNERDEAD:
		return error_format(FiberFinishedError, EOWNERDEAD, "%s: it has finished", what);
	case ENODEV:
		return error_format(FiberError, err,
				    "%s: the engine is not there; mend: kfiber module load, or "
				    "KFIBER_ENGINE=local", what);
	case EPROTO:
		return error_format(FiberError, err,
				    "%s: the loaded module lacks something; mend: kfiber doctor",
				    what);
	default:
		return error_format(FiberError, err, "%s: %s", what, strerror(err));
	}
}
