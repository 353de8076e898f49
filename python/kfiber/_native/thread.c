/* SPDX-License-Identifier: MIT */
/*
 * Threads that are fibers. A thread becomes one by its first use of this module
 * and stays one until it ends, which the interpreter tells by clearing the
 * thread state's dictionary; attach() does it for a block.
 */
#include "interpreter.h"

#define KEY "kfiber.thread"

_Thread_local struct thread *kfiber_thread;

static struct thread *threads;

void thread_take(struct thread *thread)
{
	thread->references++;
}

void thread_drop(struct thread *thread)
{
	if (thread && !--thread->references)
		PyMem_Free(thread);
}

void thread_drain(struct thread *thread)
{
	Fiber *fiber;

	while ((fiber = thread->doomed)) {
		thread->doomed = fiber->next_doomed;
		fiber->next_doomed = NULL;
		/* Somebody may have found it in fibers() meanwhile. */
		if (fiber->state == STATE_SUSPENDED && Py_REFCNT(fiber) == 1)
			transfer_end(fiber, true);
		Py_DECREF(fiber);
	}
}

/* The thread is a fiber no more; its own one has finished. */
static void thread_end(struct thread *thread)
{
	bool here = thread == thread_self();
	Fiber *root = thread->root, *current = thread->current;

	if (!thread->alive)
		return;
	if (here)
		thread_drain(thread);
	thread->alive = false;
	thread->root = thread->current = NULL;
	*thread->link = thread->next;
	if (thread->next)
		thread->next->link = thread->link;
	root->state = STATE_FINISHED;
	root->tstate = NULL;
	if (current != root) {
		/* Its frames are lost with the thread. */
		current->state = STATE_FINISHED;
		current->tstate = NULL;
		fiber_retire(current);
	}
	if (here) {
		fiber_revert();
		kfiber_thread = NULL;
	}
	fiber_retire(root);
	Py_CLEAR(thread->loop);
	Py_CLEAR(thread->hooks);
	Py_CLEAR(thread->task);
	Py_DECREF(root);
	Py_DECREF(current);
	/* The thread is gone: they unwind on this one. */
	thread_drain(thread);
}

static void capsule_free(PyObject *capsule)
{
	struct thread *thread = PyCapsule_GetPointer(capsule, KEY);

	thread_end(thread);
	thread_drop(thread);
}

/* Its own fiber, and the capsule that tells its end. */
static int thread_begin(struct thread *thread, fiber_id_t id)
{
	PyObject *dict = PyThreadState_GetDict(), *capsule;
	int err;

	thread->references = 1;
	thread->alive = true;
	thread->root = fiber_root_new(thread, id);
	if (!thread->root)
		return -1;
	thread->current = (Fiber *)Py_NewRef(thread->root);
	thread->next = threads;
	thread->link = &threads;
	if (threads)
		threads->link = &thread->next;
	threads = thread;
	capsule = dict ? PyCapsule_New(thread, KEY, capsule_free) : NULL;
	if (!capsule) {
		if (!PyErr_Occurred())
			PyErr_NoMemory();
		thread_end(thread);
		return -1;
	}
	err = PyDict_SetItemString(dict, KEY, capsule);
	Py_DECREF(capsule);
	return err;
}

struct thread *thread_convert(void)
{
	struct thread *thread = thread_self();
	fiber_id_t id;
	int err;

	if (thread)
		return thread;
	err = fiber_convert(0, &id);
	if (err) {
		error_raise(err, "this thread cannot run fibers");
		return NULL;
	}
	thread = PyMem_Calloc(1, sizeof(*thread));
	if (!thread) {
		fiber_revert();
		PyErr_NoMemory();
		return NULL;
	}
	interpreter_attach();
	kfiber_thread = thread;
	thread->kept = true;
	if (!thread_begin(thread, id))
		return thread;
	if (thread_self()) {
		fiber_revert();
		kfiber_thread = NULL;
	}
	return NULL;
}

/*
 * The child of a fork() has no fibers with some engines. This thread goes on in the
 * one that forked, which is its own from now on.
 */
static void begin_again(struct thread *thread)
{
	Fiber *fiber, *next, *current = thread->current;
	int err = fiber_convert(0, &current->id);

	if (err) {
		error_raise(err, "no fibers after fork()");
		PyErr_WriteUnraisable(NULL);
	}
	for (fiber = fibers_living; fiber; fiber = next) {
		next = fiber->next;
		if (fiber == current)
			continue;
		/* What its frames refer to stays with its stack. Retired later: that runs code. */
		fiber->state = STATE_FINISHED;
		fiber->tstate = NULL;
		fiber_unlink(fiber);
	}
	if (current->root)
		return;
	current->root = true;
	thread_take(thread);
	thread_drop(current->home);
	current->home = thread;
	Py_SETREF(thread->root, (Fiber *)Py_NewRef(current));
}

/*
 * In the child of a fork() there is one thread. What others ran is lost with
 * them, and so are their own fibers, whose stacks nobody goes on with.
 */
void thread_forked(void)
{
	struct thread *here = thread_self(), *thread, *next;
	fiber_id_t id;

	for (thread = threads; thread; thread = next) {
		next = thread->next;
		if (thread == here)
			continue;
		/* Not to be freed within: the interpreter has given up its dictionary. */
		thread_take(thread);
		thread_end(thread);
		thread_drop(thread);
	}
	if (here && fiber_self(&id))
		begin_again(here);
}

/* --- attach() ------------------------------------------------------------ */

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
	PyObject *dict;
	int err = 0;

	(void)args;
	(void)count;
	if (!thread) {
		PyErr_SetString(PyExc_RuntimeError, "this attach() is not entered");
		return NULL;
	}
	attach->thread = NULL;
	if (!--thread->attached && !thread->kept && thread->alive) {
		dict = PyThreadState_GetDict();
		/* A fiber that leaves the block elsewhere leaves the thread as it is. */
		if (thread != thread_self() || thread->current != thread->root)
			thread->kept = true;
		else if (dict)
			err = PyDict_DelItemString(dict, KEY);
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
	{ "__enter__", attach_enter, METH_NOARGS, NULL },
	{ "__exit__", (PyCFunction)(void (*)(void))attach_exit, METH_FASTCALL, NULL },
	{ 0 },
};

static PyTypeObject Attach_Type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "kfiber.attach",
	.tp_basicsize = sizeof(Attach),
	.tp_flags = Py_TPFLAGS_DEFAULT,
	.tp_new = PyType_GenericNew,
	.tp_dealloc = attach_dealloc,
	.tp_methods = attach_methods,
};

/* --- pin() --------------------------------------------------------------- */

typedef struct {
	PyObject_HEAD
	/* Owned, while the block is entered. */
	Fiber *fiber;
} Pin;

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
		fiber->home = thread;
	}
	pin->fiber = (Fiber *)Py_NewRef(fiber);
	return Py_NewRef((PyObject *)fiber);
}

static void pin_leave(Pin *pin)
{
	Fiber *fiber = pin->fiber;

	if (!fiber)
		return;
	pin->fiber = NULL;
	/* A thread's own one stays there. */
	if (!--fiber->pins && !fiber->root) {
		thread_drop(fiber->home);
		fiber->home = NULL;
	}
	Py_DECREF(fiber);
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

static int pin_traverse(PyObject *op, visitproc visit, void *arg)
{
	Py_VISIT(((Pin *)op)->fiber);
	return 0;
}

static int pin_clear(PyObject *op)
{
	pin_leave((Pin *)op);
	return 0;
}

static void pin_dealloc(PyObject *op)
{
	PyObject_GC_UnTrack(op);
	pin_leave((Pin *)op);
	Py_TYPE(op)->tp_free(op);
}

static PyMethodDef pin_methods[] = {
	{ "__enter__", pin_enter, METH_NOARGS, NULL },
	{ "__exit__", (PyCFunction)(void (*)(void))pin_exit, METH_FASTCALL, NULL },
	{ 0 },
};

static PyTypeObject Pin_Type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "kfiber.pin",
	.tp_basicsize = sizeof(Pin),
	.tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
	.tp_new = PyType_GenericNew,
	.tp_dealloc = pin_dealloc,
	.tp_traverse = pin_traverse,
	.tp_clear = pin_clear,
	.tp_methods = pin_methods,
};

int thread_types_init(PyObject *module)
{
	if (PyModule_AddType(module, &Attach_Type) || PyModule_AddType(module, &Pin_Type))
		return -1;
	return 0;
}
