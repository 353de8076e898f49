/* SPDX-License-Identifier: MIT */
/*
 * Notices what is imported that fibers have to get along with: each import is an audit
 * event, which comes before the module is in sys.modules. From the moment when it is
 * there it imports parts of itself, which are events again; until those are
 * done each switch looks.
 */
#include "interpreter.h"

#include <string.h>

_Atomic bool import_pending = true;
/* sys.modules. */
static PyObject *modules;
static bool heard;

/* Also of other interpreters, whose imports only cost a look. */
static int hear(const char *event, PyObject *args, void *unused)
{
	(void)args;
	(void)unused;
	if (*event == 'i' && !strcmp(event, "import"))
		atomic_store_explicit(&import_pending, true, memory_order_relaxed);
	else if (*event == 'k' && !strcmp(event, "kfiber.listen"))
		heard = true;
	return 0;
}

/* Where another hook forbids this one, which shows in nothing else, every switch looks. */
int import_init(void)
{
	modules = PyImport_GetModuleDict();
	if (PySys_AddAuditHook(hear, NULL) || PySys_Audit("kfiber.listen", NULL))
		return -1;
	return 0;
}

void import_look(void)
{
	struct thread *thread = thread_self();
	bool done;

	/* First: what is imported from now on is not seen by this look. */
	atomic_store_explicit(&import_pending, !heard, memory_order_relaxed);
	if (thread)
		interpreter_imported(thread->root->tstate);
	done = greenlet_import(modules);
	if (!loop_import(modules) || !done)
		atomic_store_explicit(&import_pending, true, memory_order_relaxed);
}
