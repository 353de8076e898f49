/* SPDX-License-Identifier: MIT */
/*
 * Fibers for CPython: what the files of the extension share.
 *
 *	module.c	names, functions, import and interpreter exit, fork
 *	fiber.c		the type Fiber: attributes, life and collection
 *	transfer.c	leaving one fiber for another, and how one ends
 *	import.c	notices when one of these is imported:
 *	greenlet.c	keeping away from greenlets
 *	loop.c		asyncio's running loop
 *	thread.c	which threads are fibers; attach(), pin()
 *	local.c		the type Local
 *	error.c		the exceptions
 *	interpreter.c	all that depends on the interpreter's version
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
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fiber.h"

typedef struct Fiber Fiber;

/*
 * A thread that is a fiber. Owned by a capsule in the thread state's dictionary,
 * which the interpreter clears when the thread ends, and by fibers that ran on it.
 */
struct thread {
	size_t references;
	/* Both owned while the thread is alive; NULL then. */
	Fiber *root;
	Fiber *current;
	/* Owned while one fiber is left for another: the former. Else NULL. */
	Fiber *left;
	/* Owned: fibers to be ended here, since nobody reaches them any more. */
	Fiber *doomed;
	/* attach() blocks that keep it converted; `kept`: it stays so until it ends. */
	size_t attached;
	bool kept;
	bool alive;
	/*
	 * asyncio's loop that runs on it, and its hooks; its task, while a fiber with a loop
	 * of its own runs. NULL: none. Owned.
	 */
	PyObject *loop, *hooks, *task;
	/* See interpreter_loop_changed(). */
	uint64_t loop_seen;
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
	enum state state;
	/* It is a thread. */
	bool root;
	/* What is in `message` is an exception to raise. */
	bool failed;
	/* FiberExit has been thrown into it because nobody reaches it. */
	bool exiting;
	/* How often it tried to leave since; not 0 when it has finished: it was given up. */
	unsigned int refusals;
	/* Suspended until one that it ends has ended; nobody else may enter it. */
	bool waiting;
	/* Depth of pin(). */
	unsigned int pins;
	/* NULL: new, or finished. While suspended it is in no list. */
	PyThreadState *tstate;
	/* Owned. That runs it, or did last; NULL: it never ran. */
	struct thread *thread;
	/* Owned. The only one that may run it: roots, pinned fibers. Else NULL. */
	struct thread *home;
	/* What it finds when it is entered: see transfer.c. Owned. */
	PyObject *message;
	/* Until it has finished; a root's are NULL. */
	PyObject *target, *args;
	/* Until it starts: the thread state has it from then on. */
	PyObject *context;
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
	/* Bytes; 0 for roots. */
	size_t stack_size;
	/* All fibers that have not finished; `link` NULL: not in the list. */
	Fiber *next, **link;
	/* In thread.doomed. */
	Fiber *next_doomed;
};

/* fiber.c */
extern PyTypeObject Fiber_Type;
/* All that have not finished, newest first. */
extern Fiber *fibers_living;
/* The interpreter ends, or soon will: nothing is unwound any more. */
extern bool fibers_over;
int fiber_type_init(PyObject *module);
/* What will be the fiber that the calling thread itself is. New reference. */
Fiber *fiber_root_new(void);
void fiber_root_begin(Fiber *self, struct thread *thread, fiber_id_t id);
/* It can never run again; a new one finishes by it. Its references go; arbitrary code may run. */
void fiber_retire(Fiber *self);
/* Takes it out of the living ones. */
void fiber_unlink(Fiber *self);

/* transfer.c */
/* Steals `message`, which is raised there if `failed`. NULL with an exception set. */
PyObject *transfer(Fiber *to, PyObject *message, bool failed);
/* A created fiber's function. */
void transfer_start(void *unused);
/*
 * Throws FiberExit into a fiber that nobody reaches, on the calling thread or, if that
 * is another's business, later. Nothing if it is not suspended, or waits for another
 * one's end, when its turn comes. Keeps no exception set.
 */
void transfer_end(Fiber *self, bool here);

/* greenlet.c */
extern bool greenlet_imported;
void greenlet_import(PyObject *modules);
/* Whether the caller is inside a greenlet, which may not be left so. True with an exception set. */
bool greenlet_inside(void);

/* import.c */
/* sys.modules, and how many there were at the last look. */
extern PyObject *import_modules;
extern Py_ssize_t import_seen;
void import_look(void);

/* Notices, cheaply, what has been imported that fibers have to get along with. */
static inline void import_check(void)
{
	if (__builtin_expect(PyDict_GET_SIZE(import_modules) != import_seen, 0))
		import_look();
}

/* loop.c */
extern bool loop_imported;
void loop_import(PyObject *modules);
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
void thread_take(struct thread *thread);
void thread_drop(struct thread *thread);
/* Ends what is doomed on it. */
void thread_drain(struct thread *thread);
void thread_forked(void);
int thread_types_init(PyObject *module);

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
