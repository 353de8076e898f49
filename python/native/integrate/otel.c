/* SPDX-License-Identifier: MIT */
/* OpenTelemetry's thread context, for kfiber/otel.py. */
#include "native.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

PyObject *otel_enable(PyObject *module, PyObject *unused)
{
	int err = fiber_otel_enable();

	(void)module;
	(void)unused;
	if (err)
		return error_raise(err, "otel.enable");
	Py_RETURN_NONE;
}

/* As the environment says. Where an SDK has published the process's context, its spans have to do. */
int otel_begin(void)
{
	const char *wish = getenv("KFIBER_OTEL");
	PyObject *pointer;

	if (!wish || strcmp(wish, "1") || fiber_otel_enable() != ENOENT)
		return 0;
	pointer = PyImport_ImportModule("kfiber._otel");
	if (!pointer) {
		if (!PyErr_ExceptionMatches(PyExc_ImportError))
			return -1;
		PyErr_Clear();
		return PyErr_WarnEx(PyExc_RuntimeWarning,
				    "KFIBER_OTEL=1 has no effect: this installation has no kfiber._otel, since "
				    "its compiler does not know -mtls-dialect=gnu2; hint: install kfiber with gcc",
				    1);
	}
	Py_DECREF(pointer);
	fiber_otel_enable();
	return 0;
}

PyObject *otel_set_span(PyObject *module, PyObject *args)
{
	const char *trace, *span;
	Py_ssize_t trace_size, span_size;
	unsigned int flags;
	int err;

	(void)module;
	if (!PyArg_ParseTuple(args, "z#z#I", &trace, &trace_size, &span, &span_size, &flags))
		return NULL;
	if ((trace && trace_size != 16) || (span && span_size != 8)) {
		PyErr_SetString(PyExc_ValueError, "a trace id has 16 bytes and a span id 8");
		return NULL;
	}
	err = fiber_otel_set_span((const unsigned char *)trace, (const unsigned char *)span, flags);
	if (err)
		return error_raise(err, "otel.set_span");
	Py_RETURN_NONE;
}
