/* SPDX-License-Identifier: MIT */
/*
 * Threads that are fibers. A thread becomes one by its first use of this module
 * and stays one until it ends, which the interpreter tells by clearing the
 * thread state's dictionary; attach() does it for a block.
 */
#include "docstrings.h"
#include "interpreter.h"

#include <errno.h>

#define KEY "kfiber.thread"

_Thread_local struct thread *kfiber_thread;

/* The id of the thread state that the interpreter clears, or cleared last. 0, which none has: none. */
static _Thread_local uint64_t over;

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

	thread_take(thread);
	/* With one's end the caller may go on elsewhere: the rest waits for the next time. */
	while ((fiber = thread->to_end) && (!thread->alive || thread == thread_self())) {
		thread->to_end = fiber->next_to_end;
		fiber->next_to_end = NULL;
		/* Its finalizer has run: if not now, nobody ends it. */
		transfer_end(fiber, true);
		Py_DECREF(fiber);
	}
	thread_drop(thread);
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
	if (here && thread->greenlets)
		green_drain(thread);
	thread->alive = false;
	thread->root = thread->current = NULL;
	*thread->link = thread->next;
	if (thread->next)
		thread->next->link = thread->link;
	root->state = STATE_FINISHED;
	root->tstate = NULL;
	waiters_wake(root);
	if (current != root) {
		/* Its frames are lost with the thread. */
		current->state = STATE_FINISHED;
		current->tstate = NULL;
		waiters_wake(current);
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
	if (thread->greenlets)
		green_thread_end(thread);
	if (root->greenlet)
		green_ended(root);
	Py_DECREF(root);
	Py_DECREF(current->owner);
	/* The thread is gone: they unwind on this one. */
	thread_drain(thread);
}

static void capsule_free(PyObject *capsule)
{
	struct thread *thread = PyCapsule_GetPointer(capsule, KEY);

	/* Else it is attach() that ends. */
	if (thread == thread_self() && thread->kept)
		over = PyThreadState_GetID(PyThreadState_Get());
	thread_end(thread);
	thread_drop(thread);
}

/*
 * Not one yet. `lasting`: until the thread ends, which the capsule tells. NULL with an
 * exception set.
 */
static struct thread *convert(bool lasting)
{
	struct thread *thread = PyMem_Calloc(1, sizeof(*thread));
	PyObject *dict, *capsule = NULL;
	Fiber *root = NULL;
	fiber_id_t id;
	int err;

	if (!thread) {
		PyErr_NoMemory();
		return NULL;
	}
	thread->references = 1;
	thread->ident = PyThread_get_thread_ident();
	/* First all that may run code, which may convert the thread itself. */
	root = fiber_root_new();
	if (!root)
		goto drop;
	dict = lasting ? PyThreadState_GetDict() : NULL;
	if (dict)
		capsule = PyCapsule_New(thread, KEY, capsule_free);
	if (lasting && !capsule) {
		if (!PyErr_Occurred())
			PyErr_NoMemory();
		goto drop;
	}
	if (thread_self())
		goto drop;
	err = fiber_convert(0, &id);
	if (err) {
		error_raise(err, "this thread cannot run fibers");
		goto drop;
	}
	interpreter_attach();
	thread->alive = true;
	thread->root = root;
	thread->current = (Fiber *)Py_NewRef((PyObject *)root);
	thread->next = threads;
	thread->link = &threads;
	if (threads)
		threads->link = &thread->next;
	threads = thread;
	kfiber_thread = thread;
	fiber_root_begin(root, thread, id);
	err = capsule ? PyDict_SetItemString(dict, KEY, capsule) : 0;
	thread->kept = !err;
	/* If nobody has it: the thread is none again. */
	Py_XDECREF(capsule);
	return err ? NULL : thread;

drop:
	Py_XDECREF(root);
	if (capsule)
		Py_DECREF(capsule);
	else
		thread_drop(thread);
	return PyErr_Occurred() ? NULL : thread_self();
}

/* Of the calling thread: nobody would tell its end once more. */
static bool is_over(void)
{
	return over == PyThreadState_GetID(PyThreadState_Get());
}

struct thread *thread_convert(void)
{
	struct thread *thread = thread_self();

	if (thread)
		return thread;
	if (is_over()) {
		error_format(FiberError, ECANCELED, "this thread ends: it cannot run fibers any more");
		return NULL;
	}
	return convert(true);
}

struct thread *thread_lend(bool *lent)
{
	*lent = !thread_self() && is_over();
	return *lent ? convert(false) : thread_convert();
}

void thread_give_back(void)
{
	struct thread *thread = thread_self();

	thread_end(thread);
	thread_drop(thread);
}

void threads_note_greenlets(void)
{
	struct thread *thread;

	for (thread = threads; thread; thread = thread->next)
		thread->greenlets_before = thread->current->stack;
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
	thread_drop(current->pinned_to);
	current->pinned_to = thread;
	Py_SETREF(thread->root, (Fiber *)Py_NewRef(current));
}

/*
 * In the child of a fork() there is one thread. What others ran is lost with
 * them, and so are their own fibers, whose stacks nobody goes on with.
 */
void thread_forked(void)
{
	struct thread *here = thread_self(), *thread, *next;
	Fiber *fiber;
	fiber_id_t id;

	for (fiber = fibers_living; fiber; fiber = fiber->next)
		fiber->inherited = fiber->state == STATE_SUSPENDED;

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

/* --- pin() --------------------------------------------------------------- */

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

int thread_types_init(PyObject *module)
{
	if (PyModule_AddType(module, &Attach_Type) || PyModule_AddType(module, &Pin_Type))
		return -1;
	return 0;
}
