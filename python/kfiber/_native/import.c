/* SPDX-License-Identifier: MIT */
#include "native.h"

PyObject *import_modules;
Py_ssize_t import_seen;

void import_look(void)
{
	import_seen = PyDict_GET_SIZE(import_modules);
	greenlet_import(import_modules);
	loop_import(import_modules);
}
