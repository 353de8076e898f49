/* SPDX-License-Identifier: MIT */
/*
 * Finds out how thread states can be swapped here.
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
#include "tstate.h"

#include <dlfcn.h>
#include <limits.h>
#include <link.h>

static const char *swap_name = "public";

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
			places.current_key = key;
			found++;
		}
	}
	return found == 1;
#endif
}

/* The only word near the interpreter's beginning that is always its newest state. */
static bool find_head(void)
{
	PyThreadState **words = (PyThreadState **)places.interpreter, *newest;
	const size_t count = 2048;
	unsigned int found = 0;
	size_t i;

	newest = PyThreadState_New(places.interpreter);
	if (!newest)
		return false;
	for (i = 0; i < count; i++) {
		if (words[i] != newest)
			continue;
		places.list_head = &words[i];
		found++;
	}
	PyThreadState_Clear(newest);
	PyThreadState_Delete(newest);
	if (found == 1 && *places.list_head == PyInterpreterState_ThreadHead(places.interpreter))
		return true;
	places.list_head = NULL;
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
		places.list_lock = (void *)(word - 1);
		found++;
	}
#if V313
	return found == 1;
#else
	return found == 1 && *places.list_lock;
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
	here = (char *)places.interpreter;
	gil = *(struct _gil_runtime_state **)(here + offsets->interpreter_state.ceval_gil);
	places.last_holder = (PyThreadState **)(here + offsets->interpreter_state.gil_runtime_state_holder);
	places.gil_mutex = &gil->mutex;
	return (char *)gil == here + offsets->interpreter_state.gil_runtime_state &&
	       (PyThreadState **)(void *)&gil->last_holder == places.last_holder &&
	       *places.last_holder == PyThreadState_Get() && gil->locked == 1;
}

/* The runtime has the main thread's number, then its state. */
static void find_main(const struct library *library)
{
	unsigned int found = 0;
	PyThreadState *state;
	uintptr_t *word;

	for (word = library->runtime; word + 1 < library->runtime_end; word++) {
		for (state = PyInterpreterState_ThreadHead(places.interpreter); state;
		     state = PyThreadState_Next(state)) {
			if (word[0] != state->thread_id || word[1] != (uintptr_t)state)
				continue;
			places.main_state = (PyThreadState **)&word[1];
			found++;
		}
	}
	if (found != 1)
		places.main_state = NULL;
}
#endif

#if !V310 && !V311
/*
 * The only thread-local that is the current state, and nothing while there is none; and from
 * 3.15 on the only one that is the state then, too, which is GILState's.
 */
static bool find_current(const struct library *library)
{
	PyThreadState *state = PyThreadState_Get(), **candidates[2] = { NULL, NULL };
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
			candidates[found] = &word[i];
		found++;
	}
	if (found != expected)
		return false;
	PyEval_SaveThread();
	if (V315 && *candidates[0]) {
		PyThreadState **gilstate = candidates[0];

		candidates[0] = candidates[1];
		candidates[1] = gilstate;
	}
	right = !*candidates[0] && (!V315 || *candidates[1] == state);
	PyEval_RestoreThread(state);
	__asm__("movq %%fs:0, %0" : "=r"(thread));
	places.current_offset = (char *)candidates[0] - (char *)thread;
#if V315
	places.gilstate_offset = (char *)candidates[1] - (char *)thread;
#endif
	return right && *candidates[0] == state;
}
#endif

static bool find_all(const struct library *library)
{
	if (!find_head())
		return false;
	if (!find_lock(library)) {
		places.list_head = NULL;
		return false;
	}
#if V313
	if (!find_holder() || !places.main_state)
		return false;
#endif
#if !V310 && !V311
	if (!find_current(library))
		return false;
#endif
	return swap_is_marked();
}

static bool is_current(PyThreadState *state, PyThreadState *other)
{
	PyThreadState *each;
	bool listed = false;

	for (each = PyInterpreterState_ThreadHead(places.interpreter); each;
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

	places.interpreter = PyInterpreterState_Get();
#if V314
	*(void **)&places.set_stack = dlsym(RTLD_DEFAULT, "PyUnstable_ThreadState_SetStackProtection");
	if (!places.set_stack) {
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
		places.fast = true;
	works = try_swap();
	if (!works && places.fast) {
		places.fast = false;
		places.list_head = NULL;
		swap_name = "public (the fast one failed its test)";
		works = try_swap();
	} else if (places.fast) {
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
	if (places.fast && *local_place(places.current_offset) != PyThreadState_Get()) {
		places.fast = false;
		swap_name = "public (the interpreter's thread-locals move)";
	}
#endif
}

void interpreter_forked(void)
{
	if (!find_key())
		Py_FatalError("kfiber: the thread state was not found after fork()");
}
