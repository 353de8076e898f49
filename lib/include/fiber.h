/* SPDX-License-Identifier: MIT */
/*
 * libfiber: fibers that the operating system knows.
 *
 * A fiber is a stackful coroutine that threads switch by hand. Any thread of
 * the process may take over any suspended fiber, and every fiber can be seen
 * under /proc/PID/fiber. The semantics are those of Windows' fibers.
 *
 * Errors: functions return 0 or an error number from <errno.h>, and never touch
 * errno: a fiber may resume on another thread, and errno is the thread's.
 * For the same reason nothing thread-local may be kept over fiber_switch().
 *
 * Thread-safety: everything may be called from all threads at once.
 * fiber_switch() and the fiber_fls_ and fiber_self() functions are async-signal-safe.
 * A handler that interrupts a switch, or one of this library's other functions, can
 * be refused its own switch (EAGAIN). A signal whose handler switches must be blocked
 * while a lock is held, inside malloc(), in fork(), and when a thread ends. Where handlers have alternate stacks, one that
 * switches must set its frame's uc_stack to its thread's before it returns.
 *
 * A fiber whose function returns ends its thread, as with Windows, unless it was created with
 * FIBER_RETURNS. A start
 * routine of a thread that returns while the thread's own fiber is on another
 * thread is undefined: end such a thread by returning from the fiber that it
 * runs, or by pthread_exit().
 */
#ifndef FIBER_H
#define FIBER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* All else in the library is hidden. */
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* The version of this header, which is the library's. */
#define FIBER_VERSION_MAJOR 0
#define FIBER_VERSION_MINOR 1
#define FIBER_VERSION_PATCH 0
#define FIBER_VERSION \
	(FIBER_VERSION_MAJOR << 16 | FIBER_VERSION_MINOR << 8 | FIBER_VERSION_PATCH)

/* Unique in the process, never used again, never 0. */
typedef uint64_t fiber_id_t;

/* A process-wide index whose value is each fiber's own (Windows: FlsAlloc). */
typedef uint32_t fiber_key_t;

#define FIBER_NAME_MAX 63	/* bytes, without the terminating zero */
#define FIBER_KEYS_MAX 1024
#define FIBER_THREADS_MAX 4095	/* that are fibers at a time, but with engine "kernel" */

/*
 * The whole FPU, SSE and AVX state belongs to the fiber (FIBER_FLAG_FLOAT_SWITCH).
 * Nothing with engines "mapped" and "local": a call loses all of it but the control words, and
 * those always travel.
 */
#define FIBER_FPU (1u << 0)

/*
 * The fiber's function may return: the fiber ends then, without its thread, and the fiber that
 * resumed it is resumed as by fiber_yield(NULL). If that is not possible the thread's root fiber
 * is resumed, and if that is not possible either the thread ends. (Windows has nothing like it; Boost.Context
 * and minicoro end so.)
 */
#define FIBER_RETURNS (1u << 1)

/*
 * Structures begin with their size, so that they can grow: a program keeps working with
 * a newer library, and with an older one as long as what that lacks is 0. Initialise them
 * by FIBER_ATTR_INIT and FIBER_STAT_INIT, or set `size` to sizeof(struct ...). A size
 * below that of the first version is EINVAL. A larger structure than the library
 * knows is E2BIG if its additional bytes are not 0; so is a size above 4096.
 */
struct fiber_attr {
	size_t size;
	size_t stack_size;	/* bytes that the fiber can use; 0: 1 MiB */
	unsigned int flags;	/* FIBER_FPU, FIBER_RETURNS */
	const char *name;	/* at most FIBER_NAME_MAX bytes; NULL: none */
	/*
	 * Bytes below the stack whose use ends the process instead of changing another
	 * stack. A function whose frame is larger may step over them, unless it is
	 * compiled with -fstack-clash-protection. 0: 64 KiB; at most 255 MiB.
	 */
	size_t guard_size;
	/*
	 * The program's own memory for the stack (Boost.Context, Windows has none): `stack`,
	 * of stack_size bytes, or what stack_alloc(size, stack_data) returns, NULL meaning
	 * ENOMEM, where size is a page more than stack_size. One of them at most. The fiber
	 * has all of it but less than two pages, and no guard gap; it must be at least 16
	 * KiB then. stack_free(stack, size, stack_data) returns the memory, and may be NULL;
	 * it is called by fiber_delete(), on its caller. A fiber_create() that fails returns what
	 * stack_alloc() gave, and leaves `stack` to its caller. In the child of a fork(), memory of a
	 * fiber that another thread was deleting is not returned.
	 */
	void *stack;
	void *(*stack_alloc)(size_t size, void *stack_data);
	void (*stack_free)(void *stack, size_t size, void *stack_data);
	void *stack_data;
};

#define FIBER_ATTR_INIT \
	{ sizeof(struct fiber_attr), 0, 0, NULL, 0, NULL, NULL, NULL, NULL }

/*
 * Chooses the engine: "kernel" (the module switches), "mapped" (user mode switches and
 * the module watches), "local" (user mode switches, no module needed), or "auto":
 * "mapped" where that works, else "local". Until one is open (EBUSY afterwards); EINVAL: no such
 * engine. Without it the environment variable KFIBER_ENGINE decides, else "auto".
 *
 * "auto" takes "local" where there is no module, or where it refuses, as it does with a second
 * copy of this library in the process (EBUSY). Where descriptors or memory are short
 * (EMFILE, ENFILE, ENOMEM) it takes none: the call fails, and the next one tries again.
 */
int fiber_set_engine(const char *name);

/*
 * The engine's name. The first call opens it; NULL where that failed:
 * fiber_convert() then says why.
 */
const char *fiber_engine(void);

/*
 * The calling thread becomes a fiber, which is running. `id` may be NULL.
 * EEXIST: it is one already. ENODEV: the engine is not there (no module).
 * EPROTO: the module lacks something that this library needs. EBUSY: the process's fibers are
 * switched by another engine than this one, or by another copy of this library.
 * EMFILE, ENFILE: no descriptor for /dev/fiber. EINVAL: KFIBER_ENGINE or flags.
 * EAGAIN: too many fibers, or FIBER_THREADS_MAX. EDQUOT: the user has as much of the kernel's
 * memory as the module's max_user_kib allows. ENOMEM.
 */
int fiber_convert(unsigned int flags, fiber_id_t *id);

/*
 * The thread goes on as a thread and its own fiber's id is gone. EPERM: the
 * caller is no fiber. EINVAL: it is not on its own fiber.
 */
int fiber_revert(void);

/*
 * A new, suspended fiber that runs func(arg) on a stack of its own, below which
 * lies a guard gap. It begins with the caller's floating-point environment, as a new thread does
 * (fenv(3)), also where it starts again. The stack is executable if the program, or a library that is
 * loaded when the stack is mapped, asks for executable stacks. `attr` may be NULL. Any thread may
 * create fibers, converted or not; the first call opens the engine, with the errors of
 * fiber_convert(). EINVAL: no function, unknown flags, a stack below 16 KiB, a gap above 255 MiB, a
 * name too long, stack memory in two ways. EINVAL, E2BIG: the size of `attr`. EAGAIN: too many fibers or mappings (vm.max_map_count). EDQUOT: as fiber_convert().
 * ENOMEM.
 */
int fiber_create(fiber_id_t *id, void (*func)(void *), void *arg, const struct fiber_attr *attr);

/*
 * Leaves the calling fiber and runs `id` on this thread. Returns 0 when somebody
 * switches back. EPERM: the caller is no fiber, or a destructor of a thread that has ended. ESRCH: no such fiber. EBUSY: it is
 * running. EINVAL: the calling fiber itself, or the caller is on its signal's
 * alternate stack. EOWNERDEAD: it was a thread that has ended by the exit system call or in the
 * parent of a fork(); the root fiber of any other thread that has ended is gone (ESRCH). EAGAIN: in a signal
 * handler that interrupted a switch or another function of this library.
 *
 * A created fiber on which a thread ended, but not by deleting it, starts again at its function. Its keys' values
 * are destroyed then, but not where the thread ended by the exit system call.
 *
 * The signal mask belongs to the fiber with engine "kernel" and to the thread with
 * the others. A thread that ends by the exit system call leaves its fiber EBUSY with
 * "local". The child of a fork() keeps what was suspended, and what forked; what
 * other threads ran is EOWNERDEAD. With "kernel" the child has no fibers. A fork()
 * on another thread's own fiber is undefined: the child's C library takes that stack
 * for a free one.
 *
 * An alternate stack that lies within the fiber's own stack is not told from it, so
 * that a switch there succeeds: let it lie elsewhere.
 */
int fiber_switch(fiber_id_t id);

/*
 * A hint: that fiber is about to be switched to, say the one after the next. Has
 * the processor fetch what a switch to it needs, which pays among tens of thousands of
 * fibers. Any id; nothing with engine "kernel". Async-signal-safe.
 */
void fiber_prefetch(fiber_id_t id);

/*
 * As fiber_switch(), and `value` goes along: fiber_received() gives it to the fiber that is
 * resumed (Boost.Context's transfer). Somewhat slower than fiber_switch().
 */
int fiber_transfer(fiber_id_t id, void *value);

/* The value of the last fiber_transfer() or fiber_yield() to the calling fiber; NULL before. */
void *fiber_received(void);

/*
 * Back to the fiber that resumed the calling one last by fiber_switch() or fiber_transfer(); `value`
 * goes along. That fiber's own resumer stays who it was, so fibers that resume one another
 * nest as calls do. ESRCH: nobody has resumed the calling fiber, or the one that did is gone.
 * Else as fiber_switch().
 */
int fiber_yield(void *value);

/* The fiber to which fiber_yield() would switch. EPERM: the caller is none. ESRCH: nobody resumed it. */
int fiber_resumer(fiber_id_t *id);

/*
 * Ends a fiber that is not running and frees its stack, on which nothing is
 * unwound. Destructors of its keys run on the caller. ESRCH: no such fiber.
 * EBUSY: another thread runs it. EPERM: it is a living thread's root fiber.
 *
 * The calling fiber can be deleted, too, if it was created: then the call does not return.
 * (Where the thread has ended on that fiber, and a destructor of the thread deletes it, it does.)
 * With FIBER_RETURNS it is as if the function had returned, and without the thread ends, as with
 * Windows' DeleteFiber(); not where a handler of pthread_cleanup_push() is active in C code. In a
 * signal handler it is EINVAL or EAGAIN as fiber_switch() is. `stack_free` is called when the
 * thread is off that stack, maybe within the switch away from it, where it must not switch.
 */
int fiber_delete(fiber_id_t id);

/*
 * As fiber_delete(), but unwinds the fiber's stack before: it is resumed on this thread in order to
 * run its C++ destructors and cleanup handlers, and when they are through it ends, whatever its
 * function would have done. This is a forced unwind as pthread_cancel(3) makes it: `catch (...)`
 * must rethrow, or the process is aborted. Functions that are compiled without unwind tables, or C
 * without -fexceptions, have no handlers. EPERM: the caller is no fiber, or `id` is a root
 * fiber. EAGAIN: a handler has switched back, and the unwinding continues when the fiber is resumed. Else
 * as fiber_switch(). (Boost.Context's forced_unwind does so with an exception.)
 */
int fiber_unwind(fiber_id_t id);

/*
 * From now on a fiber that runs over the end of its stack is named on standard
 * error, with the stack's size, before SIGSEGV does what it did before this call: a
 * handler that was there is called. Threads that are converted from now on, and the calling one,
 * get an alternate signal stack for that if they have none. A second call does
 * nothing. Gives what sigaction(2) and pthread_setspecific(3) give.
 */
int fiber_report_overflow(void);

/* The calling fiber. EPERM: the caller is none. */
int fiber_self(fiber_id_t *id);

enum fiber_state {
	FIBER_NEW,
	FIBER_RUNNING,
	FIBER_SUSPENDED,
	FIBER_FINISHED		/* a root fiber whose thread has vanished */
};

#define FIBER_TIME_UNKNOWN UINT64_MAX

struct fiber_stat {
	size_t size;			/* as in struct fiber_attr */
	fiber_id_t id;
	enum fiber_state state;
	uint32_t thread;		/* pid of the thread that runs it, else 0 */
	uint64_t activations;
	uint64_t failed_activations;
	uint64_t cpu_time;		/* ns; FIBER_TIME_UNKNOWN with engine "local" */
	uint64_t run_time;		/* ns on a thread, waiting included; only with "local" */
	uint64_t longest_run;		/* ns, of whichever of them is known */
	uintptr_t stack_start;		/* lowest address; 0 for a thread's own */
	size_t stack_size;		/* bytes */
	char name[FIBER_NAME_MAX + 1];
};

#define FIBER_STAT_INIT \
	{ sizeof(struct fiber_stat), 0, FIBER_NEW, 0, 0, 0, 0, 0, 0, 0, 0, "" }

/*
 * Fills `stat` with a snapshot of fiber `id`; 0 means the calling one. Another thread may change
 * the fiber at any time. EINVAL: no `stat`. EINVAL, E2BIG: its size. ESRCH, EPERM.
 */
int fiber_get_stat(fiber_id_t id, struct fiber_stat *stat);

/*
 * How much of a fiber's stack is in memory, 0 meaning the calling one: *bytes from its top
 * down to its lowest page that is. Pages are in memory once they have been touched, by this fiber
 * or by an earlier one on the same stack, which the library may have kept; and no longer when they
 * were swapped out. So it is at least what the fiber has used at its deepest, in whole pages, as long as
 * nothing is swapped out. EINVAL: `bytes` is NULL, or the fiber is a thread's own. ESRCH, EPERM.
 */
int fiber_stack_used(fiber_id_t id, size_t *bytes);

/*
 * User data of the calling fiber: the argument that it was created with, NULL for a root
 * fiber, until fiber_set_data() changes it (Windows: GetFiberData). NULL, too, where the caller is
 * no fiber. Async-signal-safe.
 */
void *fiber_data(void);

/*
 * The same of any fiber; `id` 0 is the calling one, for which both are async-signal-safe. A fiber
 * that starts again gets the argument that it was created with, whatever its data is. ESRCH: no
 * such fiber. EPERM. EINVAL: `data` is NULL.
 */
int fiber_set_data(fiber_id_t id, void *data);
int fiber_get_data(fiber_id_t id, void **data);

/*
 * All fibers of the process, root fibers included: from 0 on, *id becomes the next fiber's,
 * in no order that means anything. Each fiber that is there all the time is given once, whatever else
 * is created and deleted meanwhile. ESRCH: no more. EINVAL: `id` is NULL.
 */
int fiber_next(fiber_id_t *id);

/* How many fibers there are now. Looks at all of them. */
size_t fiber_count(void);

/* `id` 0 is the calling fiber. EINVAL: the name is too long. ESRCH, EPERM. */
int fiber_set_name(fiber_id_t id, const char *name);

/*
 * What a tool wants to be told of fibers: a profiler, a tracer, a debugger's helper. Each
 * function may be NULL. They are called on the thread where it happens, in the order in which
 * it happens there, also from within signal handlers that call this library. So they may call
 * what is async-signal-safe only; fiber_switch() in them is EAGAIN.
 */
struct fiber_observer {
	size_t size;			/* as in struct fiber_attr */
	void *data;			/* passed to each function */
	/* The fiber exists, and no thread can switch to it yet. A thread's own one, too. */
	void (*created)(fiber_id_t id, void *data);
	/*
	 * The thread leaves `from` and runs `to`; 0 stands for a thread that is no fiber (any more).
	 * It runs on the stack of one of both. Not for switches that fail.
	 */
	void (*switched)(fiber_id_t from, fiber_id_t to, void *data);
	/* The fiber cannot be found any more, and its memory is there still. */
	void (*ended)(fiber_id_t id, void *data);
	/* The fiber has that name from now on, which is valid during the call. */
	void (*named)(fiber_id_t id, const char *name, void *data);
};

#define FIBER_OBSERVER_INIT { sizeof(struct fiber_observer), NULL, NULL, NULL, NULL, NULL }

/*
 * From now on the process's fibers are told to that observer; NULL: to none. `previous` (may be
 * NULL) gets the one before, so that a tool can call it as well. The observer must stay valid
 * as long as the process lives, since other threads may be calling it still. Without one a switch
 * costs what it always does; with one it takes a longer way. Switches that are under way
 * on other threads may be told or not. Fibers that are finished in the child of a fork() are
 * not told. EINVAL, E2BIG: its size. Async-signal-safe.
 */
int fiber_set_observer(const struct fiber_observer *observer,
		       const struct fiber_observer **previous);

/*
 * Local storage as the report has it: positions are allocated by a fiber for
 * itself alone. EPERM: the caller is no fiber. EINVAL: a position that is not
 * allocated. EAGAIN: none is free. ENOMEM.
 */
int fiber_fls_alloc(uint64_t *index);
int fiber_fls_free(uint64_t index);
int fiber_fls_set(uint64_t index, uint64_t value);
int fiber_fls_get(uint64_t index, uint64_t *value);

/*
 * Local storage as Windows has it: one index for all fibers of the process, a
 * value per fiber (NULL at first). `destructor` (may be NULL) gets each value
 * that is not NULL when its fiber is deleted, when the thread that runs it ends
 * and when the key is deleted. EAGAIN: FIBER_KEYS_MAX keys exist. EINVAL: no such key.
 * EPERM: the caller is no fiber. If a destructor sets a key of a fiber on which a thread ends it
 * is called again, PTHREAD_DESTRUCTOR_ITERATIONS times in all. A fiber that sets a key while another
 * thread deletes it either gets EINVAL, or the destructor gets the value. In the child of a fork() the
 * values of fibers that other threads ran are dropped.
 */
int fiber_key_create(fiber_key_t *key, void (*destructor)(void *));
int fiber_key_delete(fiber_key_t key);
int fiber_key_set(fiber_key_t key, void *value);
int fiber_key_get(fiber_key_t key, void **value);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif /* FIBER_H */
