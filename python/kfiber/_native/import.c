/* SPDX-License-Identifier: MIT */
#include "interpreter.h"

PyObject *import_modules;
Py_ssize_t import_seen;

void import_look(void)
{
	struct thread *thread = thread_self();

	if (thread)
		interpreter_imported(thread->root->tstate);
	import_seen = PyDict_GET_SIZE(import_modules);
	greenlet_import(import_modules);
	loop_import(import_modules);
}
