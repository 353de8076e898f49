/* SPDX-License-Identifier: MIT */
/* The type attach: a thread is a fiber for a block. */
#include "docstrings.h"
#include "native.h"

typedef struct {
	PyObject_HEAD
	/* Owned, while the block is entered. */
	struct thread *thread;
} Attach;

static PyObject *attach_enter(PyObject *op, PyObject *unused)
{
	struct thread *thread = thread_self();
	Attach *attach = (Attach *)op;

	(void)unused;
	if (attach->thread) {
		PyErr_SetString(PyExc_RuntimeError, "this attach() is entered already");
		return NULL;
	}
	if (!thread) {
		thread = thread_convert();
		if (!thread)
			return NULL;
		thread->kept = false;
	}
	thread->attached++;
	thread_take(thread);
	attach->thread = thread;
	return Py_NewRef((PyObject *)thread->root);
}

static PyObject *attach_exit(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
	Attach *attach = (Attach *)op;
	struct thread *thread = attach->thread;
	int err = 0;

	(void)args;
	(void)count;
	if (!thread) {
		PyErr_SetString(PyExc_RuntimeError, "this attach() is not entered");
		return NULL;
	}
	attach->thread = NULL;
	if (!--thread->attached && !thread->kept && thread->alive) {
		/* A fiber that leaves the block elsewhere leaves the thread as it is. */
		if (thread != thread_self() || thread->current != thread->root)
			thread->kept = true;
		else
			err = thread_revert();
	}
	thread_drop(thread);
	if (err)
		return NULL;
	Py_RETURN_NONE;
}

static void attach_dealloc(PyObject *op)
{
	struct thread *thread = ((Attach *)op)->thread;

	if (thread) {
		thread->attached--;
		thread->kept = true;
		thread_drop(thread);
	}
	Py_TYPE(op)->tp_free(op);
}

static PyMethodDef attach_methods[] = {
	{ "__enter__", attach_enter, METH_NOARGS, DOC_attach___enter__ },
	{ "__exit__", (PyCFunction)(void (*)(void))attach_exit, METH_FASTCALL,
	  DOC_attach___exit__ },
	{ 0 },
};

static PyTypeObject Attach_Type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "kfiber.attach",
	.tp_doc = DOC_attach,
	.tp_basicsize = sizeof(Attach),
	.tp_flags = Py_TPFLAGS_DEFAULT,
	.tp_new = PyType_GenericNew,
	.tp_dealloc = attach_dealloc,
	.tp_methods = attach_methods,
};

int attach_type_init(PyObject *module)
{
	return PyModule_AddType(module, &Attach_Type);
}
