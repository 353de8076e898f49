/* SPDX-License-Identifier: MIT */
/* Thread states for fibers: made, kept for the next ones, freed; and the interpreter's list of them. */
#include "tstate.h"

#include <limits.h>
#include <time.h>

struct places places;

/* Parked states for the next fibers, linked by `next`. */
#define STATES_MAX 256
static PyThreadState *pool;
static unsigned int pooled;

/*
 * With the GIL, which is not dropped. PyMutex_Lock() would drop it, and may be handed the lock by another
 * thread while a third one has the GIL and waits for the lock: a deadlock. The interpreter itself
 * waits for it without dropping the GIL, by functions that it does not export; who has it never waits
 * for the GIL, so that this is a matter of microseconds.
 */
static void list_acquire(void)
{
#if V313
	static const struct timespec moment = { .tv_nsec = 20000 };
	uint8_t *bits = &places.list_lock->_bits, before;

	/* Unlocked; other threads may be parked there, whom PyMutex_Unlock() wakes. */
	while (before = _Py_atomic_load_uint8(bits) & ~_Py_LOCKED,
	       !_Py_atomic_compare_exchange_uint8(bits, &before, before | _Py_LOCKED))
		nanosleep(&moment, NULL);
#else
	PyThread_acquire_lock(*places.list_lock, WAIT_LOCK);
#endif
}

static void list_release(void)
{
#if V313
	PyMutex_Unlock(places.list_lock);
#else
	PyThread_release_lock(*places.list_lock);
#endif
}

void list_put_first(PyThreadState *from, PyThreadState *to)
{
	if (places.list_head) {
		list_acquire();
		list_put(from, to, from->prev ? &from->prev->next : places.list_head);
		list_release();
	} else {
		/* Where the head is not known: it is another one's for a moment. */
		PyThreadState *guard = PyThreadState_New(places.interpreter);

		if (!guard)
			Py_FatalError("kfiber: no memory for a thread state");
		list_put(from, to, &from->prev->next);
		PyThreadState_Clear(guard);
		PyThreadState_Delete(guard);
	}
}

#if !V314
/*
 * A level of C recursion takes less than 1 KiB. What the interpreter does not
 * count (the parser, C libraries, a signal's frame) has the rest.
 */
static int recursion_limit(size_t stack_size)
{
	size_t levels = (stack_size - (32 << 10)) >> 10;

	return levels > INT_MAX / 2 ? INT_MAX / 2 : (int)levels;
}
#endif

/* Resets the counters, as for a thread whose stack has that size. -1 with an exception set. */
static int state_limit(PyThreadState *state, fiber_id_t id, size_t stack_size)
{
	int limit = Py_GetRecursionLimit();
#if V314
	struct fiber_stat stat = FIBER_STAT_INIT;

	(void)stack_size;
	state->py_recursion_limit = limit;
	state->py_recursion_remaining = limit;
	/* Of C it looks at the stack pointer. Without a fiber: the thread's own stack. */
	if (!id || fiber_get_stat(id, &stat))
		return 0;
	return places.set_stack(state, (void *)stat.stack_start, stat.stack_size);
#else
	int stack = recursion_limit(stack_size);

	(void)id;
#if V310
	/* It counts upwards to the limit of all threads. */
	state->recursion_depth = limit - lesser(limit, stack);
#elif V311
	state->recursion_limit = limit;
	state->recursion_remaining = lesser(limit, stack);
#else
	state->py_recursion_limit = limit;
	state->py_recursion_remaining = limit;
	state->c_recursion_remaining = lesser(C_RECURSION_LIMIT, stack);
#endif
	return 0;
#endif
}

PyThreadState *interpreter_state_new(fiber_id_t id, size_t stack_size)
{
	PyThreadState *state = pool;

	if (state) {
		pool = state->next;
		state->next = NULL;
		pooled--;
	} else {
		state = PyThreadState_New(places.interpreter);
		if (!state) {
			PyErr_NoMemory();
			return NULL;
		}
		list_replace(state, NULL);
	}
	if (state_limit(state, id, stack_size)) {
		interpreter_state_free(state);
		return NULL;
	}
#if V313
	/* It runs nothing yet that could have missed a change of what tracers are told. */
	__atomic_store_n(&state->eval_breaker,
			 __atomic_load_n(&PyThreadState_Get()->eval_breaker, __ATOMIC_RELAXED) & ~EVENTS,
			 __ATOMIC_RELAXED);
#endif
	return state;
}

/*
 * From 3.13 on a thread that waits for the GIL asks a state to drop it, which was the last holder when
 * it looked. It looks and asks in one go, under the GIL's mutex: who takes that once after
 * the last holder has changed knows that nobody asks the former one any more.
 */
static void wait_for_requests(void)
{
#if V313
	if (places.fast) {
		pthread_mutex_lock(places.gil_mutex);
		pthread_mutex_unlock(places.gil_mutex);
	}
#endif
}

void interpreter_state_free(PyThreadState *state)
{
	Py_CLEAR(state->context);
	if (pooled < STATES_MAX) {
		state->next = pool;
		pool = state;
		pooled++;
		return;
	}
	list_insert(state);
	PyThreadState_Clear(state);
	wait_for_requests();
	PyThreadState_Delete(state);
}

void interpreter_set_context(PyThreadState *state, PyObject *context)
{
	Py_XSETREF(state->context, context);
	/* Variables cache their value by the state and this number. */
	state->context_ver++;
}

bool interpreter_state_lose(PyThreadState *state)
{
#if V310
	PyFrameObject *frame = state->frame, *back;
#endif

	if (frames_shared(state))
		return false;
#if V310
	state->frame = NULL;
	state->cframe = &state->root_cframe;
#elif V311 || V312
	state->cframe = &state->root_cframe;
	state->cframe->current_frame = NULL;
#else
	state->current_frame = NULL;
#endif
	/* What generators handle is theirs, and those are gone. */
	state->exc_info = &state->exc_state;
	list_insert(state);
	PyThreadState_Clear(state);
	PyThreadState_Delete(state);
#if V310
	/* What the loop that ran each of them owned. A generator owns its own. */
	for (; frame; frame = back) {
		back = frame->f_back;
		if (!frame->f_gen)
			Py_DECREF(frame);
	}
#endif
	return true;
}

void interpreter_imported(PyThreadState *root)
{
#if V310 || V311 || V312
	PyThreadState *here = PyThreadState_Get();

	if (here == root || !here->on_delete || root->on_delete)
		return;
	root->on_delete = here->on_delete;
	root->on_delete_data = here->on_delete_data;
	here->on_delete = NULL;
	here->on_delete_data = NULL;
#else
	(void)root;
#endif
}

void interpreter_trace_pause(void)
{
	PyThreadState *state = PyThreadState_Get();

#if V310
	state->tracing++;
	state->cframe->use_tracing = 0;
#else
	PyThreadState_EnterTracing(state);
#endif
}

void interpreter_trace_resume(void)
{
	PyThreadState *state = PyThreadState_Get();

#if V310
	state->tracing--;
	set_tracing(state);
#else
	PyThreadState_LeaveTracing(state);
#endif
}
