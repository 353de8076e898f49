/* SPDX-License-Identifier: MIT */
/*
 * The interpreter, as far as it differs from one version to the next: thread
 * states, and the frames that hang on them.
 *
 * A thread state has fields that belong to the thread (its dictionary, its
 * number, tracing, pending exceptions) and fields that belong to what it runs
 * (frames, context, handled exception, counters). The first move from the state
 * that is left to the one that is entered; the others stay.
 *
 * Which state is current is written down in several places. The fast swap writes
 * to all of them, after each was found by looking for what must be there, and after a swap
 * to and fro has been seen to work. Where one is not found PyThreadState_Swap() is taken, which is
 * right as well, but drops the GIL from 3.12 on.
 *
 *	place				versions	found by
 *	the runtime's current state	3.10, 3.11	(public swap, which keeps the GIL)
 *	thread-local current state	3.12 on		looking through the library's thread-locals
 *	thread-specific state (GILState) to 3.14	looking through the thread's values
 *	thread-local state (GILState)	3.15		as the current state
 *	head of the list of states	all		looking through the interpreter
 *	lock of that list		all		it lies before the interpreters' list
 *	state._status			3.12 on		(declared)
 *	state.state			3.13 on		(declared)
 *	state.holds_gil			3.14 on		(declared; 3.13: in _status)
 *	last holder of the GIL		3.13 on		the debug offsets
 *	the main thread's state		3.13 on		it lies behind the main thread's number
 */
#define Py_BUILD_CORE 1
#include "interpreter.h"

#if PY_VERSION_HEX >= 0x030e0000
#include <pycore_interpframe.h>
#include <pycore_tstate.h>
#elif PY_VERSION_HEX >= 0x030b0000
#include <pycore_frame.h>
#endif
#if PY_VERSION_HEX >= 0x030d0000
#include <pycore_runtime.h>
#endif

#include <dlfcn.h>
#include <link.h>
#include <limits.h>
#include <pthread.h>
#include <sys/single_threaded.h>

#include <frameobject.h>

#if PY_VERSION_HEX < 0x030a0000 || PY_VERSION_HEX >= 0x03100000
#error "kfiber knows CPython 3.10 to 3.15"
#endif

#if PY_VERSION_HEX < 0x030d0000
#define PyThreadState_GetUnchecked _PyThreadState_UncheckedGet
#endif

#define V310 (PY_VERSION_HEX < 0x030b0000)
#define V311 (PY_VERSION_HEX >= 0x030b0000 && PY_VERSION_HEX < 0x030c0000)
#define V312 (PY_VERSION_HEX >= 0x030c0000 && PY_VERSION_HEX < 0x030d0000)
/* And newer. */
#define V313 (PY_VERSION_HEX >= 0x030d0000)
#define V314 (PY_VERSION_HEX >= 0x030e0000)
#define V315 (PY_VERSION_HEX >= 0x030f0000)

/* Of a state's eval_breaker from 3.13 on; the rest is the version of what tracers are told. */
#define EVENTS ((uintptr_t)0xff)

static PyInterpreterState *interpreter;
static const char *swap_name = "public";
/* All of the places below are known. */
static bool fast;

#if V315
/* Of GILState's, counted from the thread pointer. */
static ptrdiff_t gilstate_offset;
#else
/* GILState's; a fork() makes it anew up to 3.12. */
static pthread_key_t current_key;
#endif
/* NULL: not known. */
static PyThreadState **list_head;
#if V313
static PyMutex *list_lock;
static PyThreadState **last_holder;
static pthread_mutex_t *gil_mutex;
/* Whom signals and pending calls are told; also the public swap writes it. NULL: not known. */
static PyThreadState **main_state;
#else
static PyThread_type_lock *list_lock;
#endif
#if !V310 && !V311
/* Of the current state, counted from the thread pointer. */
static ptrdiff_t current_offset;
#endif

/* Parked states for the next fibers, linked by `next`. */
#define STATES_MAX 256
static PyThreadState *pool;
static unsigned int pooled;

/* --- the interpreter's list of thread states ----------------------------- */

/*
 * New states are put in front of the list by threads without the GIL, under the
 * list's lock; all else happens with the GIL held. So whoever has a state before
 * his own needs no lock, nor does a process with a single thread.
 */
static void list_acquire(void)
{
#if V313
	PyMutex_Lock(list_lock);
#else
	PyThread_acquire_lock(*list_lock, WAIT_LOCK);
#endif
}

static void list_release(void)
{
#if V313
	PyMutex_Unlock(list_lock);
#else
	PyThread_release_lock(*list_lock);
#endif
}

/* Puts `to` where `from` is; NULL: takes that out. Its predecessor is `before`. */
static inline void list_put(PyThreadState *from, PyThreadState *to, PyThreadState **before)
{
	PyThreadState *next = from->next;

	if (to) {
		to->prev = from->prev;
		to->next = next;
		if (next)
			next->prev = to;
		*before = to;
	} else {
		if (next)
			next->prev = from->prev;
		*before = next;
	}
}

static __attribute__((noinline)) void list_put_first(PyThreadState *from, PyThreadState *to)
{
	if (list_head) {
		list_acquire();
		list_put(from, to, from->prev ? &from->prev->next : list_head);
		list_release();
	} else {
		/* Where the head is not known: it is another one's for a moment. */
		PyThreadState *guard = PyThreadState_New(interpreter);

		if (!guard)
			Py_FatalError("kfiber: no memory for a thread state");
		list_put(from, to, &from->prev->next);
		PyThreadState_Clear(guard);
		PyThreadState_Delete(guard);
	}
}

static inline void list_replace(PyThreadState *from, PyThreadState *to)
{
	if (from->prev)
		list_put(from, to, &from->prev->next);
	else if (list_head && __libc_single_threaded)
		list_put(from, to, list_head);
	else
		list_put_first(from, to);
	from->prev = from->next = NULL;
}

/* Behind the calling thread's, where nobody else changes the list. */
static void list_insert(PyThreadState *state)
{
	PyThreadState *before = PyThreadState_Get();

	state->prev = before;
	state->next = before->next;
	if (state->next)
		state->next->prev = state;
	before->next = state;
}

/* --- states for fibers --------------------------------------------------- */

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

static int lesser(int a, int b)
{
	return a < b ? a : b;
}
#endif

#if V313 && !V314
#define C_RECURSION_LIMIT Py_C_RECURSION_LIMIT
#endif

#if V314
/* PyUnstable_ThreadState_SetStackProtection(), which the first releases of 3.14 lack. */
static int (*set_stack)(PyThreadState *state, void *start, size_t size);
#endif

/* Counters anew, as for a thread whose stack has that size. -1 with an exception set. */
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
	return set_stack(state, (void *)stat.stack_start, stat.stack_size);
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
		state = PyThreadState_New(interpreter);
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
	if (fast) {
		pthread_mutex_lock(gil_mutex);
		pthread_mutex_unlock(gil_mutex);
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

/* --- the swap ------------------------------------------------------------ */

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

#if V313
/* Of asyncio's running loop in a thread state, behind what is declared; 0: not known. */
static size_t loop_offset;

static PyObject **loop_place(PyThreadState *state)
{
	return (PyObject **)((char *)state + loop_offset);
}
#endif

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

#if V310 || V311
/* Whether the evaluation loop that goes on here traces: not within a tracer. */
static inline void set_tracing(PyThreadState *to)
{
	to->cframe->use_tracing =
		(to->c_tracefunc || to->c_profilefunc) && !to->tracing ? 255 : 0;
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
static inline PyThreadState **local_place(ptrdiff_t offset)
{
	uintptr_t thread;

	__asm__ volatile("movq %%fs:0, %0" : "=r"(thread));
	return (PyThreadState **)(thread + (uintptr_t)offset);
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
	pthread_setspecific(current_key, to);
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
	*last_holder = to;
#endif
#if V315
	*local_place(gilstate_offset) = to;
#else
	pthread_setspecific(current_key, to);
#endif
	*local_place(current_offset) = to;
#endif
}

void interpreter_swap(PyThreadState *from, PyThreadState *to, bool moved)
{
	bool missed = false;

	/* First: waiting for its lock may drop the GIL. */
	list_replace(from, to);
	move_thread(from, to, moved);
#if V310 || V311
	set_tracing(to);
#endif
#if !V310
	move_limit(from, to);
#endif
#if V313
	if (loop_offset) {
		*loop_place(to) = *loop_place(from);
		*loop_place(from) = NULL;
#if V314
		move_tasks(from, to);
#endif
	}
#endif
	if (V310 || V311 || fast)
		make_current(from, to);
#if V313
	if (main_state && *main_state == from)
		*main_state = to;
	missed = move_events(from, to);
#endif
	if (!V310 && !V311 && !fast)
		PyThreadState_Swap(to);
#if V315
	if (__builtin_expect(missed, 0))
		tell_code();
#else
	(void)missed;
#endif
}

/* --- finding the places -------------------------------------------------- */

#if V313
#define RUNTIME ((uintptr_t)&_PyRuntime)
#else
/* Declared in a header that does not compile outside. */
extern char _PyRuntime[];
#define RUNTIME ((uintptr_t)_PyRuntime)
#endif

struct library {
	/* The runtime's bounds. */
	uintptr_t *runtime, *runtime_end;
	/* This thread's copy of its thread-locals. */
	char *locals;
	size_t locals_size;
};

/* Of dl_iterate_phdr(): the library that has the runtime. */
static int library_look(struct dl_phdr_info *info, size_t size, void *argument)
{
	struct library *library = argument;
	bool here = false;
	int i;

	(void)size;
	for (i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];

		if (header->p_type == PT_LOAD &&
		    RUNTIME - (info->dlpi_addr + header->p_vaddr) < header->p_memsz)
			here = true;
		if (header->p_type == PT_TLS)
			library->locals_size = header->p_memsz;
	}
	if (here)
		library->locals = info->dlpi_tls_data;
	else
		library->locals_size = 0;
	return here;
}

static bool library_find(struct library *library)
{
	const ElfW(Sym) *symbol = NULL;
	Dl_info info;

	memset(library, 0, sizeof(*library));
	dl_iterate_phdr(library_look, library);
	if (!dladdr1((void *)RUNTIME, &info, (void **)&symbol, RTLD_DL_SYMENT) || !symbol)
		return false;
	library->runtime = (uintptr_t *)RUNTIME;
	library->runtime_end = library->runtime + symbol->st_size / sizeof(uintptr_t);
	return true;
}

/* The thread-specific value that is the current state. From 3.15 on it is a thread-local. */
static bool find_key(void)
{
#if V315
	return true;
#else
	void *state = PyThreadState_Get();
	unsigned int found = 0;
	pthread_key_t key;

	for (key = 0; key < PTHREAD_KEYS_MAX; key++) {
		if (pthread_getspecific(key) == state) {
			current_key = key;
			found++;
		}
	}
	return found == 1;
#endif
}

/* The only word near the interpreter's beginning that is always its newest state. */
static bool find_head(void)
{
	PyThreadState **words = (PyThreadState **)interpreter, *newest;
	const size_t count = 2048;
	unsigned int found = 0;
	size_t i;

	newest = PyThreadState_New(interpreter);
	if (!newest)
		return false;
	for (i = 0; i < count; i++) {
		if (words[i] != newest)
			continue;
		list_head = &words[i];
		found++;
	}
	PyThreadState_Clear(newest);
	PyThreadState_Delete(newest);
	if (found == 1 && *list_head == PyInterpreterState_ThreadHead(interpreter))
		return true;
	list_head = NULL;
	return false;
}

/* The runtime has one after the other: that lock, all interpreters, the main one. */
static bool find_lock(const struct library *library)
{
	unsigned int found = 0;
	uintptr_t *word;

	for (word = library->runtime + 1; word + 1 < library->runtime_end; word++) {
		if (word[0] != (uintptr_t)PyInterpreterState_Head() ||
		    word[1] != (uintptr_t)PyInterpreterState_Main())
			continue;
		list_lock = (void *)(word - 1);
		found++;
	}
#if V313
	return found == 1;
#else
	return found == 1 && *list_lock;
#endif
}

#if V313
static bool find_holder(void)
{
	const _Py_DebugOffsets *offsets = &_PyRuntime.debug_offsets;
	struct _gil_runtime_state *gil;
	char *here;

	if (memcmp(offsets->cookie, "xdebugpy", 8) ||
	    offsets->version >> 16 != PY_VERSION_HEX >> 16 ||
	    offsets->thread_state.prev != offsetof(PyThreadState, prev) ||
	    offsets->thread_state.current_frame != offsetof(PyThreadState, current_frame) ||
	    offsets->thread_state.status != offsetof(PyThreadState, _status) ||
	    offsets->interpreter_frame.previous != offsetof(_PyInterpreterFrame, previous) ||
	    offsets->interpreter_frame.executable != offsetof(_PyInterpreterFrame, f_executable) ||
	    offsets->interpreter_frame.localsplus != offsetof(_PyInterpreterFrame, localsplus) ||
	    offsets->interpreter_frame.owner != offsetof(_PyInterpreterFrame, owner))
		return false;
	here = (char *)interpreter;
	gil = *(struct _gil_runtime_state **)(here + offsets->interpreter_state.ceval_gil);
	last_holder = (PyThreadState **)(here + offsets->interpreter_state.gil_runtime_state_holder);
	gil_mutex = &gil->mutex;
	return (char *)gil == here + offsets->interpreter_state.gil_runtime_state &&
	       (PyThreadState **)(void *)&gil->last_holder == last_holder &&
	       *last_holder == PyThreadState_Get() && gil->locked == 1;
}

/* The runtime has the main thread's number, then its state. */
static void find_main(const struct library *library)
{
	unsigned int found = 0;
	PyThreadState *state;
	uintptr_t *word;

	for (word = library->runtime; word + 1 < library->runtime_end; word++) {
		for (state = PyInterpreterState_ThreadHead(interpreter); state;
		     state = PyThreadState_Next(state)) {
			if (word[0] != state->thread_id || word[1] != (uintptr_t)state)
				continue;
			main_state = (PyThreadState **)&word[1];
			found++;
		}
	}
	if (found != 1)
		main_state = NULL;
}
#endif

#if !V310 && !V311
/*
 * The only thread-local that is the current state, and nothing while there is none; and from
 * 3.15 on the only one that is the state then, too, which is GILState's.
 */
static bool find_current(const struct library *library)
{
	PyThreadState *state = PyThreadState_Get(), **places[2] = { NULL, NULL };
	PyThreadState **word = (PyThreadState **)library->locals;
	size_t count = library->locals_size / sizeof(*word);
	const unsigned int expected = V315 ? 2 : 1;
	unsigned int found = 0;
	uintptr_t thread;
	bool right;
	size_t i;

	for (i = 0; word && i < count; i++) {
		if (word[i] != state)
			continue;
		if (found < expected)
			places[found] = &word[i];
		found++;
	}
	if (found != expected)
		return false;
	PyEval_SaveThread();
	if (V315 && *places[0]) {
		PyThreadState **gilstate = places[0];

		places[0] = places[1];
		places[1] = gilstate;
	}
	right = !*places[0] && (!V315 || *places[1] == state);
	PyEval_RestoreThread(state);
	__asm__("movq %%fs:0, %0" : "=r"(thread));
	current_offset = (char *)places[0] - (char *)thread;
#if V315
	gilstate_offset = (char *)places[1] - (char *)thread;
#endif
	return right && *places[0] == state;
}
#endif

/* Whether the declared fields of the current state say what they must. */
static bool is_marked(void)
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

static bool find_all(const struct library *library)
{
	if (!find_head())
		return false;
	if (!find_lock(library)) {
		list_head = NULL;
		return false;
	}
#if V313
	if (!find_holder() || !main_state)
		return false;
#endif
#if !V310 && !V311
	if (!find_current(library))
		return false;
#endif
	return is_marked();
}

static bool is_current(PyThreadState *state, PyThreadState *other)
{
	PyThreadState *each;
	bool listed = false;

	for (each = PyInterpreterState_ThreadHead(interpreter); each;
	     each = PyThreadState_Next(each)) {
		if (each == other)
			return false;
		listed |= each == state;
	}
	return listed && PyThreadState_Get() == state && PyThreadState_GetUnchecked() == state &&
	       PyGILState_GetThisThreadState() == state && PyGILState_Check();
}

/* Swaps to a new state and back. -1 with an exception set: no memory. 0: it did not work. */
static int try_swap(void)
{
	PyThreadState *here = PyThreadState_Get(), *there;
	PyGILState_STATE ensured;
	bool right;

	there = interpreter_state_new(0, 1 << 20);
	if (!there)
		return -1;
	interpreter_swap(here, there, false);
	right = is_current(there, here);
	ensured = PyGILState_Ensure();
	right = right && is_current(there, here);
	PyGILState_Release(ensured);
	interpreter_swap(there, here, false);
	right = right && is_current(here, there);
	interpreter_state_free(there);
	return right;
}

const char *interpreter_swap_name(void)
{
	return swap_name;
}

int interpreter_init(void)
{
	const char *wish = getenv("KFIBER_SWAP");
	struct library library;
	bool located;
	int works;

	interpreter = PyInterpreterState_Get();
#if V314
	*(void **)&set_stack = dlsym(RTLD_DEFAULT, "PyUnstable_ThreadState_SetStackProtection");
	if (!set_stack) {
		PyErr_SetString(PyExc_ImportError, "kfiber: this release of Python 3.14 cannot be told where "
						   "a fiber's stack is; hint: install a newer one");
		return -1;
	}
#endif
	if (!find_key()) {
		PyErr_SetString(PyExc_ImportError, "kfiber: the thread state of this thread was not found");
		return -1;
	}
	located = library_find(&library);
#if V313
	if (located)
		find_main(&library);
#endif
	if (wish && !strcmp(wish, "public"))
		swap_name = "public (KFIBER_SWAP)";
	else if (!located || !find_all(&library))
		swap_name = "public (this interpreter is built otherwise)";
	else
		fast = true;
	works = try_swap();
	if (!works && fast) {
		fast = false;
		list_head = NULL;
		swap_name = "public (the fast one failed its test)";
		works = try_swap();
	} else if (fast) {
		swap_name = "fast";
	}
	if (!works)
		PyErr_SetString(PyExc_ImportError, "kfiber: thread states cannot be swapped here");
	return works > 0 ? 0 : -1;
}

void interpreter_attach(void)
{
#if !V310 && !V311
	/* Thread-locals lie elsewhere on other threads where the library was loaded late. */
	if (fast && *local_place(current_offset) != PyThreadState_Get()) {
		fast = false;
		swap_name = "public (the interpreter's thread-locals move)";
	}
#endif
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

bool interpreter_ends(void)
{
#if V313
	return Py_IsFinalizing();
#else
	return _Py_IsFinalizing();
#endif
}

void interpreter_forked(void)
{
	if (!find_key())
		Py_FatalError("kfiber: the thread state was not found after fork()");
}

/* --- asyncio ------------------------------------------------------------- */

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
	loop_offset = offset;
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

/* --- collection ---------------------------------------------------------- */

/* The collector's mark of an object that has been finalized, in the word before it. */
#define FINALIZED ((uintptr_t)1)

static void set_finalized(PyObject *object, bool finalized)
{
	uintptr_t *word = (uintptr_t *)object - 1;

	*word = finalized ? *word | FINALIZED : *word & ~FINALIZED;
}

#if V310
/* A frame on the stack is untracked, as a rule, and owned by who runs it. */
static int frame_visit(PyFrameObject *frame, visitproc visit, void *arg)
{
	PyCodeObject *code = frame->f_code;
	Py_ssize_t i, slots;

	if (frame->f_gen)
		return 0;
	if (PyObject_GC_IsTracked((PyObject *)frame)) {
		Py_VISIT(frame);
		return 0;
	}
	Py_VISIT(code);
	Py_VISIT(frame->f_builtins);
	Py_VISIT(frame->f_globals);
	Py_VISIT(frame->f_locals);
	Py_VISIT(frame->f_trace);
	slots = code->co_nlocals + PyTuple_GET_SIZE(code->co_cellvars) +
		PyTuple_GET_SIZE(code->co_freevars);
	for (i = 0; i < slots; i++)
		Py_VISIT(frame->f_localsplus[i]);
	return 0;
}

PyObject *interpreter_position(int *instruction)
{
	PyFrameObject *frame = PyThreadState_Get()->frame;

	*instruction = frame ? frame->f_lasti : 0;
	return Py_XNewRef(frame ? (PyObject *)frame->f_code : NULL);
}

#define FRAME			PyFrameObject
#define FRAME_TOP(state)	((state)->frame)
#define FRAME_PREVIOUS(frame)	((frame)->f_back)
/* NULL: it is no generator's. */
#define FRAME_GENERATOR(frame)	((frame)->f_gen)
#else
#define FRAME			_PyInterpreterFrame
#define FRAME_PREVIOUS(frame)	((frame)->previous)
#define FRAME_GENERATOR(frame)	((frame)->owner == FRAME_OWNED_BY_GENERATOR ? \
				 (PyObject *)((char *)(frame) - offsetof(PyGenObject, gi_iframe)) : NULL)
#if V311
#define FRAME_CODE(frame)	((PyObject *)(frame)->f_code)
#define FRAME_FUNCTION(frame)	((PyObject *)(frame)->f_func)
#define FRAME_ON_C_STACK(frame)	false
#define FRAME_TOP(state)	((state)->cframe->current_frame)
#elif V312
#define FRAME_CODE(frame)	((PyObject *)(frame)->f_code)
#define FRAME_FUNCTION(frame)	((frame)->f_funcobj)
#define FRAME_ON_C_STACK(frame)	((frame)->owner == FRAME_OWNED_BY_CSTACK)
#define FRAME_TOP(state)	((state)->cframe->current_frame)
#elif V314
/* What is borrowed or no object has a tag; who lends it is visited. */
#define REFERENCE(ref)		((ref).bits & Py_INT_TAG ? NULL : (PyObject *)(ref).bits)
#define FRAME_CODE(frame)	PyStackRef_AsPyObjectBorrow((frame)->f_executable)
#define FRAME_FUNCTION(frame)	REFERENCE((frame)->f_funcobj)
#define FRAME_ON_C_STACK(frame)	((frame)->owner >= FRAME_OWNED_BY_INTERPRETER)
#define FRAME_TOP(state)	((state)->current_frame)
#else
#define FRAME_CODE(frame)	((frame)->f_executable)
#define FRAME_FUNCTION(frame)	((frame)->f_funcobj)
#define FRAME_ON_C_STACK(frame)	((frame)->owner == FRAME_OWNED_BY_CSTACK)
#define FRAME_TOP(state)	((state)->current_frame)
#endif

#if V313
#define FRAME_NEXT(frame)	((frame)->instr_ptr)
#else
#define FRAME_NEXT(frame)	((frame)->prev_instr)
#endif

PyObject *interpreter_position(int *instruction)
{
	_PyInterpreterFrame *frame = FRAME_TOP(PyThreadState_Get());
	PyObject *code;

	while (frame && FRAME_ON_C_STACK(frame))
		frame = frame->previous;
	if (!frame)
		return NULL;
	code = FRAME_CODE(frame);
	*instruction = (int)(FRAME_NEXT(frame) - _PyCode_CODE((PyCodeObject *)code));
	return Py_NewRef(code);
}

#if V314
/* How much of the frame's stack is in use is written down before each call. */
static int frame_visit(_PyInterpreterFrame *frame, visitproc visit, void *arg)
{
	_PyStackRef *slot;

	if (FRAME_ON_C_STACK(frame) || frame->owner == FRAME_OWNED_BY_FRAME_OBJECT)
		return 0;
	/* Generators visit themselves unless they run. */
	if (frame->owner == FRAME_OWNED_BY_THREAD) {
		Py_VISIT(frame->frame_obj);
		Py_VISIT(frame->f_locals);
		Py_VISIT(FRAME_FUNCTION(frame));
		Py_VISIT(REFERENCE(frame->f_executable));
		for (slot = frame->localsplus; slot < frame->stackpointer; slot++)
			Py_VISIT(REFERENCE(*slot));
	}
	return 0;
}
#else
/*
 * How much of the frame's stack is in use is known where it has called a Python
 * function. Of others the temporaries are left out: what only they keep is seen
 * as referenced from outside. Generators visit themselves where it is known.
 */
static int frame_visit(_PyInterpreterFrame *frame, visitproc visit, void *arg)
{
	int i, slots = frame->stacktop;

	if (FRAME_ON_C_STACK(frame))
		return 0;
	if (frame->owner == FRAME_OWNED_BY_THREAD) {
		Py_VISIT(frame->frame_obj);
		Py_VISIT(frame->f_locals);
		Py_VISIT(FRAME_FUNCTION(frame));
		Py_VISIT(FRAME_CODE(frame));
	} else if (slots >= 0) {
		return 0;
	}
	if (slots < 0)
		slots = ((PyCodeObject *)FRAME_CODE(frame))->co_nlocalsplus;
	for (i = 0; i < slots; i++)
		Py_VISIT(frame->localsplus[i]);
	return 0;
}
#endif

#endif

static int frames_visit(PyThreadState *state, visitproc visit, void *arg, bool *held)
{
	PyObject *generator;
	FRAME *frame;
	int err;

	for (frame = FRAME_TOP(state); frame; frame = FRAME_PREVIOUS(frame)) {
		generator = FRAME_GENERATOR(frame);
		if (generator) {
			set_finalized(generator, true);
			*held = true;
		}
		err = frame_visit(frame, visit, arg);
		if (err)
			return err;
	}
	return 0;
}

PyObject *interpreter_generators(PyThreadState *state)
{
	PyObject *list = PyList_New(0), *generator;
	FRAME *frame;

	for (frame = FRAME_TOP(state); list && frame; frame = FRAME_PREVIOUS(frame)) {
		generator = FRAME_GENERATOR(frame);
		if (generator && PyList_Append(list, generator))
			Py_CLEAR(list);
	}
	return list;
}

void interpreter_release_list(PyObject *generators)
{
	Py_ssize_t i;

	for (i = 0; i < PyList_GET_SIZE(generators); i++)
		set_finalized(PyList_GET_ITEM(generators, i), false);
	Py_DECREF(generators);
}

void interpreter_release_generators(PyThreadState *state)
{
	PyObject *generator;
	FRAME *frame;

	for (frame = FRAME_TOP(state); frame; frame = FRAME_PREVIOUS(frame)) {
		generator = FRAME_GENERATOR(frame);
		if (generator)
			set_finalized(generator, false);
	}
}

/* Frame objects and generators lead to the frames that they came from. */
static bool frames_shared(const PyThreadState *state)
{
#if V310
	/* Frames are objects, and none is on the stack. */
	(void)state;
#else
	_PyInterpreterFrame *frame;

	for (frame = FRAME_TOP(state); frame; frame = frame->previous) {
		if (FRAME_ON_C_STACK(frame))
			continue;
		if (frame->owner != FRAME_OWNED_BY_THREAD ||
		    (frame->frame_obj && Py_REFCNT(frame->frame_obj) > 1))
			return true;
	}
#endif
	return false;
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

void interpreter_expect(const PyThreadState *state, int steps)
{
	const FRAME *frame = steps > 2 ? NULL : FRAME_TOP(state);

	switch (steps) {
	case 4:
		__builtin_prefetch(&state->context);
		__builtin_prefetch(&state->exc_state);
#if V310
		__builtin_prefetch(&state->frame);
#elif V311 || V312
		__builtin_prefetch(&state->cframe);
#else
		__builtin_prefetch(&state->current_frame);
#endif
		break;
	case 3:
		/* The collector's words lie before an object. */
		if (state->context)
			__builtin_prefetch((char *)state->context - 16, 1);
#if V311 || V312
		__builtin_prefetch(state->cframe);
#endif
		break;
	case 2:
		if (frame) {
			__builtin_prefetch(frame);
			__builtin_prefetch(frame + 1);
		}
		break;
	default:
		if (frame && FRAME_PREVIOUS(frame)) {
			__builtin_prefetch(FRAME_PREVIOUS(frame));
			__builtin_prefetch((char *)FRAME_PREVIOUS(frame) + 64);
		}
	}
}

int interpreter_visit(PyThreadState *state, visitproc visit, void *arg, bool *held)
{
	Py_VISIT(state->context);
	/* Those that generators handle are theirs. */
#if V310
	Py_VISIT(state->exc_state.exc_type);
	Py_VISIT(state->exc_state.exc_traceback);
#endif
	Py_VISIT(state->exc_state.exc_value);
	return frames_visit(state, visit, arg, held);
}

PyFrameObject *interpreter_frame(PyThreadState *state)
{
#if V311
	int collects = PyGC_Disable();
	PyFrameObject *top = PyThreadState_GetFrame(state), *frame = top, *back;

	Py_XINCREF(frame);
	for (; frame; frame = back) {
		back = PyFrame_GetBack(frame);
		Py_DECREF(frame);
	}
	if (collects)
		PyGC_Enable();
	return top;
#else
	return PyThreadState_GetFrame(state);
#endif
}

/* --- exceptions ---------------------------------------------------------- */

PyObject *interpreter_error_take(void)
{
#if V310 || V311
	PyObject *type, *value, *traceback;

	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	if (traceback) {
		PyException_SetTraceback(value, traceback);
		Py_DECREF(traceback);
	}
	Py_DECREF(type);
	return value;
#else
	return PyErr_GetRaisedException();
#endif
}

void interpreter_error_give(PyObject *error)
{
#if V310 || V311
	PyErr_Restore(Py_NewRef(Py_TYPE(error)), error, PyException_GetTraceback(error));
#else
	PyErr_SetRaisedException(error);
#endif
}
