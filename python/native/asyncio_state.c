/* SPDX-License-Identifier: MIT */
/* What asyncio keeps in a thread state: the running loop and, from 3.14 on, the task that runs. */
#include "tstate.h"

/* Up to 3.12 the loop is in the thread's dictionary, which moves with the thread. */
int interpreter_loop_find(PyObject *get, PyObject *set)
{
#if V313
	PyThreadState *state = PyThreadState_Get();
	PyObject *before = PyObject_CallNoArgs(get), *probe = PyList_New(0);
#if V314
	size_t end = offsetof(_PyThreadStateImpl, asyncio_running_loop), words = 1;
#else
	size_t end = sizeof(PyThreadState), words = 8;
#endif
	size_t found = 0, offset = 0, i;

	if (before && probe) {
		Py_XDECREF(PyObject_CallOneArg(set, probe));
		for (i = 0; i < words; i++) {
			if (((PyObject **)((char *)state + end))[i] != probe)
				continue;
			offset = end + i * sizeof(PyObject *);
			found++;
		}
		Py_XDECREF(PyObject_CallOneArg(set, before));
	}
	Py_XDECREF(before);
	Py_XDECREF(probe);
	if (found != 1)
		return -1;
#if V314
	_PyThreadStateImpl *here = (_PyThreadStateImpl *)state;

	if (here->asyncio_tasks_head.next->prev != &here->asyncio_tasks_head)
		return -1;
#endif
	places.loop_offset = offset;
#else
	(void)get;
	(void)set;
#endif
	return 0;
}

PyObject *interpreter_task_swap(PyObject *task)
{
#if V314
	_PyThreadStateImpl *here = (_PyThreadStateImpl *)PyThreadState_Get();
	PyObject *former = here->asyncio_running_task;

	here->asyncio_running_task = task;
	return former;
#else
	return task;
#endif
}

bool interpreter_loop_changed(struct thread *thread)
{
	PyThreadState *state = PyThreadState_Get();
#if V313
	return *loop_place(state) != thread->loop;
#else
	uint64_t version = state->dict ? ((PyDictObject *)state->dict)->ma_version_tag : 0;

	if (version == thread->loop_seen)
		return false;
	thread->loop_seen = version;
	return true;
#endif
}
