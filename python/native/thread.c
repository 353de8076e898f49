/* SPDX-License-Identifier: MIT */
/*
 * Threads that are fibers. A thread becomes one by its first use of this module
 * and stays one until it ends, which the interpreter tells by clearing the
 * thread state's dictionary; attach() does it for a block.
 */
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
		error_format(FiberError, ECANCELED, "this thread is ending: it cannot run fibers any more");
		return NULL;
	}
	return convert(true);
}

int thread_revert(void)
{
	PyObject *dict = PyThreadState_GetDict();

	return dict ? PyDict_DelItemString(dict, KEY) : 0;
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
