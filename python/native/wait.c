/* SPDX-License-Identifier: MIT */
/*
 * Threads that wait for a fiber to finish, which others run. The thread sleeps, and with it
 * all fibers on it.
 */
#include "interpreter.h"

#include <errno.h>
#include <pythread.h>

/*
 * Not on the stack of the fiber that waits: in the child of a fork() that stack may be another's
 * by the time when the fiber finishes. What is lost with its thread is leaked there.
 */
struct waiter {
	/* Held until the fiber has finished. */
	PyThread_type_lock lock;
	struct waiter *next;
};

void waiters_wake(Fiber *self)
{
	struct waiter *waiter = self->waiters;

	self->waiters = NULL;
	while (waiter) {
		struct waiter *next = waiter->next;

		PyThread_release_lock(waiter->lock);
		waiter = next;
	}
}

/* NULL with an exception set. */
static struct waiter *waiter_add(Fiber *self)
{
	struct waiter *waiter = PyMem_Malloc(sizeof(*waiter));
	PyThread_type_lock lock = PyThread_allocate_lock();

	if (!waiter || !lock) {
		PyMem_Free(waiter);
		if (lock)
			PyThread_free_lock(lock);
		PyErr_NoMemory();
		return NULL;
	}
	PyThread_acquire_lock(lock, NOWAIT_LOCK);
	*waiter = (struct waiter){ .lock = lock, .next = self->waiters };
	self->waiters = waiter;
	return waiter;
}

static void waiter_remove(Fiber *self, struct waiter *waiter)
{
	struct waiter **link = &self->waiters;

	while (*link && *link != waiter)
		link = &(*link)->next;
	if (*link)
		*link = waiter->next;
	PyThread_free_lock(waiter->lock);
	PyMem_Free(waiter);
}

/* Microseconds on a clock that only goes forward. */
static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

/* Until it has finished or that time has come. -1 with an exception set: a signal's handler raised. */
static int sleep_until(Fiber *self, PyThread_type_lock lock, double end)
{
	/* Of what it may be told: about a day. */
	const double most = 1e11;

	while (self->state != STATE_FINISHED) {
		double left = end - now(), step = left < 0 ? 0 : left < most ? left : most;
		PyLockStatus status;

		Py_BEGIN_ALLOW_THREADS
		status = PyThread_acquire_lock_timed(lock, (PY_TIMEOUT_T)step, 1);
		Py_END_ALLOW_THREADS
		/* A handler may run any code, also switch. */
		if (status == PY_LOCK_INTR && PyErr_CheckSignals())
			return -1;
		if (status == PY_LOCK_FAILURE && left <= most)
			break;
	}
	return 0;
}

/* Whether it has finished: 1 or 0; -1 with an exception set. `timeout` is in seconds or None. */
static int wait_for(Fiber *self, PyObject *timeout)
{
	double seconds = timeout == Py_None ? Py_HUGE_VAL : PyFloat_AsDouble(timeout);
	struct thread *thread = thread_self();
	struct waiter *waiter;
	int err;

	if (seconds == -1 && PyErr_Occurred())
		return -1;
	if (self->state == STATE_FINISHED)
		return 1;
	if (!(seconds >= 0)) {
		PyErr_SetString(PyExc_ValueError, "timeout must be at least 0");
		return -1;
	}
	if (thread && (self == thread->current || self->pinned_to == thread)) {
		error_format(FiberError, EDEADLK,
			     "%R can run only on this thread, which would wait for it; hint: switch() "
			     "to it", self);
		return -1;
	}
	waiter = waiter_add(self);
	if (!waiter)
		return -1;
	err = sleep_until(self, waiter->lock, now() + seconds * 1e6);
	waiter_remove(self, waiter);
	return err ? -1 : self->state == STATE_FINISHED;
}

PyObject *fiber_join(Fiber *self, PyObject *timeout)
{
	int finished = wait_for(self, timeout);

	return finished < 0 ? NULL : PyBool_FromLong(finished);
}

PyObject *fiber_result(Fiber *self, PyObject *timeout)
{
	int finished = wait_for(self, timeout);

	if (finished < 0)
		return NULL;
	if (!finished)
		return PyErr_Format(PyExc_TimeoutError, "%R has not finished", self);
	if (!self->id)
		return fiber_finished(self);
	if (!self->result || (self->raised && Py_IS_TYPE(self->result, (PyTypeObject *)FiberExit)))
		return error_format(FiberFinishedError, EOWNERDEAD,
				    "%R has no result: it was ended", self);
	if (!self->raised)
		return Py_NewRef(self->result);
	interpreter_error_give(Py_NewRef(self->result));
	return NULL;
}
