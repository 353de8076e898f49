/* SPDX-License-Identifier: MIT */
#include "docstrings.h"
#include "native.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <stdarg.h>

PyObject *FiberError, *FiberRunningError, *FiberFinishedError, *FiberPinnedError, *FiberLimitError,
	*FiberExit;

/* A class whose instances have `errno` number unless they are given another one. */
static int add(PyObject *module, PyObject **type, const char *name, const char *doc,
	       PyObject *base, int number)
{
	PyObject *dict = number ? Py_BuildValue("{si}", "errno", number) : NULL;

	if (number && !dict)
		return -1;
	*type = PyErr_NewExceptionWithDoc(name, doc, base, dict);
	Py_XDECREF(dict);
	if (!*type)
		return -1;
	return PyModule_AddObjectRef(module, strrchr(name, '.') + 1, *type);
}

int error_init(PyObject *module)
{
	if (add(module, &FiberError, "kfiber.FiberError", DOC_FiberError, PyExc_RuntimeError, EINVAL) ||
	    add(module, &FiberRunningError, "kfiber.FiberRunningError", DOC_FiberRunningError, FiberError, EBUSY) ||
	    add(module, &FiberFinishedError, "kfiber.FiberFinishedError", DOC_FiberFinishedError, FiberError, EOWNERDEAD) ||
	    add(module, &FiberPinnedError, "kfiber.FiberPinnedError", DOC_FiberPinnedError, FiberError, EPERM) ||
	    add(module, &FiberLimitError, "kfiber.FiberLimitError", DOC_FiberLimitError, FiberError, EAGAIN) ||
	    add(module, &FiberExit, "kfiber.FiberExit", DOC_FiberExit, PyExc_BaseException, 0))
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

/* The value of KFIBER_ENGINE if it names no engine, else NULL. */
static const char *wrong_engine(void)
{
	static const char *const names[] = { "", "auto", "mapped", "local", "kernel" };
	const char *value = getenv("KFIBER_ENGINE");
	size_t i;

	for (i = 0; value && i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(value, names[i]))
			return NULL;
	return value;
}

PyObject *error_raise(int err, const char *what)
{
	const char *engine;

	switch (err) {
	case ENOMEM:
		return PyErr_NoMemory();
	case EAGAIN:
		return error_format(FiberLimitError, err,
				    "%s: too many fibers, or mappings for their stacks; hint: raise "
				    "vm.max_map_count (engine kernel: the module's max_fibers too)", what);
	case EDQUOT:
		return error_format(FiberLimitError, err,
				    "%s: this user's fibers take too much kernel memory; hint: raise the "
				    "module's max_user_kib", what);
	case EBUSY:
		return error_format(FiberRunningError, err, "%s: it is running", what);
	case ESRCH:
	case EOWNERDEAD:
		return error_format(FiberFinishedError, EOWNERDEAD, "%s: it has finished", what);
	case ENODEV:
		return error_format(FiberError, err,
				    "%s: the engine is not available; hint: kfiber module load, or "
				    "KFIBER_ENGINE=local", what);
	case EPROTO:
		return error_format(FiberError, err,
				    "%s: the loaded module lacks something; hint: kfiber doctor",
				    what);
	case EINVAL:
		engine = wrong_engine();
		if (engine)
			return error_format(FiberError, err,
					    "%s: KFIBER_ENGINE is '%s', which is no engine; hint: auto, "
					    "mapped, local or kernel", what, engine);
		/* fall through */
	default:
		return error_format(FiberError, err, "%s: %s", what, strerror(err));
	}
}
