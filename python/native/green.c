/* SPDX-License-Identifier: MIT */
#include "docstrings.h"
#include "green.h"
#include "interpreter.h"

Py_ssize_t green_mains;

/* --- threads ------------------------------------------------------------- */

void green_drain(struct thread *thread)
{
	struct green_thread *here = thread->greenlets;
	PyObject *error = PyErr_Occurred() ? interpreter_error_take() : NULL;
	PyGreenlet *self;

	while ((self = here->to_end)) {
		here->to_end = green_of(self)->next_to_end;
		green_of(self)->next_to_end = NULL;
		Py_DECREF(self);
	}
	if (error)
		interpreter_error_give(error);
}

struct green_thread *green_thread(void)
{
	struct thread *thread = thread_convert();

	if (!thread)
		return NULL;
	if (!thread->greenlets) {
		thread->greenlets = PyMem_Calloc(1, sizeof(*thread->greenlets));
		if (!thread->greenlets) {
			PyErr_NoMemory();
			return NULL;
		}
	}
	return thread->greenlets;
}

/* A greenlet for a fiber that is none otherwise. Each owns the other. -1 with an exception set. */
static int adopt(Fiber *fiber, struct thread *thread)
{
	PyGreenlet *self = (PyGreenlet *)PyType_GenericAlloc(&PyGreenlet_Type, 0);
	struct green *green = PyMem_Calloc(1, sizeof(*green));

	if (!self || !green) {
		Py_XDECREF(self);
		PyMem_Free(green);
		if (!PyErr_Occurred())
			PyErr_NoMemory();
		return -1;
	}
	self->green = green;
	/* What allocates may have run code, which got it one. */
	if (fiber->greenlet) {
		Py_DECREF(self);
		return 0;
	}
	green->started = true;
	green->main = fiber->root;
	green->fiber = (Fiber *)Py_NewRef((PyObject *)fiber);
	green->thread = thread;
	thread_take(thread);
	fiber->greenlet = (PyGreenlet *)Py_NewRef((PyObject *)self);
	if (fiber->root) {
		green_mains++;
		thread->greenlets->main = self;
		return 0;
	}
	Py_DECREF(self);
	/* Whoever deals with greenlets stays on his thread. */
	if (!fiber->pins++) {
		thread_take(thread);
		fiber->pinned_to = thread;
	}
	if (!thread->root->greenlet && adopt(thread->root, thread))
		return -1;
	green->parent = (PyGreenlet *)Py_NewRef((PyObject *)thread->greenlets->main);
	return 0;
}

PyGreenlet *green_current(void)
{
	struct green_thread *here = green_thread();
	struct thread *thread;

	if (!here)
		return NULL;
	if (__builtin_expect(here->to_end != NULL, 0))
		green_drain(thread_self());
	thread = thread_self();
	if (!thread->current->greenlet && adopt(thread->current, thread))
		return NULL;
	return thread->current->greenlet;
}

/* --- end ----------------------------------------------------------------- */

/* It has not ended and never will: what only its frames hold is lost. */
static void abandon(struct green *green)
{
	Fiber *fiber = green->fiber;

	green->ended = true;
	green->fiber = NULL;
	if (!fiber)
		return;
	fiber->greenlet = NULL;
	fiber->owner = (PyObject *)fiber;
	fiber_abandon(fiber);
	Py_DECREF(fiber);
}

void green_thread_end(struct thread *thread)
{
	struct green_thread *here = thread->greenlets;
	PyGreenlet *self;

	thread->greenlets = NULL;
	if (here->main)
		green_mains--;
	while ((self = here->to_end)) {
		here->to_end = green_of(self)->next_to_end;
		green_of(self)->next_to_end = NULL;
		abandon(green_of(self));
		Py_DECREF(self);
	}
	Py_XDECREF(here->trace);
	Py_XDECREF(here->origin);
	Py_XDECREF(here->main);
	PyMem_Free(here);
}

void green_ended(Fiber *fiber)
{
	PyGreenlet *self = fiber->greenlet;
	struct green *green = green_of(self);
	bool own = fiber->owner == (PyObject *)fiber;

	green->ended = true;
	fiber->greenlet = NULL;
	fiber->owner = (PyObject *)fiber;
	Py_CLEAR(green->fiber);
	if (own)
		Py_DECREF(self);
}

/* GreenletExit is thrown into it, and comes back here whatever its parent is. */
static void kill_here(PyGreenlet *self)
{
	struct green *green = green_of(self);
	PyGreenlet *current = green_current(), *parent = green->parent;
	PyObject *result;

	if (!current) {
		PyErr_WriteUnraisable((PyObject *)self);
		return;
	}
	green->parent = (PyGreenlet *)Py_NewRef((PyObject *)current);
	PyErr_SetString(GreenletExit, "Killing the greenlet because all references have vanished.");
	result = green_switch(self, NULL, NULL);
	if (!result)
		PyErr_WriteUnraisable((PyObject *)self);
	Py_XDECREF(result);
	current = green->parent;
	green->parent = parent;
	Py_XDECREF(current);
}

static void complain(PyGreenlet *self)
{
	PyObject *file = PySys_GetObject("stderr");

	/* For ever: it is suspended, and nobody will go on with it. */
	Py_INCREF(self);
	if (!file || file == Py_None)
		return;
	Py_INCREF(file);
	PyFile_WriteString("GreenletExit did not kill ", file);
	PyFile_WriteObject((PyObject *)self, file, 0);
	PyFile_WriteString("\n", file);
	Py_DECREF(file);
	PyErr_Clear();
}

/* It is active and nobody refers to it. False: it lives on. */
static bool kill(PyGreenlet *self)
{
	struct green *green = green_of(self);
	struct thread *thread = green->thread;
	Py_ssize_t references;
	PyObject *error;

	if (interpreter_ends() || !thread->alive) {
		abandon(green);
		return true;
	}
	Py_SET_REFCNT(self, 1);
	error = PyErr_Occurred() ? interpreter_error_take() : NULL;
	if (thread == thread_self()) {
		kill_here(self);
		if (Py_REFCNT(self) == 1 && green_active(green))
			complain(self);
	} else {
		green->next_to_end = thread->greenlets->to_end;
		thread->greenlets->to_end = (PyGreenlet *)Py_NewRef((PyObject *)self);
	}
	if (error)
		interpreter_error_give(error);
	references = Py_REFCNT(self) - 1;
	Py_SET_REFCNT(self, references);
	if (!references)
		return true;
	_Py_NewReference((PyObject *)self);
	Py_SET_REFCNT(self, references);
	/* Its class's deallocator, which called this one, gives up the class. */
	if (PyType_HasFeature(Py_TYPE(self), Py_TPFLAGS_HEAPTYPE))
		Py_INCREF(Py_TYPE(self));
	PyObject_GC_Track(self);
	return false;
}

static void green_dealloc(PyObject *op)
{
	PyGreenlet *self = (PyGreenlet *)op;
	struct green *green = green_of(self);

	PyObject_GC_UnTrack(op);
	/* One that shares its end with a fiber is referred to by that. */
	if (green && green->fiber && green->fiber->owner == op) {
		if (green_active(green)) {
			if (!kill(self))
				return;
		} else {
			abandon(green);
		}
	}
	if (self->weakrefs)
		PyObject_ClearWeakRefs(op);
	Py_CLEAR(self->dict);
	if (green) {
		Py_CLEAR(green->parent);
		Py_CLEAR(green->run);
		Py_CLEAR(green->context);
		Py_CLEAR(green->fiber);
		thread_drop(green->thread);
		self->green = NULL;
		PyMem_Free(green);
	}
	Py_TYPE(op)->tp_free(op);
}

/* As greenlet has it: one that is active is not collected, whoever refers to it. */
static int green_is_gc(PyObject *op)
{
	const struct green *green = green_of((PyGreenlet *)op);

	return !green || green->main || !green_active(green);
}

static int green_traverse(PyObject *op, visitproc visit, void *arg)
{
	PyGreenlet *self = (PyGreenlet *)op;
	struct green *green = green_of(self);

	Py_VISIT(self->dict);
	if (!green)
		return 0;
	Py_VISIT(green->parent);
	Py_VISIT(green->run);
	Py_VISIT(green->context);
	if (green->fiber && green->fiber->owner != op)
		Py_VISIT(green->fiber);
	return 0;
}

static int green_clear(PyObject *op)
{
	PyGreenlet *self = (PyGreenlet *)op;
	struct green *green = green_of(self);

	Py_CLEAR(self->dict);
	Py_CLEAR(green->parent);
	Py_CLEAR(green->run);
	Py_CLEAR(green->context);
	return 0;
}

/* --- creation ------------------------------------------------------------ */

static PyObject *green_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	PyObject *none = PyTuple_New(0);
	PyGreenlet *self, *current;
	struct green *green;

	(void)args;
	(void)kwargs;
	if (!none)
		return NULL;
	/* Which refuses abstract classes. */
	self = (PyGreenlet *)PyBaseObject_Type.tp_new(type, none, NULL);
	Py_DECREF(none);
	if (!self)
		return NULL;
	current = green_current();
	green = current ? PyMem_Calloc(1, sizeof(*green)) : NULL;
	if (!green) {
		if (current)
			PyErr_NoMemory();
		Py_DECREF(self);
		return NULL;
	}
	green->parent = (PyGreenlet *)Py_NewRef((PyObject *)current);
	self->green = green;
	return (PyObject *)self;
}

static int set_run(PyObject *op, PyObject *run, void *unused);

static int set_parent(PyObject *op, PyObject *parent, void *unused)
{
	(void)unused;
	return green_set_parent((PyGreenlet *)op, parent);
}

static int green_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "run", "parent", NULL };
	PyObject *run = NULL, *parent = NULL;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:green", names, &run, &parent))
		return -1;
	if (run && set_run(op, run, NULL))
		return -1;
	return parent && parent != Py_None ? set_parent(op, parent, NULL) : 0;
}

/* --- attributes ---------------------------------------------------------- */

static PyObject *get_run(PyObject *op, void *unused)
{
	const struct green *green = green_of((PyGreenlet *)op);

	(void)unused;
	if (green->main)
		PyErr_SetString(PyExc_AttributeError, "Main greenlets do not have a run attribute.");
	else if (green->started || !green->run)
		PyErr_SetString(PyExc_AttributeError, "run");
	else
		return Py_NewRef(green->run);
	return NULL;
}

static int set_run(PyObject *op, PyObject *run, void *unused)
{
	struct green *green = green_of((PyGreenlet *)op);

	(void)unused;
	if (green->main) {
		PyErr_SetString(PyExc_AttributeError, "Main greenlets do not have a run attribute.");
		return -1;
	}
	if (green->started) {
		PyErr_SetString(PyExc_AttributeError, "run cannot be set after the start of the greenlet");
		return -1;
	}
	Py_XSETREF(green->run, Py_XNewRef(run));
	return 0;
}

static PyObject *get_parent(PyObject *op, void *unused)
{
	PyGreenlet *parent = green_of((PyGreenlet *)op)->parent;

	(void)unused;
	return Py_NewRef(parent ? (PyObject *)parent : Py_None);
}

int green_set_parent(PyGreenlet *self, PyObject *value)
{
	struct green *green = green_of(self);
	struct thread *thread = NULL;
	PyGreenlet *each;

	if (!value) {
		PyErr_SetString(PyExc_AttributeError, "can't delete attribute");
		return -1;
	}
	if (green->main) {
		PyErr_SetString(PyExc_AttributeError, "cannot set the parent of a main greenlet");
		return -1;
	}
	if (!PyObject_TypeCheck(value, &PyGreenlet_Type)) {
		PyErr_Format(PyExc_TypeError, "GreenletChecker: Expected any type of greenlet, not %s",
			     Py_TYPE(value)->tp_name);
		return -1;
	}
	for (each = (PyGreenlet *)value; each; each = green_of(each)->parent) {
		if (each == self) {
			PyErr_SetString(PyExc_ValueError, "cyclic parent chain");
			return -1;
		}
		thread = green_of(each)->thread;
	}
	if (!thread) {
		PyErr_SetString(PyExc_ValueError, "parent must not be garbage collected");
		return -1;
	}
	if (green->started && green->thread != thread) {
		PyErr_SetString(PyExc_ValueError, "parent cannot be on a different thread");
		return -1;
	}
	Py_XSETREF(green->parent, (PyGreenlet *)Py_NewRef(value));
	return 0;
}

/* Where its context is while it is active; NULL: where it is otherwise. */
static PyThreadState *state_of(const struct green *green)
{
	if (!green_active(green))
		return NULL;
	return green->fiber->tstate;
}

/* It runs, and not here: its state is another thread's. */
static bool runs_elsewhere(const struct green *green)
{
	return green_active(green) && green->fiber->state == STATE_RUNNING && green->thread != thread_self();
}

static PyObject *get_context(PyObject *op, void *unused)
{
	const struct green *green = green_of((PyGreenlet *)op);
	PyThreadState *state = state_of(green);
	PyObject *context = state ? state->context : green->context;

	(void)unused;
	if (runs_elsewhere(green)) {
		PyErr_SetString(PyExc_ValueError,
				"cannot get context of a greenlet that is running in a different thread");
		return NULL;
	}
	return Py_NewRef(context ? context : Py_None);
}

static int set_context(PyObject *op, PyObject *context, void *unused)
{
	struct green *green = green_of((PyGreenlet *)op);
	PyThreadState *state = state_of(green);

	(void)unused;
	if (!context) {
		PyErr_SetString(PyExc_AttributeError, "can't delete context attribute");
		return -1;
	}
	if (context != Py_None && !PyContext_CheckExact(context)) {
		PyErr_SetString(PyExc_TypeError,
				"greenlet context must be a contextvars.Context or None");
		return -1;
	}
	if (runs_elsewhere(green)) {
		PyErr_SetString(PyExc_ValueError,
				"cannot set context of a greenlet that is running in a different thread");
		return -1;
	}
	context = context == Py_None ? NULL : Py_NewRef(context);
	if (state)
		interpreter_set_context(state, context);
	else
		Py_XSETREF(green->context, context);
	return 0;
}

static PyObject *get_frame(PyObject *op, void *unused)
{
	const struct green *green = green_of((PyGreenlet *)op);
	PyFrameObject *frame = NULL;

	(void)unused;
	/* Also of one whose thread has ended. */
	if (green->fiber && green->fiber->state == STATE_SUSPENDED && green->fiber->tstate)
		frame = PyThreadState_GetFrame(green->fiber->tstate);
	if (frame)
		return (PyObject *)frame;
	Py_RETURN_NONE;
}

static PyObject *get_dead(PyObject *op, void *unused)
{
	const struct green *green = green_of((PyGreenlet *)op);

	(void)unused;
	return PyBool_FromLong(green->started && !green_active(green));
}

/* Of the stack that it has while it is suspended, since nothing is saved elsewhere. */
static PyObject *get_stack_saved(PyObject *op, void *unused)
{
	const struct green *green = green_of((PyGreenlet *)op);
	size_t size = 0;

	(void)unused;
	/* A root's is not known, and was never saved. */
	if (green_active(green) && green->fiber->state == STATE_SUSPENDED && !green->fiber->root)
		fiber_stack_used(green->fiber->id, &size);
	return PyLong_FromSize_t(size);
}

static int green_bool(PyObject *op)
{
	return green_active(green_of((PyGreenlet *)op));
}

static PyObject *green_repr(PyObject *op)
{
	const struct green *green = green_of((PyGreenlet *)op);
	bool exited = green->thread && !green->thread->alive;
	const void *thread = exited ? NULL : green->thread;
	const char *name = Py_TYPE(op)->tp_name, *where = "";

	if (green->started && !green_active(green))
		return PyUnicode_FromFormat("<%s object at %p (otid=%p) %sdead>", name, op, thread,
					    exited ? "(thread exited) " : "");
	if (thread_self() && thread_self()->current->greenlet == (PyGreenlet *)op)
		where = " current";
	else if (green->started)
		where = " suspended";
	return PyUnicode_FromFormat("<%s object at %p (otid=%p)%s%s%s%s>", name, op, thread, where,
				    green->started ? " active" : "",
				    green->started ? " started" : " pending",
				    green->main ? " main" : "");
}

/* --- methods ------------------------------------------------------------- */

static PyObject *tuple_of(PyObject *const *args, Py_ssize_t count)
{
	PyObject *tuple = PyTuple_New(count);
	Py_ssize_t i;

	for (i = 0; tuple && i < count; i++)
		PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
	return tuple;
}

/* What most switches are: to a suspended one of this thread, with a value or none. */
static bool is_plain(const struct green *green, Py_ssize_t count, const PyObject *names)
{
	const struct thread *here = thread_self();

	return count < 2 && !names && here && here == green->thread && green->fiber &&
	       green->fiber->state == STATE_SUSPENDED && !green->ended && here->current->greenlet &&
	       !here->greenlets->trace && !here->greenlets->to_end;
}

static PyObject *method_switch(PyObject *op, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
	Py_ssize_t i, named = names ? PyTuple_GET_SIZE(names) : 0;
	struct green *green = green_of((PyGreenlet *)op);
	PyObject *tuple, *kwargs = NULL, *value;

	if (__builtin_expect(is_plain(green, count, names), 1)) {
		bool gone = false;

		value = count ? Py_NewRef(args[0]) : PyTuple_New(0);
		value = value ? transfer_resume(green->fiber, value, &gone) : NULL;
		/* It may have been told to trace meanwhile. */
		if (!gone)
			return green_back(value);
	}
	tuple = tuple_of(args, count);
	if (!tuple)
		return NULL;
	if (named)
		kwargs = PyDict_New();
	for (i = 0; kwargs && i < named; i++)
		if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(names, i), args[count + i]))
			Py_CLEAR(kwargs);
	if (named && !kwargs) {
		Py_DECREF(tuple);
		return NULL;
	}
	return green_switch((PyGreenlet *)op, tuple, kwargs);
}

static PyObject *method_throw(PyObject *op, PyObject *args)
{
	PyObject *type = GreenletExit, *value = NULL, *traceback = NULL;

	if (!PyArg_ParseTuple(args, "|OOO:throw", &type, &value, &traceback))
		return NULL;
	return green_throw((PyGreenlet *)op, type, value, traceback);
}

static PyObject *method_getstate(PyObject *op, PyObject *unused)
{
	(void)unused;
	return PyErr_Format(PyExc_TypeError, "cannot serialize '%s' object", Py_TYPE(op)->tp_name);
}

static PyMethodDef methods[] = {
	{ "switch", (PyCFunction)(void (*)(void))method_switch, METH_FASTCALL | METH_KEYWORDS,
	  "switch($self, /, *args, **kwargs)\n--\n\n"
	  "Leaves the calling greenlet and goes on with this one.\n\n"
	  "A new one begins with run(*args, **kwargs). In a suspended one its own switch() returns\n"
	  "the argument if there is one, else the tuple of arguments, the dictionary of keywords, or\n"
	  "both. A dead one stands for its parent. greenlet.error: it belongs to another thread." },
	{ "throw", method_throw, METH_VARARGS,
	  "throw($self, type=GreenletExit, value=None, traceback=None, /)\n--\n\n"
	  "As switch(), but raises this exception there." },
	{ "__getstate__", method_getstate, METH_NOARGS, NULL },
	{ 0 },
};

static PyGetSetDef attributes[] = {
	{ "__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL },
	{ "run", get_run, set_run, "What it calls; gone when it has started.", NULL },
	{ "parent", get_parent, set_parent, "Who gets its value, or its exception.", NULL },
	{ "gr_frame", get_frame, NULL, "Its innermost frame while it is suspended, else None.", NULL },
	{ "gr_context", get_context, set_context, "Its contextvars.Context; None is an empty one.", NULL },
	{ "dead", get_dead, NULL, "It has ended, or its thread has.", NULL },
	{ "_stack_saved", get_stack_saved, NULL, "Bytes of its stack in use while it is suspended.", NULL },
	{ 0 },
};

static PyNumberMethods number = {
	.nb_bool = green_bool,
};

PyTypeObject PyGreenlet_Type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "greenlet.greenlet",
	.tp_doc = "greenlet(run=None, parent=None)\n--\n\n"
		  "A new greenlet that will call `run`, on a fiber. Its parent is the current one.",
	.tp_basicsize = sizeof(PyGreenlet),
	.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
	.tp_new = green_new,
	.tp_init = green_init,
	.tp_dealloc = green_dealloc,
	.tp_traverse = green_traverse,
	.tp_clear = green_clear,
	.tp_is_gc = green_is_gc,
	.tp_weaklistoffset = offsetof(PyGreenlet, weakrefs),
	.tp_dictoffset = offsetof(PyGreenlet, dict),
	.tp_repr = green_repr,
	.tp_as_number = &number,
	.tp_methods = methods,
	.tp_getset = attributes,
};

int green_type_init(void)
{
	return PyType_Ready(&PyGreenlet_Type);
}
