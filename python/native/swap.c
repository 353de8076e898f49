/* SPDX-License-Identifier: MIT */
/*
 * The swap of thread states: the hot path of a switch.
 *
 * A thread state has fields that belong to the thread (its dictionary, its
 * number, tracing, pending exceptions) and fields that belong to what it runs
 * (frames, context, handled exception, counters). The first move from the state
 * that is left to the one that is entered; the others stay.
 */
#include "tstate.h"

#if V310 || V311 || V312
/* Numbers of states that the interpreter never reaches. */
static uint64_t last_id = (uint64_t)1 << 62;
#endif

#define MOVE(field) do {		\
	to->field = from->field;	\
	from->field = 0;		\
} while (0)

/*
 * What belongs to the thread, and is the same for all versions. A parked state
 * has none of it, and most threads have little.
 */
static inline void move_thread(PyThreadState *from, PyThreadState *to, bool moved)
{
	MOVE(dict);
	if (__builtin_expect(from->async_exc != NULL, 0))
		MOVE(async_exc);
	if (__builtin_expect(from->async_gen_firstiter || from->async_gen_finalizer, 0)) {
		MOVE(async_gen_firstiter);
		MOVE(async_gen_finalizer);
	}
	if (__builtin_expect(from->coroutine_origin_tracking_depth, 0))
		MOVE(coroutine_origin_tracking_depth);
	if (__builtin_expect(from->c_tracefunc || from->c_profilefunc, 0)) {
		MOVE(c_tracefunc);
		MOVE(c_traceobj);
		MOVE(c_profilefunc);
		MOVE(c_profileobj);
	}
#if V313
	if (__builtin_expect(from->threading_local_key != NULL, 0)) {
		MOVE(threading_local_key);
		MOVE(threading_local_sentinel);
	}
#endif
	if (__builtin_expect(moved, 0)) {
		to->thread_id = from->thread_id;
#if !V310
		to->native_thread_id = from->native_thread_id;
#endif
#if V310 || V311 || V312
		/* asyncio caches a thread's loop by this number. */
		to->id = ++last_id;
#endif
	}
}

#if V314
/* The task that runs, and all that were made here: behind the loop. */
static void move_tasks(PyThreadState *from, PyThreadState *to)
{
	_PyThreadStateImpl *left = (_PyThreadStateImpl *)from, *here = (_PyThreadStateImpl *)to;

	here->asyncio_running_task = left->asyncio_running_task;
	left->asyncio_running_task = NULL;
	if (__builtin_expect(!llist_empty(&left->asyncio_tasks_head), 0))
		llist_concat(&here->asyncio_tasks_head, &left->asyncio_tasks_head);
}
#endif

#if V311 || V312 || V313
/* sys.setrecursionlimit() reaches states in the list only. */
static inline void move_limit(PyThreadState *from, PyThreadState *to)
{
#if V311
	int change = from->recursion_limit - to->recursion_limit;

	if (__builtin_expect(change, 0)) {
		to->recursion_limit = from->recursion_limit;
		/* The stack has not become larger. */
		to->recursion_remaining += lesser(change, 0);
	}
#else
	int change = from->py_recursion_limit - to->py_recursion_limit;

	if (__builtin_expect(change, 0)) {
		to->py_recursion_limit = from->py_recursion_limit;
		to->py_recursion_remaining += change;
	}
#endif
}
#endif

#if V313
/* _PY_GIL_DROP_REQUEST_BIT, which 3.13 declares where it does not compile outside. */
#define DROP_REQUEST ((uintptr_t)1)

/*
 * A thread that waits for the GIL looks up its holder and then asks that state to drop it. If
 * a swap comes between, the request stays on a parked state, and drop_gil() would wait for a
 * thread that waits no more. Before `to` is the holder: a real waiter asks again.
 */
static inline void forget_request(PyThreadState *to)
{
	if (__builtin_expect(__atomic_load_n(&to->eval_breaker, __ATOMIC_RELAXED) & DROP_REQUEST, 0))
		__atomic_fetch_and(&to->eval_breaker, ~DROP_REQUEST, __ATOMIC_SEQ_CST);
}

/*
 * `to` misses what was said to all states since, and takes over what was said to this thread.
 * Whether the code that it runs misses a change of events to be told to tracers.
 */
static bool move_events(PyThreadState *from, PyThreadState *to)
{
	bool missed;
	uintptr_t old = __atomic_load_n(&from->eval_breaker, __ATOMIC_RELAXED);
	uintptr_t new = __atomic_load_n(&to->eval_breaker, __ATOMIC_RELAXED);

	missed = (old ^ new) & ~EVENTS;
	if (__builtin_expect(missed, 0))
		while (!__atomic_compare_exchange_n(&to->eval_breaker, &new,
						    (old & ~EVENTS) | (new & EVENTS), false,
						    __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			;
	if (__builtin_expect(old & EVENTS, 0)) {
#if V314
		/* A debugger outside asks the thread, by its state in the list. */
		if (from->remote_debugger_support.debugger_pending_call) {
			to->remote_debugger_support = from->remote_debugger_support;
			from->remote_debugger_support.debugger_pending_call = 0;
		}
#endif
		old = __atomic_fetch_and(&from->eval_breaker, ~EVENTS, __ATOMIC_SEQ_CST);
		__atomic_fetch_or(&to->eval_breaker, old & EVENTS, __ATOMIC_SEQ_CST);
	}
	return missed;
}
#endif

#if V315
/*
 * An exception in code that has not been told of a tracer crashes 3.15. When events change it tells the
 * code of all states in the list; so it is made to do that once more, with the parked ones in the
 * list, which are all up to date then.
 */
static __attribute__((noinline)) void tell_code(void)
{
	PyObject *monitoring = PySys_GetObject("monitoring"), *result;
	Fiber *fiber;

	for (fiber = fibers_living; fiber; fiber = fiber->next)
		if (fiber->tstate && fiber->state == STATE_SUSPENDED && !fiber->tstate->prev)
			list_insert(fiber->tstate);
	result = monitoring ? PyObject_CallMethod(monitoring, "restart_events", NULL) : NULL;
	Py_XDECREF(result);
	PyErr_Clear();
	for (fiber = fibers_living; fiber; fiber = fiber->next)
		if (fiber->tstate && fiber->state == STATE_SUSPENDED) {
			list_put(fiber->tstate, NULL, &fiber->tstate->prev->next);
			fiber->tstate->prev = fiber->tstate->next = NULL;
		}
}
#endif

#if !V310 && !V311
/* The flags that the current state has, in one word. */
static unsigned int status_current;

static inline unsigned int *status_place(PyThreadState *state)
{
	_Static_assert(sizeof(state->_status) == sizeof(unsigned int), "");
	return (unsigned int *)(void *)&state->_status;
}

static void status_init(void)
{
	PyThreadState state = { 0 };

	state._status.active = 1;
	state._status.bound_gilstate = 1;
#if V313 && !V314
	state._status.holds_gil = 1;
#endif
	memcpy(&status_current, &state._status, sizeof(status_current));
}
#endif

/* `to` is what all who ask see as the running one. */
static inline void make_current(PyThreadState *from, PyThreadState *to)
{
#if V310 || V311
	(void)from;
	pthread_setspecific(places.current_key, to);
	PyThreadState_Swap(to);
#else
	*status_place(to) |= status_current;
	*status_place(from) &= ~status_current;
#if V313
	to->state = from->state;
	from->state = 0;	/* detached */
#if V314
	to->holds_gil = from->holds_gil;
	from->holds_gil = 0;
#endif
	forget_request(to);
	*places.last_holder = to;
#endif
#if V315
	*local_place(places.gilstate_offset) = to;
#else
	pthread_setspecific(places.current_key, to);
#endif
	*local_place(places.current_offset) = to;
#endif
}

bool swap_is_marked(void)
{
#if !V310 && !V311
	PyThreadState *here = PyThreadState_Get();

	status_init();
	if ((*status_place(here) & status_current) != status_current)
		return false;
#if V313
	/* Attached. */
	if (here->state != 1)
		return false;
#endif
#if V314
	if (here->holds_gil != 1)
		return false;
#endif
#endif
	return true;
}

void interpreter_swap(PyThreadState *from, PyThreadState *to, bool moved)
{
	bool missed = false;

	list_replace(from, to);
	move_thread(from, to, moved);
#if V310 || V311
	set_tracing(to);
#endif
#if !V310
	move_limit(from, to);
#endif
#if V313
	if (places.loop_offset) {
		*loop_place(to) = *loop_place(from);
		*loop_place(from) = NULL;
#if V314
		move_tasks(from, to);
#endif
	}
	if (places.fast)
		make_current(from, to);
	if (places.main_state && *places.main_state == from)
		*places.main_state = to;
	missed = move_events(from, to);
	if (!places.fast)
		PyThreadState_Swap(to);
#else
	if (V310 || V311 || places.fast)
		make_current(from, to);
	else
		PyThreadState_Swap(to);
#endif
#if V315
	if (__builtin_expect(missed, 0))
		tell_code();
#else
	(void)missed;
#endif
}
