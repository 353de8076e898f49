/* SPDX-License-Identifier: MIT */
/*
 * Thread states, as the files share them that know the interpreter's private layout: tstate.c,
 * swap.c, locate.c, frames.c and asyncio_state.c. The hot path inlines what is defined here.
 */
#ifndef KFIBER_TSTATE_H
#define KFIBER_TSTATE_H

#include "compat.h"
#include "interpreter.h"

#include <pthread.h>
#include <sys/single_threaded.h>

/* Where the interpreter keeps what a swap changes: found by locate.c and asyncio_state.c. */
struct places {
	PyInterpreterState *interpreter;
	/* All that the fast swap needs is known. */
	bool fast;
#if V315
	/* Of GILState's, counted from the thread pointer. */
	ptrdiff_t gilstate_offset;
#else
	/* GILState's; up to 3.12 a fork() makes another one. */
	pthread_key_t current_key;
#endif
	/* NULL: not known. */
	PyThreadState **list_head;
#if V313
	PyMutex *list_lock;
	PyThreadState **last_holder;
	pthread_mutex_t *gil_mutex;
	/* Whom signals and pending calls are told; also the public swap writes it. NULL: not known. */
	PyThreadState **main_state;
#else
	PyThread_type_lock *list_lock;
#endif
#if !V310 && !V311
	/* Of the current state, counted from the thread pointer. */
	ptrdiff_t current_offset;
#endif
#if V313
	/* Of asyncio's running loop in a thread state, behind what is declared; 0: not known. */
	size_t loop_offset;
#endif
#if V314
	/* PyUnstable_ThreadState_SetStackProtection(), which the first releases of 3.14 lack. */
	int (*set_stack)(PyThreadState *state, void *start, size_t size);
#endif
};

/* Hidden: the hot path reads it without a look at the table of addresses. */
extern struct places places __attribute__((visibility("hidden")));

#if !V310 && !V311
static inline PyThreadState **local_place(ptrdiff_t offset)
{
	uintptr_t thread;

	__asm__ volatile("movq %%fs:0, %0" : "=r"(thread));
	return (PyThreadState **)(thread + (uintptr_t)offset);
}
#endif

#if V313
static inline PyObject **loop_place(PyThreadState *state)
{
	return (PyObject **)((char *)state + places.loop_offset);
}
#endif

#if !V314
static inline int lesser(int a, int b)
{
	return a < b ? a : b;
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

/* --- the interpreter's list of thread states ----------------------------- */

/*
 * New states are put in front of the list by threads without the GIL, under the
 * list's lock; all else happens with the GIL held. So whoever has a state before
 * his own needs no lock, nor does a process with a single thread.
 *
 * tstate.c: the same as list_put(), for the first of the list while there may be other threads.
 */
void list_put_first(PyThreadState *from, PyThreadState *to);

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

static inline void list_replace(PyThreadState *from, PyThreadState *to)
{
	if (from->prev)
		list_put(from, to, &from->prev->next);
	else if (places.list_head && __libc_single_threaded)
		list_put(from, to, places.list_head);
	else
		list_put_first(from, to);
	from->prev = from->next = NULL;
}

/* Behind the calling thread's, where nobody else changes the list. */
static inline void list_insert(PyThreadState *state)
{
	PyThreadState *before = PyThreadState_Get();

	state->prev = before;
	state->next = before->next;
	if (state->next)
		state->next->prev = state;
	before->next = state;
}

/* swap.c: whether the declared fields of the current state say what they must. */
bool swap_is_marked(void);

/* frames.c: whether frame objects or generators lead to the frames of that state. */
bool frames_shared(const PyThreadState *state);

#endif /* KFIBER_TSTATE_H */
