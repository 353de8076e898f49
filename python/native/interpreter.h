/* SPDX-License-Identifier: MIT */
/*
 * All that depends on the interpreter's version, as the rest of the extension uses it. The files behind it
 * share compat.h and tstate.h.
 */
#ifndef KFIBER_INTERPRETER_H
#define KFIBER_INTERPRETER_H

#include "native.h"

/* locate.c */
/*
 * Finds out how thread states can be swapped here. -1 with an exception set: this
 * interpreter cannot run fibers.
 */
int interpreter_init(void);

/* "fast", or "public" with the reason after it. */
const char *interpreter_swap_name(void);

/* The calling thread is about to run fibers. */
void interpreter_attach(void);

/* In the child of a fork(). */
void interpreter_forked(void);

/* swap.c */
/*
 * The calling thread runs `to` from now on, `from` before. What belongs to the
 * thread moves along. `moved`: `to` ran on another thread the last time. The
 * public swap may drop the GIL on 3.12 and newer.
 */
void interpreter_swap(PyThreadState *from, PyThreadState *to, bool moved);

/* tstate.c */
/*
 * In bytes: smaller stacks are made that large. 3.13 puts the deallocation of
 * containers off where fewer than 100 levels of recursion are left.
 */
#if PY_VERSION_HEX >= 0x030d0000
#define INTERPRETER_STACK_MIN ((size_t)256 << 10)
#else
#define INTERPRETER_STACK_MIN STACK_MIN
#endif

/* A thread state for that fiber, with a stack of that many bytes; in no list. NULL with an exception set. */
PyThreadState *interpreter_state_new(fiber_id_t id, size_t stack_size);

/* Its fiber has finished. The caller runs another one. */
void interpreter_state_free(PyThreadState *state);

/* Its fiber is never resumed. False: somebody may look at its frames, so that it stays, and the stack too. */
bool interpreter_state_lose(PyThreadState *state);

/* The context that code runs in, without entering it. Takes the reference. */
void interpreter_set_context(PyThreadState *state, PyObject *context);

/*
 * Modules have been imported. Up to 3.12 `threading` has the state that imports it tell
 * the main thread's end: that is the thread's own one's business, not a fiber's.
 */
void interpreter_imported(PyThreadState *root);

/* Calls between these two are not traced. */
void interpreter_trace_pause(void);
void interpreter_trace_resume(void);

/* frames.c */
/*
 * The code that the calling thread executes, and the index of its instruction. New reference; NULL: no
 * Python code.
 */
PyObject *interpreter_position(int *instruction);

/*
 * The frame that a state executes, or will when it goes on. New reference; NULL: none, or no memory. 3.11
 * makes frame objects when they are asked for, and may collect within: meanwhile the fiber may run, and the
 * frame be gone. So all are made here, without a collection, and `f_back` finds them made.
 */
PyFrameObject *interpreter_frame(PyThreadState *state);

/*
 * Visits what a suspended fiber's thread state owns. Generators that run there are held: the collector
 * does not finalize them, since they cannot be closed while they run, and the fiber's own end
 * unwinds them. `held`: set if there are any.
 */
int interpreter_visit(PyThreadState *state, visitproc visit, void *arg, bool *held);
/* Those that run there, a new list; NULL with an exception set. */
PyObject *interpreter_generators(PyThreadState *state);
/* They are held no more. */
void interpreter_release_generators(PyThreadState *state);
void interpreter_release_list(PyObject *generators);

/*
 * It is visited soon, in EXPECT_STEPS visits first, then in one less: what is looked at
 * is fetched, step by step.
 */
#define EXPECT_STEPS 4
void interpreter_expect(const PyThreadState *state, int steps);

/* asyncio_state.c */
/* asyncio has been imported, whose functions these are. -1: its loops cannot be followed. */
int interpreter_loop_find(PyObject *get, PyObject *set);
/*
 * From 3.14 on a thread has the task that runs too, and not the loop. Takes a
 * reference, and gives back the former one's; NULL is none.
 */
PyObject *interpreter_task_swap(PyObject *task);
/* Whether the running loop may be another one than at the last call. */
bool interpreter_loop_changed(struct thread *thread);

/* compat.c */
/* The exception that is set, normalized; clears it. New reference. */
PyObject *interpreter_error_take(void);
/* Sets it, and its traceback goes on. Takes the reference. */
void interpreter_error_give(PyObject *error);

/* Whether only the thread state that ends the interpreter may run. */
bool interpreter_ends(void);

#endif /* KFIBER_INTERPRETER_H */
