/* SPDX-License-Identifier: MIT */
/*
 * Fibers for CPython: what the files of the extension share.
 *
 *	module.c	names, functions, import and interpreter exit, fork
 *	fiber.c		the type Fiber: attributes, life and collection
 *	transfer.c	leaving one fiber for another, and how one ends
 *	switch_observer.c  who is told of switches
 *	wait.c		threads that wait for a fiber to finish
 *	thread.c	which threads are fibers
 *	attach.c	the type attach
 *	pin.c		the type pin
 *	local.c		the type Local
 *	outside.c	what `kfiber stacks` reads of it from outside the process
 *	error.c		the exceptions
 *	green*.c	greenlets that are fibers: see green.h
 *
 * in integrate/, what fibers get along with:
 *
 *	audit.c		notices when one of the next two is imported
 *	greenlet.c	keeping away from greenlets of greenlet's own
 *	asyncio.c	asyncio's running loop
 *	otel.c		OpenTelemetry's thread context
 *
 * and, behind interpreter.h, all that depends on the interpreter's version:
 *
 *	swap.c		thread states swapped, the hot path
 *	locate.c	where the interpreter keeps them
 *	tstate.c	thread states made and freed; the list of them
 *	frames.c	frames of suspended fibers
 *	asyncio_state.c	what asyncio keeps in a thread state
 *	compat.c	functions that older versions lack
 *
 * fiber.c, transfer.c and thread.c need each other: a finalizer switches, a switch converts the thread, and
 * the end of a thread ends fibers. So do the files that they call and that ask them what runs: pin.c, wait.c,
 * switch_observer.c, green*.c, and audit.c, greenlet.c and asyncio.c in integrate/. On 3.15 swap.c, which
 * locate.c tries, walks the list of fibers. No other files need each other in a circle.
 *
 * All of it runs with the GIL held, which protects everything below. Only
 * interpreter_swap() may drop it, and only where it says so.
 *
 * Each fiber has a thread state of its own, because a suspended evaluation loop
 * keeps it in C locals. The interpreter's list of thread states holds those of
 * running fibers only: one for each thread, as everybody who walks it expects.
 */
#ifndef KFIBER_NATIVE_H
#define KFIBER_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <stdatomic.h>
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fiber.h"

typedef struct Fiber Fiber;
struct pin;
struct PyGreenlet;
struct green_thread;
struct waiter;

/*
 * A thread that is a fiber. Owned by a capsule in the thread state's dictionary,
 * which the interpreter clears when the thread ends, and by fibers that ran on it.
 */
struct thread {
	size_t references;
	/* Owned while the thread is alive; NULL then. */
	Fiber *root;
	/* Its owner is owned while the thread is alive: see Fiber. NULL then. */
	Fiber *current;
	/* While one fiber is left for another: the former, likewise. Else NULL. */
	Fiber *left;
	/* Owned: fibers to be ended here, since nobody reaches them any more. */
	Fiber *to_end;
	/* The stack where it started greenlets before anybody watched them. */
	fiber_id_t greenlets_before;
	/* attach() blocks that keep it converted; `kept`: it stays so until it ends. */
	size_t attached;
	bool kept;
	bool alive;
	/* The observer is being told of a switch here. */
	bool observed;
	/*
	 * asyncio's loop that runs on it, and its hooks; its task, while a fiber with a loop
	 * of its own runs. NULL: none. Owned.
	 */
	PyObject *loop, *hooks, *task;
	/* See interpreter_loop_changed(). */
	uint64_t loop_seen;
	/* NULL: it has not asked for greenlets. */
	struct green_thread *greenlets;
	/* As threading.get_ident(). */
	unsigned long ident;
	struct thread *next, **link;
};

/* Values of Fiber.state. */
enum state {
	STATE_NEW,
	STATE_RUNNING,
	STATE_SUSPENDED,
	STATE_FINISHED,
};

struct Fiber {
	PyObject_HEAD
	fiber_id_t id;
	/* Of its stack, see integrate/greenlet.c; its first id, 0 for roots: the thread's own. */
	fiber_id_t stack;
	enum state state;
	/* Borrowed. Who is referred to by whoever runs it: itself, or the greenlet that has it. */
	PyObject *owner;
	/* That has it (borrowed) or that it has (owned); NULL: none. See green.h. */
	struct PyGreenlet *greenlet;
	/* It is a thread. */
	bool root;
	/* What is in `message` is an exception to raise. */
	bool failed;
	/* FiberExit has been thrown into it because nobody reaches it. */
	bool exiting;
	/* While it was suspended a collection came by: see interpreter_visit(). */
	bool generators_held;
	/* The parent of a fork() suspended it, and nobody has resumed or adopted it since. */
	bool inherited;
	/* How often it tried to leave since; not 0 when it has finished: it was given up. */
	unsigned int refusals;
	/* Suspended until one that it ends has ended; nobody else may enter it. */
	bool waiting;
	/* Depth of pin(), and the blocks that are entered. */
	unsigned int pins;
	struct pin *pinned;
	/* NULL: new, or finished. While suspended it is in no list. */
	PyThreadState *tstate;
	/* Owned. That runs it, or did last; NULL: it never ran. */
	struct thread *thread;
	/* Owned. The only one that may run it: roots, pinned fibers. Else NULL. */
	struct thread *pinned_to;
	/* What it finds when it is entered: see transfer.c. Owned. */
	PyObject *message;
	/* Until it has finished; a root's are NULL. */
	PyObject *target, *args, *kwargs;
	/*
	 * Of a new one: what it will run in; of a started one: what it has entered. NULL: none, or
	 * `shared`: it runs in one that others have entered.
	 */
	PyObject *context;
	bool shared;
	/* What its target returned or raised, once it has finished. Owned. */
	PyObject *result;
	bool raised;
	/* Threads that wait for it to finish. */
	struct waiter *waiters;
	/* Owned; NULL for roots. */
	Fiber *parent;
	/* The fiber that waits for it to end, instead of `parent`. Its wait owns it. */
	Fiber *ender;
	/* asyncio's loop that it has started, its hooks and task, while it is suspended. Owned. */
	PyObject *loop, *hooks, *task;
	PyObject *name;
	/* Local's attributes by Local's number, NULL until the first. */
	PyObject *locals;
	PyObject *weakrefs;
	/* Attributes that tools and users set. */
	PyObject *dict;
	/* Bytes; 0 for roots. */
	size_t stack_size;
	/* All fibers that have not finished; `link` NULL: not in the list. */
	Fiber *next, **link;
	/* Its place in outside.c's array. */
	size_t number;
	/* The code that created it and the index of its instruction; NULL: no Python code did. Owned. */
	PyObject *creator;
	int created_at;
	/* In thread.to_end. */
	Fiber *next_to_end;
};

/* fiber.c */
extern PyTypeObject Fiber_Type;
/* All that have not finished, newest first. */
extern Fiber *fibers_living;
/* The interpreter ends, or soon will: nothing is unwound any more. */
extern bool fibers_over;
int fiber_type_init(PyObject *module);
/* Says why that fiber, which is in state `finished`, cannot be used: an exception. NULL. */
PyObject *fiber_finished(Fiber *self);
/* What will be the fiber that the calling thread itself is. New reference. */
Fiber *fiber_root_new(void);
void fiber_root_begin(Fiber *self, struct thread *thread, fiber_id_t id);
/* It can never run again; a new one finishes by it. Its references go; arbitrary code may run. */
void fiber_retire(Fiber *self);
/* Takes it out of the living ones. */
void fiber_unlink(Fiber *self);
/* That of its function. New reference; NULL with an exception set. */
PyObject *fiber_default_name(PyObject *target);
/* A new fiber of that greenlet, with no reference to it; function and name are taken. NULL with an exception set. */
Fiber *fiber_of_greenlet(struct PyGreenlet *greenlet, PyObject *run, PyObject *name, struct thread *pinned_to);
/*
 * It is never resumed and never unwound: what only its frames hold is lost. Its stack stays if one of these
 * may still be looked at.
 */
void fiber_abandon(Fiber *self);

/* outside.c */
/* The fiber has begun, and is no more. */
void outside_add(Fiber *fiber);
void outside_remove(Fiber *fiber);

/* transfer.c */
/* Steals `message`, which is raised there if `failed`. NULL with an exception set. */
PyObject *transfer(Fiber *to, PyObject *message, bool failed);
/*
 * The same in two steps. The first may run code, and so change what the caller has found out: it returns
 * the calling thread, or NULL with an exception set. Then comes one of the others.
 */
struct thread *transfer_begin(void);
PyObject *transfer_commit(struct thread *thread, Fiber *to, PyObject *message, bool failed);
void transfer_cancel(void);
/*
 * The same to a suspended fiber of a greenlet, to which the caller refers: that may run code, by which the
 * fiber may end. Then NULL without an exception, and `gone`. The calling thread is a fiber.
 */
PyObject *transfer_resume(Fiber *to, PyObject *message, bool *gone);
/* A created fiber's function. */
void transfer_start(void *unused);
/*
 * Throws FiberExit into a fiber that nobody reaches, on the calling thread or, if that
 * is another's business, later. Nothing if it is not suspended, or waits for another
 * one's end, when its turn comes. Keeps no exception set.
 */
void transfer_end(Fiber *self, bool here);

/*
 * Makes a new fiber, entered next, ready to run. 0, or -1 with an exception set.
 */
int transfer_prepare(Fiber *to);
/* Whether that thread may leave its current fiber for it. */
bool transfer_possible(const Fiber *fiber, const struct thread *thread);

/* green.c */
/* The fiber has finished and been left: its greenlet loses it. */
void green_ended(Fiber *fiber);
/* Kills what other threads have dropped, on the thread that it belongs to. May run code. */
void green_drain(struct thread *thread);
/* The thread has ended, and its root finished. */
void green_thread_end(struct thread *thread);

/* green_switch.c */
/*
 * Runs a greenlet's function on its new fiber. `message`, taken: its keywords or None; NULL: an
 * exception is set. Its value; NULL with an exception set.
 */
PyObject *green_run(Fiber *fiber, PyObject *message);
/* The new fiber of a greenlet could not be entered: the greenlet is new again. */
void green_not_begun(Fiber *fiber);
/* Who gets the value or exception of a greenlet that has ended, which may become another one. */
Fiber *green_next_target(Fiber *fiber, PyObject **message, bool *failed);

/* green_api.c */
int green_init_module(PyObject *module);
/* The table of greenlet's C API that is ours. */
extern void *green_api[];
/* Ends a suspended or new fiber now. -1 with an exception set: it may not be ended here. */
int transfer_kill(Fiber *self);

/* switch_observer.c */
/* Owned; NULL: none. */
extern PyObject *switch_observer;
/* The calling thread has left that fiber for the current one. Keeps the exception that is set. */
void switch_observer_tell(Fiber *left);
PyObject *switch_observer_set(PyObject *module, PyObject *function);

/* integrate/otel.c */
int otel_begin(void);
PyObject *otel_enable(PyObject *module, PyObject *unused);
PyObject *otel_set_span(PyObject *module, PyObject *args);

/* wait.c */
/* It has just finished. */
void waiters_wake(Fiber *self);
PyObject *fiber_join(Fiber *self, PyObject *timeout);
PyObject *fiber_result(Fiber *self, PyObject *timeout);

/* integrate/greenlet.c */
extern bool greenlet_imported;
/* Whether that is done: it is not while the module is half-way through its own import. */
bool greenlet_import(PyObject *modules);
/* Whether the caller is inside a greenlet, which may not be left so. True with an exception set. */
bool greenlet_inside(void);

/* integrate/audit.c */
/* Something has begun to be imported since the last look, or one is not done. */
extern _Atomic bool import_pending;
int import_init(void);
void import_look(void);

/* Notices, cheaply, what has been imported that fibers have to get along with. */
static inline void import_check(void)
{
	if (__builtin_expect(atomic_load_explicit(&import_pending, memory_order_relaxed), 0))
		import_look();
}

/* integrate/asyncio.c */
extern bool loop_imported;
/* As greenlet_import(). */
bool loop_import(PyObject *modules);
/* The current fiber of the calling thread is about to be left. May run code. */
void loop_leave(struct thread *thread);
/* It goes on, and has a loop. */
void loop_return(Fiber *fiber);

/* thread.c */
extern _Thread_local struct thread *kfiber_thread
	__attribute__((tls_model("initial-exec"), visibility("hidden")));

/*
 * NULL: the calling thread is no fiber. Asked anew each time: a compiler may keep
 * the address of a thread-local over a switch.
 */
static inline struct thread *thread_self(void)
{
	struct thread *thread;

	__asm__ volatile("movq kfiber_thread@gottpoff(%%rip), %0\n\tmovq %%fs:(%0), %0"
			 : "=r"(thread));
	return thread;
}

/* Makes it one if it is not. NULL with an exception set. */
struct thread *thread_convert(void);
/*
 * The same, for ending a fiber; also while the interpreter clears the thread's state, and
 * then `lent` says that thread_give_back() must follow.
 */
struct thread *thread_lend(bool *lent);
void thread_give_back(void);
/* The calling thread, which runs its root fiber, is only a thread again. -1 with an exception set. */
int thread_revert(void);
void thread_take(struct thread *thread);
void thread_drop(struct thread *thread);
/* Ends the fibers in its `to_end`. */
void thread_drain(struct thread *thread);
void thread_forked(void);
/* Greenlets are watched from now on: a thread started its own on its current fiber. */
void threads_note_greenlets(void);

/* attach.c */
int attach_type_init(PyObject *module);

/* pin.c */
int pin_type_init(PyObject *module);
/* The fiber is freed: its pins lose it. */
void pin_forget(Fiber *fiber);

/* local.c */
int local_type_init(PyObject *module);

/* error.c */
extern PyObject *FiberError, *FiberRunningError, *FiberFinishedError, *FiberPinnedError,
	*FiberLimitError, *FiberExit;
int error_init(PyObject *module);
/* Raises what libfiber's error number stands for. Returns NULL. */
PyObject *error_raise(int err, const char *what);
/* FiberError with that number. Returns NULL. */
PyObject *error_format(PyObject *type, int err, const char *format, ...);

#endif /* KFIBER_NATIVE_H */
