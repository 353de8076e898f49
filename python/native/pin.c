/* SPDX-License-Identifier: MIT */
/* The type pin: a fiber stays on its thread for a block. */
#include "docstrings.h"
#include "native.h"

/*
 * Borrowed fiber: before 3.14 the collector does not see that the fiber's own frame keeps
 * the pin, so that a pin which owned its fiber would keep both for ever.
 */
typedef struct pin {
	PyObject_HEAD
	/* While the block is entered, else NULL. */
	Fiber *fiber;
	/* In fiber->pinned. */
	struct pin *next, **link;
} Pin;

static void pin_link(Pin *pin, Fiber *fiber)
{
	pin->fiber = fiber;
	pin->next = fiber->pinned;
	pin->link = &fiber->pinned;
	if (pin->next)
		pin->next->link = &pin->next;
	fiber->pinned = pin;
}

static void pin_unlink(Pin *pin)
{
	*pin->link = pin->next;
	if (pin->next)
		pin->next->link = pin->link;
	pin->fiber = NULL;
}

void pin_forget(Fiber *fiber)
{
	while (fiber->pinned)
		pin_unlink(fiber->pinned);
}

static PyObject *pin_enter(PyObject *op, PyObject *unused)
{
	struct thread *thread = thread_convert();
	Pin *pin = (Pin *)op;
	Fiber *fiber;

	(void)unused;
	if (!thread)
		return NULL;
	if (pin->fiber) {
		PyErr_SetString(PyExc_RuntimeError, "this pin() is entered already");
		return NULL;
	}
	fiber = thread->current;
	if (!fiber->pins++ && !fiber->root) {
		thread_take(thread);
		fiber->pinned_to = thread;
	}
	pin_link(pin, fiber);
	return Py_NewRef((PyObject *)fiber);
}

static void pin_leave(Pin *pin)
{
	Fiber *fiber = pin->fiber;

	if (!fiber)
		return;
	pin_unlink(pin);
	/* A thread's own one stays there. */
	if (!--fiber->pins && !fiber->root) {
		thread_drop(fiber->pinned_to);
		fiber->pinned_to = NULL;
	}
}

static PyObject *pin_exit(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
	(void)args;
	(void)count;
	if (!((Pin *)op)->fiber) {
		PyErr_SetString(PyExc_RuntimeError, "this pin() is not entered");
		return NULL;
	}
	pin_leave((Pin *)op);
	Py_RETURN_NONE;
}

static void pin_dealloc(PyObject *op)
{
	pin_leave((Pin *)op);
	Py_TYPE(op)->tp_free(op);
}

static PyMethodDef pin_methods[] = {
	{ "__enter__", pin_enter, METH_NOARGS, DOC_pin___enter__ },
	{ "__exit__", (PyCFunction)(void (*)(void))pin_exit, METH_FASTCALL,
	  DOC_pin___exit__ },
	{ 0 },
};

static PyTypeObject Pin_Type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "kfiber.pin",
	.tp_doc = DOC_pin,
	.tp_basicsize = sizeof(Pin),
	.tp_flags = Py_TPFLAGS_DEFAULT,
	.tp_new = PyType_GenericNew,
	.tp_dealloc = pin_dealloc,
	.tp_methods = pin_methods,
};

int pin_type_init(PyObject *module)
{
	return PyModule_AddType(module, &Pin_Type);
}
