/* SPDX-License-Identifier: MIT */
#include "interpreter.h"

#include <errno.h>
#include <structmember.h>

/* What the extension's C code and the interpreter need before the first recursion. */
#define STACK_MIN ((size_t)64 << 10)
#define STACK_DEFAULT ((size_t)1 << 20)

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
	Py_CLEAR(self->context);
	Py_CLEAR(self->locals);
	Py_CLEAR(self->loop);
	Py_CLEAR(self->hooks);
	Py_CLEAR(self->task);
}

/* --- creation ------------------------------------------------------------ */

Fiber *fiber_root_new(void)
{
	Fiber *self = (Fiber *)Fiber_Type.tp_alloc(&Fiber_Type, 0);

	if (!self)
		return NULL;
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
	self->thread = self->home = thread;
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

static PyObject *default_name(PyObject *target)
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
	const struct fiber_attr attr = { .stack_size = self->stack_size, .name = name };
	int err;

	if (short_name(self->name, name))
		return -1;
	err = fiber_create(&self->id, transfer_start, NULL, &attr);
	if (err) {
		error_raise(err, "no new fiber");
		return -1;
	}
	fiber_link(self);
	return 0;
}

/* Checks the keywords; what is not given stays as it is. */
static int parse(Fiber *self, PyObject *kwargs)
{
	static char *names[] = { "name", "stack_size", "context", "parent", NULL };
	PyObject *name = Py_None, *size = Py_None, *context = Py_None, *parent = Py_None, *empty;
	int parsed;

	empty = PyTuple_New(0);
	if (!empty)
		return -1;
	parsed = PyArg_ParseTupleAndKeywords(empty, kwargs, "|$OOOO:Fiber", names, &name, &size,
					     &context, &parent);
	Py_DECREF(empty);
	if (!parsed)
		return -1;
	if (name != Py_None) {
		if (!PyUnicode_Check(name)) {
			PyErr_SetString(PyExc_TypeError, "name must be a str");
			return -1;
		}
		self->name = Py_NewRef(name);
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
		self->context = Py_NewRef(context);
	}
	if (parent != Py_None) {
		if (!PyObject_TypeCheck(parent, &Fiber_Type)) {
			PyErr_SetString(PyExc_TypeError, "parent must be a Fiber");
			return -1;
		}
		self->parent = (Fiber *)Py_NewRef(parent);
	}
	return 0;
}

static PyObject *Fiber_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	struct thread *thread = thread_convert();
	PyObject *target;
	Fiber *self;

	if (!thread)
		return NULL;
	if (!PyTuple_GET_SIZE(args)) {
		PyErr_SetString(PyExc_TypeError, "Fiber() needs a target to call");
		return NULL;
	}
	target = PyTuple_GET_ITEM(args, 0);
	if (!PyCallable_Check(target)) {
		PyErr_Format(PyExc_TypeError, "the target of a fiber must be callable, not %.100s",
			     Py_TYPE(target)->tp_name);
		return NULL;
	}
	self = (Fiber *)type->tp_alloc(type, 0);
	if (!self)
		return NULL;
	self->state = STATE_FINISHED;
	self->stack_size = STACK_DEFAULT;
	if (kwargs && parse(self, kwargs))
		goto fail;
	self->target = Py_NewRef(target);
	self->args = PyTuple_GetSlice(args, 1, PyTuple_GET_SIZE(args));
	if (!self->name)
		self->name = default_name(target);
	if (!self->context && copy_context(self))
		goto fail;
	/* Again: a name or a collection may have run code, and that gone on elsewhere. */
	thread = thread_convert();
	if (!thread)
		goto fail;
	if (!self->parent)
		self->parent = (Fiber *)Py_NewRef((PyObject *)thread->current);
	if (!self->args || !self->name || create(self))
		goto fail;
	self->state = STATE_NEW;
	return (PyObject *)self;
fail:
	Py_DECREF(self);
	return NULL;
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
	for (line = (char *)fiber - 16; fiber && line < (char *)(fiber + 1); line += 64)
		__builtin_prefetch(line, 1);
}

static int Fiber_traverse(PyObject *op, visitproc visit, void *arg)
{
	Fiber *self = (Fiber *)op;

	expect(self);
	Py_VISIT(self->message);
	Py_VISIT(self->target);
	Py_VISIT(self->args);
	Py_VISIT(self->context);
	Py_VISIT(self->parent);
	Py_VISIT(self->locals);
	Py_VISIT(self->loop);
	Py_VISIT(self->hooks);
	Py_VISIT(self->task);
	if (self->state == STATE_SUSPENDED && self->tstate)
		return interpreter_visit(self->tstate, visit, arg);
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
	/* What could not be unwound stays where it is, stack and all. */
	if (self->state != STATE_NEW)
		self->state = STATE_FINISHED;
	fiber_retire(self);
	Py_CLEAR(self->message);
	Py_CLEAR(self->name);
	Py_CLEAR(self->parent);
	thread_drop(self->thread);
	thread_drop(self->home);
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

static PyObject *Fiber_throw(PyObject *op, PyObject *error)
{
	if (PyExceptionClass_Check(error)) {
		error = PyObject_CallNoArgs(error);
		if (!error)
			return NULL;
	} else {
		Py_INCREF(error);
	}
	if (!PyExceptionInstance_Check(error)) {
		PyErr_Format(PyExc_TypeError, "exceptions must derive from BaseException, not %.100s",
			     Py_TYPE(error)->tp_name);
		Py_DECREF(error);
		return NULL;
	}
	return transfer((Fiber *)op, error, true);
}

static PyMethodDef methods[] = {
	{ "switch", (PyCFunction)(void (*)(void))Fiber_switch, METH_FASTCALL, NULL },
	{ "throw", Fiber_throw, METH_O, NULL },
	{ 0 },
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
	return Py_NewRef(((Fiber *)op)->name);
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
	Py_SETREF(self->name, Py_NewRef(name));
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
	Fiber *self = (Fiber *)op, *fiber;

	(void)unused;
	if (!value || !PyObject_TypeCheck(value, &Fiber_Type)) {
		PyErr_SetString(PyExc_TypeError, "parent must be a Fiber");
		return -1;
	}
	if (self->root) {
		PyErr_SetString(PyExc_ValueError, "a thread's own fiber has no parent");
		return -1;
	}
	for (fiber = (Fiber *)value; fiber; fiber = fiber->parent) {
		if (fiber == self) {
			PyErr_SetString(PyExc_ValueError, "a fiber cannot be its own ancestor");
			return -1;
		}
	}
	Py_XSETREF(self->parent, (Fiber *)Py_NewRef(value));
	return 0;
}

static PyObject *get_state(PyObject *op, void *unused)
{
	(void)unused;
	return Py_NewRef(state_names[((Fiber *)op)->state]);
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
		frame = PyThreadState_GetFrame(self->tstate);
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
	struct fiber_stat stat;
	PyObject *stats;
	int err, i;

	(void)unused;
	if (self->state == STATE_FINISHED)
		return error_format(FiberFinishedError, EOWNERDEAD, "%R has finished", self);
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
	{ "id", get_id, NULL, NULL, NULL },
	{ "name", get_name, set_name, NULL, NULL },
	{ "parent", get_parent, set_parent, NULL, NULL },
	{ "state", get_state, NULL, NULL, NULL },
	{ "stats", get_stats, NULL, NULL, NULL },
	{ "frame", get_frame, NULL, NULL, NULL },
	{ "stack_size", get_stack_size, NULL, NULL, NULL },
	{ 0 },
};

static PyObject *Fiber_repr(PyObject *op)
{
	Fiber *self = (Fiber *)op;

	if (self->root)
		return PyUnicode_FromFormat("<%s %llu, a thread, %U>", Py_TYPE(op)->tp_name,
					    (unsigned long long)self->id, state_names[self->state]);
	return PyUnicode_FromFormat("<%s %llu %R, %U>", Py_TYPE(op)->tp_name,
				    (unsigned long long)self->id, self->name,
				    state_names[self->state]);
}

PyTypeObject Fiber_Type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "kfiber.Fiber",
	.tp_basicsize = sizeof(Fiber),
	.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
	.tp_new = Fiber_new,
	.tp_dealloc = Fiber_dealloc,
	.tp_finalize = Fiber_finalize,
	.tp_traverse = Fiber_traverse,
	.tp_clear = Fiber_clear,
	.tp_weaklistoffset = offsetof(Fiber, weakrefs),
	.tp_repr = Fiber_repr,
	.tp_methods = methods,
	.tp_getset = attributes,
};

static PyStructSequence_Field stats_fields[] = {
	{ "id", NULL },
	{ "name", NULL },
	{ "state", NULL },
	{ "activations", NULL },
	{ "failed_activations", NULL },
	{ "run_time_ns", NULL },
	{ "cpu_time_ns", NULL },
	{ "longest_run_ns", NULL },
	{ NULL, NULL },
};

static PyStructSequence_Desc stats_description = {
	.name = "kfiber.FiberStats",
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
