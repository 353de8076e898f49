/* SPDX-License-Identifier: MIT */
/*
 * Greenlets copy parts of the thread's stack to and fro, so a fiber that is left
 * inside one could find another one's stack when it is entered again.
 */
#include "native.h"

#include <errno.h>

/* Places in the table of greenlet's documented C API, which only grows. */
#define GET_CURRENT	4
#define IS_MAIN		8

bool greenlet_imported;
static void **api;

void greenlet_import(PyObject *modules)
{
	if (api || !PyDict_GetItemString(modules, "greenlet"))
		return;
	api = PyCapsule_Import("greenlet._C_API", 0);
	/* It may be half-way through its own import. */
	PyErr_Clear();
	greenlet_imported = api;
}

bool greenlet_inside(void)
{
	PyObject *current = ((PyObject *(*)(void))api[GET_CURRENT])();
	bool inside;

	if (!current)
		return true;
	inside = !((int (*)(PyObject *))api[IS_MAIN])(current);
	Py_DECREF(current);
	if (inside)
		error_format(FiberError, EINVAL, "fibers cannot be switched inside a greenlet");
	return inside;
}
