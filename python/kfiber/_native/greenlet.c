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

static void **greenlet_api(void)
{
	static Py_ssize_t modules_seen;
	static void **api;
	PyObject *modules;

	if (api)
		return api;
	/* Looked for again only when something has been imported. */
	modules = PyImport_GetModuleDict();
	if (PyDict_GET_SIZE(modules) == modules_seen)
		return NULL;
	modules_seen = PyDict_GET_SIZE(modules);
	if (PyDict_GetItemString(modules, "greenlet"))
		api = PyCapsule_Import("greenlet._C_API", 0);
	if (!api)
		PyErr_Clear();
	return api;
}

bool greenlet_inside(void)
{
	void **api = greenlet_api();
	PyObject *current;
	bool inside;

	if (__builtin_expect(!api, 1))
		return false;
	current = ((PyObject *(*)(void))api[GET_CURRENT])();
	if (!current)
		return true;
	inside = !((int (*)(PyObject *))api[IS_MAIN])(current);
	Py_DECREF(current);
	if (inside)
		error_format(FiberError, EINVAL, "fibers cannot be switched inside a greenlet");
	return inside;
}
