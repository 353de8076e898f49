/* SPDX-License-Identifier: MIT */
/*
 * Greenlets that are fibers: what the programs and compiled modules of greenlet's know.
 *
 *	green.c		the type greenlet: attributes, life and collection
 *	green_switch.c	from one to another, how one runs and ends, trace functions
 *	green_name.c	what tools show of one
 *	green_api.c	the module, and greenlet's C API
 *
 * A greenlet has a fiber from its start to its end. It owns that fiber, which in turn
 * counts as its greenlet to whoever runs it: when nobody but the fiber itself refers to
 * the greenlet, it is killed. Other fibers, a thread's root first of all, get a greenlet
 * when one asks for the current one; these two own each other.
 *
 * Greenlets stay on the thread that starts them, as greenlet has it.
 */
#ifndef KFIBER_GREEN_H
#define KFIBER_GREEN_H

#include "native.h"

typedef struct PyGreenlet PyGreenlet;

struct green {
	/* Owned. NULL: it has not started, or is dead. */
	Fiber *fiber;
	/* Owned. NULL: it belongs to a fiber that is no greenlet otherwise, or was collected. */
	PyGreenlet *parent;
	/* Owned. Its function until it starts; NULL: a subclass's method, or none. */
	PyObject *run;
	/* Owned. Its context before it starts and after it has ended; NULL: empty. */
	PyObject *context;
	/* Counted. That started it; NULL: none yet. */
	struct thread *thread;
	bool started;
	/* Its function has returned, or raised. */
	bool ended;
	/* Its fiber is a thread's root. */
	bool main;
	/* Owned. In green_thread.to_end. */
	PyGreenlet *next_to_end;
};

/* As greenlet's header says, which other modules were compiled with and derive classes from. */
struct PyGreenlet {
	PyObject_HEAD
	PyObject *weakrefs;
	PyObject *dict;
	struct green *green;
};

_Static_assert(sizeof(PyGreenlet) == sizeof(PyObject) + 3 * sizeof(void *), "");

/* What a thread has for its greenlets. Made by the first look at the current one. */
struct green_thread {
	/* Owned. */
	PyGreenlet *main;
	/* Owned. The trace function; NULL: none. */
	PyObject *trace;
	/* Owned. While a trace function is set: which greenlet was left for the next one. */
	PyGreenlet *origin;
	/* Owned: greenlets to be killed here, dropped by other threads. */
	PyGreenlet *to_end;
};

/* green.c */
extern PyTypeObject PyGreenlet_Type;
/* How many greenlets of roots there are. */
extern Py_ssize_t green_mains;
int green_type_init(void);

static inline struct green *green_of(const PyGreenlet *self)
{
	return self->green;
}

/* It has started and not ended, and its thread has neither. */
static inline bool green_active(const struct green *green)
{
	return green->fiber && !green->ended && green->fiber->state != STATE_FINISHED &&
	       green->fiber->state != STATE_NEW && green->thread->alive;
}

/* The calling thread's, made at need. NULL with an exception set. */
struct green_thread *green_thread(void);
/* The current one, made at need. Borrowed. NULL with an exception set. */
PyGreenlet *green_current(void);
int green_set_parent(PyGreenlet *self, PyObject *parent);

/* green_name.c */
/* Of one that is about to call `run`. May run code. NULL with an exception set. */
PyObject *green_name(PyGreenlet *self, PyObject *run);

/* green_switch.c */
extern PyObject *GreenletError, *GreenletExit;
/*
 * To `self` or, if that is dead, to the first of its ancestors that is not. What is sent
 * are `args` (a tuple) and `kwargs` (may be NULL), both taken; without `args` the exception
 * that is set. NULL with an exception set.
 */
PyObject *green_switch(PyGreenlet *self, PyObject *args, PyObject *kwargs);
/* What a switch has returned: tells the trace function, if there is one by now. */
PyObject *green_back(PyObject *message);
/* As throw(). */
PyObject *green_throw(PyGreenlet *self, PyObject *type, PyObject *value, PyObject *traceback);

#endif /* KFIBER_GREEN_H */
