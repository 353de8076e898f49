/* SPDX-License-Identifier: MIT */
#include "docstrings.h"
#include "interpreter.h"

#include <errno.h>
#include <structmember.h>

/* What the extension's C code and the interpreter need before the first recursion. */
#define STACK_MIN ((size_t)64 << 10)
/* A thread's: what works there, works in a fiber. Only what is touched takes memory. */
#define STACK_DEFAULT ((size_t)8 << 20)
/* Extensions have large frames; the kernel's gap below a thread's stack is as large. */
#define GUARD_SIZE ((size_t)1 << 20)

Fiber *fibers_living;
bool fibers_over;

static PyTypeObject *Stats_Type;
static PyObject *state_names[4];

static void fiber_link(Fiber *self)
{
	self->next = fibers_living;
	self->link = &fibers_living;
	if (fibers_living)
		fibers_living->link = &self->next;
	fibers_living = self;
	outside_add(self);
}

void fiber_unlink(Fiber *self)
{
	if (!self->link)
		return;
	*self->link = self->next;
	if (self->next)
		self->next->link = self->link;
	self->link = NULL;
	self->next = NULL;
	outside_remove(self);
}

void fiber_retire(Fiber *self)
{
	if (self->state == STATE_NEW) {
		self->state = STATE_FINISHED;
		fiber_delete(self->id);
	}
	fiber_unlink(self);
	Py_CLEAR(self->target);
	Py_CLEAR(self->args);
	Py_CLEAR(self->kwargs);
	Py_CLEAR(self->context);
	Py_CLEAR(self->locals);
	Py_CLEAR(self->loop);
	Py_CLEAR(self->hooks);
	Py_CLEAR(self->task);
}

void fiber_abandon(Fiber *self)
{
	PyThreadState *state = self->tstate;

	if (self->state == STATE_SUSPENDED && !self->root && !interpreter_ends() &&
	    interpreter_state_lose(state)) {
		self->tstate = NULL;
		fiber_delete(self->id);
	}
	if (self->state != STATE_NEW)
		self->state = STATE_FINISHED;
	fiber_retire(self);
}

/* --- creation ------------------------------------------------------------ */

Fiber *fiber_root_new(void)
{
	Fiber *self = (Fiber *)Fiber_Type.tp_alloc(&Fiber_Type, 0);

	if (!self)
		return NULL;
	self->owner = (PyObject *)self;
	self->root = true;
	self->state = STATE_FINISHED;
	self->name = PyUnicode_FromString("");
	if (!self->name)
		Py_CLEAR(self);
	return self;
}

void fiber_root_begin(Fiber *self, struct thread *thread, fiber_id_t id)
{
	self->id = id;
	self->state = STATE_RUNNING;
	self->tstate = PyThreadState_Get();
	self->thread = self->pinned_to = thread;
	thread_take(thread);
	thread_take(thread);
	fiber_link(self);
}

/* What libfiber shows: as many whole characters of it as fit. */
static int short_name(PyObject *name, char *text)
{
	Py_ssize_t size;
	const char *all = PyUnicode_AsUTF8AndSize(name, &size);

	if (!all)
		return -1;
	if (size > FIBER_NAME_MAX) {
		size = FIBER_NAME_MAX;
		while (size && ((unsigned char)all[size] & 0xc0) == 0x80)
			size--;
	}
	memcpy(text, all, size);
	text[size] = '\0';
	return 0;
}

PyObject *fiber_default_name(PyObject *target)
{
	PyObject *name;

	if (PyFunction_Check(target))
		return Py_NewRef(((PyFunctionObject *)target)->func_qualname);
	name = PyObject_GetAttrString(target, "__qualname__");
	if (name && PyUnicode_Check(name))
		return name;
	Py_XDECREF(name);
	PyErr_Clear();
	return PyUnicode_FromString(Py_TYPE(target)->tp_name);
}

/*
 * The creator's. An empty one is as good as none: the interpreter makes it when it is
 * wanted, and most fibers do without. -1 with an exception set.
 */
static int copy_context(Fiber *self)
{
	PyObject *context = PyThreadState_Get()->context;
	Py_ssize_t size = context ? PyObject_Size(context) : 0;

	if (size > 0)
		self->context = PyContext_CopyCurrent();
	return size < 0 || (size && !self->context) ? -1 : 0;
}

static int create(Fiber *self)
{
	char name[FIBER_NAME_MAX + 1];
	const struct fiber_attr attr = {
		.size = sizeof(attr),
		.stack_size = self->stack_size,
		.guard_size = GUARD_SIZE,
		.name = name,
	};
	int err;

	if (short_name(self->name, name))
		return -1;
	err = fiber_create(&self->id, transfer_start, NULL, &attr);
	if (err) {
		error_raise(err, "no new fiber");
		return -1;
	}
	self->stack = self->id;
	Py_XSETREF(self->creator, interpreter_position(&self->created_at));
	/* Nobody else could say which fiber it was. Without memory for that nobody does. */
	fiber_report_overflow();
	fiber_link(self);
	return 0;
}

/* -1 with an exception set: it would be its own ancestor. */
static int take_parent(Fiber *self, Fiber *parent)
{
	Fiber *fiber;

	for (fiber = parent; fiber; fiber = fiber->parent) {
		if (fiber == self) {
			PyErr_SetString(PyExc_ValueError, "a fiber cannot be its own ancestor");
			return -1;
		}
	}
	Py_XSETREF(self->parent, (Fiber *)Py_NewRef((PyObject *)parent));
	return 0;
}

/* Checks the keywords; what is not given stays as it is. */
static int parse(Fiber *self, PyObject *kwargs)
{
	static char *names[] = { "name", "stack_size", "context", "parent", "kwargs", NULL };
	PyObject *name = Py_None, *size = Py_None, *context = Py_None, *parent = Py_None, *given = Py_None, *empty;
	int parsed;

	empty = PyTuple_New(0);
	if (!empty)
		return -1;
	parsed = PyArg_ParseTupleAndKeywords(empty, kwargs, "|$OOOOO:Fiber", names, &name, &size,
					     &context, &parent, &given);
	Py_DECREF(empty);
	if (!parsed)
		return -1;
	if (name != Py_None) {
		if (!PyUnicode_Check(name)) {
			PyErr_SetString(PyExc_TypeError, "name must be a str");
			return -1;
		}
		Py_XSETREF(self->name, Py_NewRef(name));
	}
	if (size != Py_None) {
		self->stack_size = PyLong_AsSize_t(size);
		if (self->stack_size == (size_t)-1 && PyErr_Occurred())
			return -1;
		if (self->stack_size < STACK_MIN) {
			PyErr_Format(PyExc_ValueError, "stack_size must be at least %zu", STACK_MIN);
			return -1;
		}
		if (self->stack_size < INTERPRETER_STACK_MIN)
			self->stack_size = INTERPRETER_STACK_MIN;
	}
	if (context != Py_None) {
		if (!PyContext_CheckExact(context)) {
			PyErr_SetString(PyExc_TypeError, "context must be a contextvars.Context");
			return -1;
		}
		Py_XSETREF(self->context, Py_NewRef(context));
	}
	if (given != Py_None) {
		PyObject *own = PyMapping_Check(given) ? PyDict_New() : NULL;

		if (!own && !PyErr_Occurred())
			PyErr_SetString(PyExc_TypeError, "kwargs must be a mapping");
		if (!own || PyDict_Update(own, given)) {
			Py_XDECREF(own);
			return -1;
		}
		Py_XSETREF(self->kwargs, own);
	}
	if (parent != Py_None) {
		if (!PyObject_TypeCheck(parent, &Fiber_Type)) {
			PyErr_SetString(PyExc_TypeError, "parent must be a Fiber");
			return -1;
		}
		if (take_parent(self, (Fiber *)parent))
			return -1;
	}
	return 0;
}

static void Fiber_finalize(PyObject *op);

/* The finalizer of a class that defines __del__. It may not run once more, so the fiber ends. */
static void finalize_subclass(PyObject *op)
{
	PyObject *error = PyErr_Occurred() ? interpreter_error_take() : NULL;
	PyObject *method, *result;

	method = PyObject_GetAttrString((PyObject *)Py_TYPE(op), "__del__");
	result = method ? PyObject_CallOneArg(method, op) : NULL;
	Py_XDECREF(method);
	if (!result)
		PyErr_WriteUnraisable(op);
	Py_XDECREF(result);
	if (error)
		interpreter_error_give(error);
	Fiber_finalize(op);
}

/* __del__ replaces the inherited finalizer, which ends the fiber. */
static void keep_finalizer(PyTypeObject *type)
{
	if (type->tp_finalize != Fiber_finalize && PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE))
		type->tp_finalize = finalize_subclass;
}

/* Makes what was allocated a new fiber, by the arguments of Fiber(). -1 with an exception set. */
static int make(Fiber *self, PyObject *args, PyObject *kwargs)
{
	struct thread *thread = thread_convert();
	PyObject *target;

	if (!thread)
		return -1;
	if (!PyTuple_GET_SIZE(args)) {
		PyErr_SetString(PyExc_TypeError, "Fiber() needs a target to call");
		return -1;
	}
	target = PyTuple_GET_ITEM(args, 0);
	if (!PyCallable_Check(target)) {
		PyErr_Format(PyExc_TypeError, "the target of a fiber must be callable, not %.100s",
			     Py_TYPE(target)->tp_name);
		return -1;
	}
	if (kwargs && parse(self, kwargs))
		return -1;
	/* A constructor that failed may be called again. */
	Py_XSETREF(self->target, Py_NewRef(target));
	Py_XSETREF(self->args, PyTuple_GetSlice(args, 1, PyTuple_GET_SIZE(args)));
	if (!self->name)
		self->name = fiber_default_name(target);
	if (!self->context && copy_context(self))
		return -1;
	/* Again: a name or a collection may have run code, and that gone on elsewhere. */
	thread = thread_convert();
	if (!thread)
		return -1;
	if (!self->parent)
		self->parent = (Fiber *)Py_NewRef((PyObject *)thread->current);
	/* That code may have made it meanwhile. */
	if (!self->args || !self->name || (!self->id && create(self)))
		return -1;
	self->state = STATE_NEW;
	return 0;
}

Fiber *fiber_of_greenlet(struct PyGreenlet *greenlet, PyObject *run, PyObject *name, struct thread *pinned_to)
{
	Fiber *self = (Fiber *)Fiber_Type.tp_alloc(&Fiber_Type, 0);

	if (!self) {
		Py_DECREF(run);
		Py_DECREF(name);
		return NULL;
	}
	/* The greenlet decides what is collected. */
	PyObject_GC_UnTrack(self);
	self->owner = (PyObject *)self;
	self->state = STATE_FINISHED;
	self->stack_size = STACK_DEFAULT;
	self->target = run;
	self->name = name;
	if (create(self)) {
		Py_DECREF(self);
		return NULL;
	}
	self->state = STATE_NEW;
	self->owner = (PyObject *)greenlet;
	self->greenlet = greenlet;
	self->pinned_to = pinned_to;
	thread_take(pinned_to);
	return self;
}

/* Whether a class has its own __init__, which is to call this one, and leaves __new__ alone. */
static bool initialised_by_itself(PyTypeObject *type)
{
	return type->tp_init != Fiber_Type.tp_init && type->tp_new == Fiber_Type.tp_new;
}

static PyObject *Fiber_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	Fiber *self;

	if (type->tp_flags & Py_TPFLAGS_IS_ABSTRACT) {
		PyObject *none = PyTuple_New(0), *never;

		/* It knows how to say which methods are missing. */
		never = none ? PyBaseObject_Type.tp_new(type, none, NULL) : NULL;
		Py_XDECREF(none);
		return never;
	}
	self = (Fiber *)type->tp_alloc(type, 0);
	if (!self)
		return NULL;
	keep_finalizer(type);
	self->owner = (PyObject *)self;
	self->state = STATE_FINISHED;
	self->stack_size = STACK_DEFAULT;
	if (initialised_by_itself(type) || !make(self, args, kwargs))
		return (PyObject *)self;
	Py_DECREF(self);
	return NULL;
}

/* A class with an __init__ of its own calls it; otherwise Fiber_new() has made the fiber. */
static int Fiber_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
	Fiber *self = (Fiber *)op;

	if (!self->id)
		return make(self, args, kwargs);
	if (initialised_by_itself(Py_TYPE(op))) {
		PyErr_SetString(PyExc_RuntimeError, "Fiber.__init__() was called twice");
		return -1;
	}
	return 0;
}

PyObject *fiber_finished(Fiber *self)
{
	if (!self->id && !self->root)
		return error_format(FiberError, EINVAL,
				    "Fiber.__init__() was not called; hint: the __init__() of %.100s "
				    "must call super().__init__(target)", Py_TYPE(self)->tp_name);
	return error_format(FiberFinishedError, EOWNERDEAD, "%R has finished", self);
}

/* --- end ----------------------------------------------------------------- */

/* The one that was created after it, as a rule the next that a collection visits; NULL: none. */
static Fiber *newer(Fiber *self)
{
	if (!self || !self->link || self->link == &fibers_living)
		return NULL;
	return (Fiber *)((char *)self->link - offsetof(Fiber, next));
}

/* Each visit would wait for memory several times, and there may be 100,000: it is fetched meanwhile. */
static void expect(Fiber *fiber)
{
	const char *line;
	int steps;

	for (steps = 1; steps <= EXPECT_STEPS; steps++) {
		fiber = newer(fiber);
		if (!fiber)
			return;
		if (fiber->state == STATE_SUSPENDED && fiber->tstate)
			interpreter_expect(fiber->tstate, steps);
	}
	/* Itself, with the collector's words before it. */
	fiber = newer(fiber);
	if (!fiber)
		return;
	for (line = (char *)fiber - 16; line < (char *)(fiber + 1); line += 64)
		__builtin_prefetch(line, 1);
}

static int Fiber_traverse(PyObject *op, visitproc visit, void *arg)
{
	Fiber *self = (Fiber *)op;

	expect(self);
	Py_VISIT(self->message);
	Py_VISIT(self->target);
	Py_VISIT(self->args);
	Py_VISIT(self->kwargs);
	Py_VISIT(self->dict);
	Py_VISIT(self->result);
	Py_VISIT(self->context);
	Py_VISIT(self->parent);
	Py_VISIT(self->locals);
	Py_VISIT(self->loop);
	Py_VISIT(self->hooks);
	Py_VISIT(self->task);
	if (self->state == STATE_SUSPENDED && self->tstate)
		return interpreter_visit(self->tstate, visit, arg, &self->generators_held);
	return 0;
}

/* A suspended one is not cleared but ended, by its finalizer. */
static int Fiber_clear(PyObject *op)
{
	Fiber *self = (Fiber *)op;

	if (self->state == STATE_SUSPENDED || self->state == STATE_RUNNING)
		return 0;
	fiber_retire(self);
	Py_CLEAR(self->parent);
	Py_CLEAR(self->result);
	Py_CLEAR(self->dict);
	return 0;
}

static void Fiber_finalize(PyObject *op)
{
	Fiber *self = (Fiber *)op;

	if (self->state == STATE_SUSPENDED && !self->root)
		transfer_end(self, false);
}

static void Fiber_dealloc(PyObject *op)
{
	Fiber *self = (Fiber *)op;

	if (PyObject_CallFinalizerFromDealloc(op))
		return;
	PyObject_GC_UnTrack(op);
	/* A chain of parents may be long. */
	Py_TRASHCAN_BEGIN(op, Fiber_dealloc)
	if (self->weakrefs)
		PyObject_ClearWeakRefs(op);
	fiber_abandon(self);
	pin_forget(self);
	Py_CLEAR(self->message);
	Py_CLEAR(self->dict);
	Py_CLEAR(self->result);
	Py_CLEAR(self->name);
	Py_CLEAR(self->creator);
	Py_CLEAR(self->parent);
	thread_drop(self->thread);
	thread_drop(self->pinned_to);
	Py_TYPE(op)->tp_free(op);
	Py_TRASHCAN_END
}

/* --- methods ------------------------------------------------------------- */

static PyObject *Fiber_switch(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
	if (count > 1) {
		PyErr_Format(PyExc_TypeError, "switch() takes at most 1 argument (%zd given)", count);
		return NULL;
	}
	return transfer((Fiber *)op, Py_NewRef(count ? args[0] : Py_None), false);
}

/* What a generator's throw() makes of (type or instance, value, traceback). New reference. */
static PyObject *exception_of(PyObject *type, PyObject *value, PyObject *traceback)
{
	PyObject *error;

	if (traceback != Py_None && !PyTraceBack_Check(traceback)) {
		PyErr_SetString(PyExc_TypeError, "throw() third argument must be a traceback object");
		return NULL;
	}
	if (PyExceptionInstance_Check(type)) {
		if (value != Py_None) {
			PyErr_SetString(PyExc_TypeError,
					"instance exception may not have a separate value");
			return NULL;
		}
		error = Py_NewRef(type);
	} else if (!PyExceptionClass_Check(type)) {
		PyErr_Format(PyExc_TypeError,
			     "exceptions must be classes or instances deriving from BaseException, "
			     "not %.100s", Py_TYPE(type)->tp_name);
		return NULL;
	} else if (PyExceptionInstance_Check(value) &&
		   PyObject_IsInstance(value, type) > 0) {
		error = Py_NewRef(value);
	} else if (value == Py_None) {
		error = PyObject_CallNoArgs(type);
	} else if (PyTuple_Check(value)) {
		error = PyObject_Call(type, value, NULL);
	} else {
		error = PyObject_CallOneArg(type, value);
	}
	if (error && !PyExceptionInstance_Check(error)) {
		PyErr_Format(PyExc_TypeError, "calling %R gave no exception", type);
		Py_CLEAR(error);
	}
	if (error && traceback != Py_None && PyException_SetTraceback(error, traceback))
		Py_CLEAR(error);
	return error;
}

static PyObject *Fiber_throw(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
	PyObject *error;

	if (count < 1 || count > 3) {
		PyErr_Format(PyExc_TypeError, "throw() takes 1 to 3 arguments (%zd given)", count);
		return NULL;
	}
	error = exception_of(args[0], count > 1 ? args[1] : Py_None, count > 2 ? args[2] : Py_None);
	return error ? transfer((Fiber *)op, error, true) : NULL;
}

static PyObject *Fiber_kill(PyObject *op, PyObject *unused)
{
	(void)unused;
	if (transfer_kill((Fiber *)op))
		return NULL;
	Py_RETURN_NONE;
}

/* The argument `timeout` of a method that has no other; None by default. NULL with an exception set. */
static PyObject *timeout_of(PyObject *args, PyObject *kwargs, const char *format)
{
	static char *names[] = { "timeout", NULL };
	PyObject *timeout = Py_None;

	return PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &timeout) ? timeout : NULL;
}

static PyObject *Fiber_join(PyObject *op, PyObject *args, PyObject *kwargs)
{
	PyObject *timeout = timeout_of(args, kwargs, "|O:join");

	return timeout ? fiber_join((Fiber *)op, timeout) : NULL;
}

static PyObject *Fiber_result(PyObject *op, PyObject *args, PyObject *kwargs)
{
	PyObject *timeout = timeout_of(args, kwargs, "|O:result");

	return timeout ? fiber_result((Fiber *)op, timeout) : NULL;
}

static PyMethodDef methods[] = {
	{ "switch", (PyCFunction)(void (*)(void))Fiber_switch, METH_FASTCALL,
	  DOC_Fiber_switch },
	{ "throw", (PyCFunction)(void (*)(void))Fiber_throw, METH_FASTCALL, DOC_Fiber_throw },
	{ "kill", Fiber_kill, METH_NOARGS, DOC_Fiber_kill },
	{ "join", (PyCFunction)(void (*)(void))Fiber_join, METH_VARARGS | METH_KEYWORDS,
	  DOC_Fiber_join },
	{ "result", (PyCFunction)(void (*)(void))Fiber_result, METH_VARARGS | METH_KEYWORDS,
	  DOC_Fiber_result },
	{ 0 },
};

static int Fiber_bool(PyObject *op)
{
	enum state state = ((Fiber *)op)->state;

	return state == STATE_RUNNING || state == STATE_SUSPENDED;
}

static PyNumberMethods number_methods = {
	.nb_bool = Fiber_bool,
};

/* --- attributes ---------------------------------------------------------- */

static PyObject *get_id(PyObject *op, void *unused)
{
	(void)unused;
	return PyLong_FromUnsignedLongLong(((Fiber *)op)->id);
}

static PyObject *get_name(PyObject *op, void *unused)
{
	(void)unused;
	/* Before its class's __init__ has called ours it has none. */
	return ((Fiber *)op)->name ? Py_NewRef(((Fiber *)op)->name) : PyUnicode_FromString("");
}

static int set_name(PyObject *op, PyObject *name, void *unused)
{
	char text[FIBER_NAME_MAX + 1];
	Fiber *self = (Fiber *)op;
	int err = 0;

	(void)unused;
	if (!name || !PyUnicode_Check(name)) {
		PyErr_SetString(PyExc_TypeError, "name must be a str");
		return -1;
	}
	if (short_name(name, text))
		return -1;
	if (self->state != STATE_FINISHED)
		err = fiber_set_name(self->id, text);
	if (err) {
		error_raise(err, "no new name");
		return -1;
	}
	Py_XSETREF(self->name, Py_NewRef(name));
	return 0;
}

static PyObject *get_parent(PyObject *op, void *unused)
{
	Fiber *parent = ((Fiber *)op)->parent;

	(void)unused;
	return Py_NewRef(parent ? (PyObject *)parent : Py_None);
}

static int set_parent(PyObject *op, PyObject *value, void *unused)
{
	Fiber *self = (Fiber *)op;

	(void)unused;
	if (!value || !PyObject_TypeCheck(value, &Fiber_Type)) {
		PyErr_SetString(PyExc_TypeError, "parent must be a Fiber");
		return -1;
	}
	if (self->root) {
		PyErr_SetString(PyExc_ValueError, "a thread's own fiber has no parent");
		return -1;
	}
	return take_parent(self, (Fiber *)value);
}

static PyObject *get_state(PyObject *op, void *unused)
{
	(void)unused;
	return Py_NewRef(state_names[((Fiber *)op)->state]);
}

static PyObject *get_dead(PyObject *op, void *unused)
{
	Fiber *self = (Fiber *)op;

	(void)unused;
	/* One that its class's __init__ has not made yet is not dead. */
	return PyBool_FromLong(self->state == STATE_FINISHED && (self->id || self->root));
}

static PyObject *get_thread(PyObject *op, void *unused)
{
	struct thread *thread = ((Fiber *)op)->thread;

	(void)unused;
	if (thread && thread->alive)
		return PyLong_FromUnsignedLong(thread->ident);
	Py_RETURN_NONE;
}

static PyObject *get_context(PyObject *op, void *unused)
{
	Fiber *self = (Fiber *)op;
	PyObject *context = self->tstate ? self->tstate->context : self->context;

	(void)unused;
	return Py_NewRef(context ? context : Py_None);
}

static PyObject *get_stack_size(PyObject *op, void *unused)
{
	(void)unused;
	return PyLong_FromSize_t(((Fiber *)op)->stack_size);
}

static PyObject *get_frame(PyObject *op, void *unused)
{
	Fiber *self = (Fiber *)op;
	PyFrameObject *frame = NULL;

	(void)unused;
	if (self->tstate && self->state != STATE_NEW)
		frame = interpreter_frame(self->tstate);
	if (frame)
		return (PyObject *)frame;
	Py_RETURN_NONE;
}

static PyObject *time_or_none(uint64_t time)
{
	if (time == FIBER_TIME_UNKNOWN)
		Py_RETURN_NONE;
	return PyLong_FromUnsignedLongLong(time);
}

static PyObject *get_stats(PyObject *op, void *unused)
{
	Fiber *self = (Fiber *)op;
	struct fiber_stat stat = FIBER_STAT_INIT;
	PyObject *stats;
	int err, i;

	(void)unused;
	if (self->state == STATE_FINISHED)
		return fiber_finished(self);
	err = fiber_get_stat(self->id, &stat);
	if (err)
		return error_raise(err, "no statistics");
	stats = PyStructSequence_New(Stats_Type);
	if (!stats)
		return NULL;
	PyStructSequence_SetItem(stats, 0, PyLong_FromUnsignedLongLong(self->id));
	PyStructSequence_SetItem(stats, 1, Py_NewRef(self->name));
	PyStructSequence_SetItem(stats, 2, Py_NewRef(state_names[self->state]));
	PyStructSequence_SetItem(stats, 3, PyLong_FromUnsignedLongLong(stat.activations));
	PyStructSequence_SetItem(stats, 4, PyLong_FromUnsignedLongLong(stat.failed_activations));
	PyStructSequence_SetItem(stats, 5, time_or_none(stat.run_time));
	PyStructSequence_SetItem(stats, 6, time_or_none(stat.cpu_time));
	PyStructSequence_SetItem(stats, 7, time_or_none(stat.longest_run));
	for (i = 0; i < 8; i++) {
		if (!PyStructSequence_GetItem(stats, i)) {
			Py_DECREF(stats);
			return NULL;
		}
	}
	return stats;
}

static PyGetSetDef attributes[] = {
	{ "id", get_id, NULL, DOC_Fiber_id, NULL },
	{ "name", get_name, set_name, DOC_Fiber_name, NULL },
	{ "parent", get_parent, set_parent, DOC_Fiber_parent, NULL },
	{ "state", get_state, NULL, DOC_Fiber_state, NULL },
	{ "dead", get_dead, NULL, DOC_Fiber_dead, NULL },
	{ "thread", get_thread, NULL, DOC_Fiber_thread, NULL },
	{ "context", get_context, NULL, DOC_Fiber_context, NULL },
	{ "stats", get_stats, NULL, DOC_Fiber_stats, NULL },
	{ "frame", get_frame, NULL, DOC_Fiber_frame, NULL },
	{ "__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL },
	{ "stack_size", get_stack_size, NULL, DOC_Fiber_stack_size, NULL },
	{ 0 },
};

static PyObject *Fiber_repr(PyObject *op)
{
	Fiber *self = (Fiber *)op;

	if (self->root)
		return PyUnicode_FromFormat("<%s %llu, a thread, %U>", Py_TYPE(op)->tp_name,
					    (unsigned long long)self->id, state_names[self->state]);
	if (!self->name)
		return PyUnicode_FromFormat("<%s, not made>", Py_TYPE(op)->tp_name);
	return PyUnicode_FromFormat("<%s %llu %R, %U>", Py_TYPE(op)->tp_name,
				    (unsigned long long)self->id, self->name,
				    state_names[self->state]);
}

PyTypeObject Fiber_Type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "kfiber.Fiber",
	.tp_doc = DOC_Fiber,
	.tp_basicsize = sizeof(Fiber),
	.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
	.tp_new = Fiber_new,
	.tp_init = Fiber_init,
	.tp_dealloc = Fiber_dealloc,
	.tp_finalize = Fiber_finalize,
	.tp_traverse = Fiber_traverse,
	.tp_clear = Fiber_clear,
	.tp_weaklistoffset = offsetof(Fiber, weakrefs),
	.tp_dictoffset = offsetof(Fiber, dict),
	.tp_getattro = PyObject_GenericGetAttr,
	.tp_setattro = PyObject_GenericSetAttr,
	.tp_repr = Fiber_repr,
	.tp_as_number = &number_methods,
	.tp_methods = methods,
	.tp_getset = attributes,
};

static PyStructSequence_Field stats_fields[] = {
	{ "id", DOC_FiberStats_id },
	{ "name", DOC_FiberStats_name },
	{ "state", DOC_FiberStats_state },
	{ "activations", DOC_FiberStats_activations },
	{ "failed_activations", DOC_FiberStats_failed_activations },
	{ "run_time_ns", DOC_FiberStats_run_time_ns },
	{ "cpu_time_ns", DOC_FiberStats_cpu_time_ns },
	{ "longest_run_ns", DOC_FiberStats_longest_run_ns },
	{ NULL, NULL },
};

static PyStructSequence_Desc stats_description = {
	.name = "kfiber.FiberStats",
	.doc = DOC_FiberStats,
	.fields = stats_fields,
	.n_in_sequence = 8,
};

int fiber_type_init(PyObject *module)
{
	static const char *const names[] = { "new", "running", "suspended", "finished" };
	int i;

	for (i = 0; i < 4; i++) {
		state_names[i] = PyUnicode_InternFromString(names[i]);
		if (!state_names[i])
			return -1;
	}
	Stats_Type = PyStructSequence_NewType(&stats_description);
	if (!Stats_Type || PyModule_AddType(module, Stats_Type) ||
	    PyModule_AddType(module, &Fiber_Type))
		return -1;
	return 0;
}
