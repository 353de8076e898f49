/* SPDX-License-Identifier: MIT */
/*
 * libfiber: fibers that the operating system knows.
 *
 * A fiber is a stackful coroutine that threads switch by hand. Any thread of the process
 * may resume any suspended fiber, and every fiber can be seen under /proc/PID/fiber. The
 * semantics are those of Windows' fibers.
 *
 * Errors: functions return 0 or an error number from <errno.h>, and never change errno:
 * a fiber may be resumed on another thread, and errno belongs to the thread. For the same
 * reason a program must not keep the address of a thread-local variable across fiber_switch().
 *
 * Thread-safety: all threads may call every function at the same time. fiber_switch(),
 * fiber_self() and the fiber_fls_ functions are async-signal-safe. A signal handler that
 * interrupted a switch, or another function of this library, may get EAGAIN when it switches.
 *
 * Signals: block a signal whose handler switches while the program holds a lock, is inside
 * malloc() or fork(), or ends a thread. If handlers run on an alternate stack, a handler that
 * switches must set uc_stack of its frame to its thread's alternate stack before it returns.
 *
 * Ends: a fiber whose function returns ends its thread, as with Windows, unless the fiber was
 * created with FIBER_RETURNS. A start routine of a thread must not return while another thread
 * runs this thread's root fiber: the behaviour is undefined. End such a thread by returning
 * from the fiber that it runs, or by pthread_exit().
 */
#ifndef FIBER_H
#define FIBER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* All other symbols of the library are hidden. */
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* The version of the library to which this header belongs. */
#define FIBER_VERSION_MAJOR 0
#define FIBER_VERSION_MINOR 1
#define FIBER_VERSION_PATCH 0
#define FIBER_VERSION \
	(FIBER_VERSION_MAJOR << 16 | FIBER_VERSION_MINOR << 8 | FIBER_VERSION_PATCH)

/* The id of a fiber: unique in the process, never used again, never 0. */
typedef uint64_t fiber_id_t;

/* A process-wide key for which each fiber has its own value. Source: Windows' FlsAlloc(). */
typedef uint32_t fiber_key_t;

/*
 * Limits of the library: the bytes of a name without its terminating zero, the keys of a
 * process, and the threads that are fibers at a time (not limited with engine "kernel").
 */
#define FIBER_NAME_MAX 63
#define FIBER_KEYS_MAX 1024
#define FIBER_THREADS_MAX 4095

/*
 * A flag: the whole FPU, SSE and AVX state belongs to the fiber. It has no effect with engines
 * "mapped" and "local": a function call loses that state except the control registers, and
 * these always belong to the fiber. Source: Windows' FIBER_FLAG_FLOAT_SWITCH.
 */
#define FIBER_FPU (1u << 0)

/*
 * A flag: the fiber's function may return. The fiber then ends without its thread, and its
 * resumer is resumed as by fiber_yield(NULL). If that is not possible, the thread's root fiber
 * is resumed; if that is not possible either, the thread ends. Source: Boost.Context and
 * minicoro. Windows has nothing like it.
 */
#define FIBER_RETURNS (1u << 1)

/*
 * Says how fiber_create() makes a fiber. Fields that are 0 have their defaults.
 *
 * All structures of this header begin with their size, so that they can grow. A program keeps
 * working with a newer library. It also works with an older one if the fields that the older one
 * lacks are 0. Initialise structures by FIBER_ATTR_INIT, FIBER_STAT_INIT and
 * FIBER_OBSERVER_INIT, or set `size` to the sizeof of the structure.
 *
 * - EINVAL: the size is smaller than that of the first version.
 * - E2BIG: the size is larger than this library knows, and additional bytes are not 0; or it is
 *   above 4096.
 */
struct fiber_attr {
	size_t size;
	size_t stack_size;	/* bytes that the fiber can use; 0: 1 MiB */
	unsigned int flags;	/* FIBER_FPU, FIBER_RETURNS */
	const char *name;	/* at most FIBER_NAME_MAX bytes; NULL: none */
	/*
	 * The guard gap below the stack, in bytes. An access there ends the process instead of
	 * changing another stack. A function whose frame is larger may step over the gap, unless
	 * it is compiled with -fstack-clash-protection. 0: 64 KiB; at most 255 MiB.
	 */
	size_t guard_size;
	/*
	 * The program's own memory for the stack: either `stack`, which has stack_size bytes, or
	 * the result of stack_alloc(size, stack_data), where `size` is one page more than
	 * stack_size and NULL means ENOMEM. The fiber can use all of it except less than two
	 * pages. There is no guard gap. The memory must have at least 16 KiB.
	 *
	 * stack_free(stack, size, stack_data) returns the memory; it may be NULL. fiber_delete()
	 * calls it on its caller's stack. A fiber_create() that fails returns the memory that
	 * stack_alloc() gave, but leaves `stack` to its caller. In the child of a fork() the memory
	 * of a fiber that another thread was deleting is not returned. Source: Boost.Context.
	 */
	void *stack;
	void *(*stack_alloc)(size_t size, void *stack_data);
	void (*stack_free)(void *stack, size_t size, void *stack_data);
	void *stack_data;
};

#define FIBER_ATTR_INIT \
	{ sizeof(struct fiber_attr), 0, 0, NULL, 0, NULL, NULL, NULL, NULL }

/*
 * Chooses the engine. "kernel": the module switches. "mapped": user mode switches, and the
 * module watches. "local": user mode switches, and no module is needed. "auto": "mapped" if that
 * works, otherwise "local". Without this call the environment variable KFIBER_ENGINE decides,
 * and "auto" is the default.
 *
 * "auto" takes "local" if there is no module or if the module refuses, as it does for a second
 * copy of this library in the process (EBUSY). If descriptors or memory are short (EMFILE,
 * ENFILE, ENOMEM), "auto" takes no engine: the call fails, and the next call tries again.
 *
 * - EBUSY: an engine is open already.
 * - EINVAL: there is no engine of that name.
 */
int fiber_set_engine(const char *name);

/*
 * Returns the engine's name. The first call opens the engine. The result is NULL if that failed;
 * fiber_convert() then returns the reason.
 */
const char *fiber_engine(void);

/*
 * Converts the calling thread to a fiber, which is then running. That fiber is the thread's root
 * fiber. `flags` is 0 or FIBER_FPU. `id` gets the fiber's id and may be NULL. Source: Windows'
 * ConvertThreadToFiberEx().
 *
 * - EEXIST: the thread is a fiber already.
 * - ENODEV: the engine is not available: the module is not loaded, or Valgrind runs the process
 *   and the engine is "kernel".
 * - EPROTO: the module lacks something that this library needs.
 * - EBUSY: another engine, or another copy of this library, switches the process's fibers.
 * - EMFILE, ENFILE: there is no descriptor for /dev/fiber.
 * - EINVAL: KFIBER_ENGINE or `flags` is wrong.
 * - EAGAIN: there are too many fibers, or FIBER_THREADS_MAX threads are fibers.
 * - EDQUOT: the user has as much of the kernel's memory as the module's max_user_kib allows.
 * - ENOMEM: there is not enough memory.
 */
int fiber_convert(unsigned int flags, fiber_id_t *id);

/*
 * Reverts the calling thread: it is only a thread again, and its root fiber is gone. Source:
 * Windows' ConvertFiberToThread().
 *
 * - EPERM: the caller is not a fiber.
 * - EINVAL: the thread does not run its root fiber.
 */
int fiber_revert(void);

/*
 * Creates a suspended fiber that runs func(arg) on a new stack with a guard gap below it.
 * `id` gets its id. `attr` may be NULL. Any thread may create fibers, whether it is converted or
 * not; the first call opens the engine. Source: Windows' CreateFiberEx().
 *
 * The fiber starts with the caller's floating-point environment, as a new thread does (fenv(3)),
 * and it starts with the same environment if it starts again. The stack is executable if the
 * program asks for executable stacks, or a library does that is loaded when the stack is mapped.
 *
 * - EINVAL: no function, unknown flags, a stack below 16 KiB, a guard gap above 255 MiB, a name
 *   that is too long, stack memory in two ways, or the size of `attr`.
 * - E2BIG: the size of `attr`.
 * - EAGAIN: there are too many fibers, or too many mappings (vm.max_map_count).
 * - EDQUOT: the user has as much of the kernel's memory as the module's max_user_kib allows.
 * - ENOMEM: there is not enough memory.
 * - ENODEV, EPROTO, EBUSY, EMFILE, ENFILE: the engine cannot be opened, as for fiber_convert().
 */
int fiber_create(fiber_id_t *id, void (*func)(void *), void *arg, const struct fiber_attr *attr);

/*
 * Suspends the calling fiber and resumes fiber `id` on this thread. Returns 0 when a thread
 * resumes the calling fiber. Async-signal-safe. Source: Windows' SwitchToFiber().
 *
 * A thread may end on a created fiber. Unless the fiber was deleted, it then starts again at its
 * function when it is resumed. The values of its keys are destroyed, except after a thread that
 * ended by the exit system call.
 *
 * The signal mask belongs to the fiber with engine "kernel" and to the thread with the other
 * engines. After a thread ended by the exit system call its fiber stays EBUSY with engine "local".
 *
 * The child of a fork() has the suspended fibers and the fiber that called fork(). Fibers that
 * other threads ran are EOWNERDEAD there. With engine "kernel" the child has no fibers. The
 * behaviour is undefined if a fiber forks that is another thread's root fiber: the child's C
 * library takes that thread's stack for a free one. The child of _Fork(), vfork() or the system call
 * may only call exec and _exit(): no handler prepares the fibers for it. With engine "mapped" a
 * switch there ends the child by SIGSEGV.
 *
 * An alternate signal stack inside the fiber's own stack cannot be distinguished from the
 * fiber's stack, so a switch there is not refused. Use separate memory.
 *
 * - EPERM: the caller is not a fiber, or is a destructor of a thread that has ended.
 * - ESRCH: there is no such fiber, or it was the root fiber of a thread that has ended.
 * - EBUSY: a thread runs the fiber.
 * - EINVAL: `id` is the calling fiber, or the caller is on its signal's alternate stack.
 * - EOWNERDEAD: the fiber is the root fiber of a thread that ended by the exit system call or that
 *   was left in the parent of a fork(), or a root fiber on which another thread ended.
 * - EAGAIN: the caller is a signal handler that interrupted a switch or another function of this
 *   library.
 */
int fiber_switch(fiber_id_t id);

/*
 * Tells the processor that a switch to fiber `id` comes soon, for example the switch after the
 * next. The processor then fetches the memory that the switch needs, which pays with tens of
 * thousands of fibers. `id` may have any value. No effect with engine "kernel".
 * Async-signal-safe.
 */
void fiber_prefetch(fiber_id_t id);

/*
 * Switches as fiber_switch() does and passes `value` to the fiber, where fiber_received()
 * returns it. Somewhat slower than fiber_switch(). The errors are those of fiber_switch(). Source:
 * Boost.Context's transfer.
 */
int fiber_transfer(fiber_id_t id, void *value);

/*
 * Returns the value that the last fiber_transfer() or fiber_yield() passed to the calling fiber,
 * or NULL if there was none.
 */
void *fiber_received(void);

/*
 * Switches back to the calling fiber's resumer and passes `value` to it. The resumer is the
 * fiber that resumed the calling one last by fiber_switch() or fiber_transfer(). A yield does not
 * change the resumer of the fiber that it resumes, so fibers that resume each other nest as calls
 * do.
 *
 * - ESRCH: no fiber has resumed the calling fiber, or its resumer is gone.
 * - Others as for fiber_switch().
 */
int fiber_yield(void *value);

/*
 * Gives the calling fiber's resumer, to which fiber_yield() would switch.
 *
 * - EINVAL: `id` is NULL.
 * - EPERM: the caller is not a fiber.
 * - ESRCH: no fiber has resumed the calling one.
 */
int fiber_resumer(fiber_id_t *id);

/*
 * Ends a fiber that is not running and frees its stack. The stack is not unwound. Destructors of
 * its keys run on the caller. Source: Windows' DeleteFiber().
 *
 * The calling fiber can be deleted too if it was created; the call then does not return. (It
 * returns if that fiber is at its end already and a destructor of a key or of the thread deletes it.) With
 * FIBER_RETURNS the effect is that of a return of the fiber's function. Without it the thread
 * ends, as with Windows; this does not work while a handler of pthread_cleanup_push() is active in
 * C code. `stack_free` is called when the thread has left that stack, maybe
 * within the switch to another fiber; it must not switch there.
 *
 * - ESRCH: there is no such fiber.
 * - EBUSY: another thread runs the fiber.
 * - EPERM: the fiber is the root fiber of a thread that lives.
 * - EINVAL, EAGAIN: the caller is a signal handler on the fiber to delete, and fiber_switch() would
 *   fail with this error.
 */
int fiber_delete(fiber_id_t id);

/*
 * Unwinds a fiber's stack and then deletes the fiber. The fiber is resumed on this thread to run
 * its C++ destructors and cleanup handlers, and then it ends, whatever its function would have
 * done. Source: Boost.Context's forced_unwind.
 *
 * This is a forced unwind, as of pthread_cancel(3): `catch (...)` must rethrow, otherwise the
 * process is aborted. Functions without unwind tables, and C functions compiled without
 * -fexceptions, have no handlers to run.
 *
 * - EPERM: the caller is not a fiber, or `id` is a root fiber.
 * - EAGAIN: a handler has switched back; the unwinding continues when the fiber is resumed.
 * - Others as for fiber_switch().
 */
int fiber_unwind(fiber_id_t id);

/*
 * Reports stack overflows: from now on a fiber that touches its guard gap is named on standard
 * error, with the size of its stack. SIGSEGV then does what it did before this call; an earlier
 * handler is called.
 *
 * The calling thread, and threads that are converted later, get an alternate signal stack for the
 * report if they have none. A second call has no effect. Returns errors of sigaction(2) and
 * pthread_setspecific(3).
 */
int fiber_report_overflow(void);

/*
 * Gives the id of the calling fiber. Async-signal-safe. Source: Windows' GetCurrentFiber().
 *
 * - EINVAL: `id` is NULL.
 * - EPERM: the caller is not a fiber.
 */
int fiber_self(fiber_id_t *id);

/*
 * A snapshot of a fiber's public state, and the states that a fiber can have. FIBER_FINISHED is a
 * root fiber whose thread has ended without a revert.
 */
enum fiber_state {
	FIBER_NEW,
	FIBER_RUNNING,
	FIBER_SUSPENDED,
	FIBER_FINISHED
};

#define FIBER_TIME_UNKNOWN UINT64_MAX

struct fiber_stat {
	size_t size;			/* as in struct fiber_attr */
	fiber_id_t id;
	enum fiber_state state;
	uint32_t thread;		/* tid of the thread that runs the fiber, otherwise 0 */
	uint64_t activations;		/* switches to the fiber */
	uint64_t failed_activations;	/* switches that were refused because the fiber was running */
	uint64_t cpu_time;		/* ns; FIBER_TIME_UNKNOWN with engine "local" */
	uint64_t run_time;		/* ns on a thread, waiting included; only with "local" */
	uint64_t longest_run;		/* ns; of cpu_time or run_time, whichever is known */
	uintptr_t stack_start;		/* lowest address; 0 for a root fiber */
	size_t stack_size;		/* bytes */
	char name[FIBER_NAME_MAX + 1];
};

#define FIBER_STAT_INIT \
	{ sizeof(struct fiber_stat), 0, FIBER_NEW, 0, 0, 0, 0, 0, 0, 0, 0, "" }

/*
 * Fills `stat` with a snapshot of fiber `id`; 0 means the calling fiber. Another thread may
 * change the fiber at any time.
 *
 * - EINVAL: `stat` is NULL, or its size is too small.
 * - E2BIG: the size of `stat`.
 * - ESRCH: there is no such fiber.
 * - EPERM: `id` is 0, and the caller is not a fiber.
 */
int fiber_get_stat(fiber_id_t id, struct fiber_stat *stat);

/*
 * Gives how much of a fiber's stack is in memory; `id` 0 means the calling fiber. `bytes` gets
 * the distance from the stack's top to its lowest page in memory.
 *
 * A page is in memory after the first access, by this fiber or by an earlier fiber on the same
 * stack, which the library may have kept. A page that was swapped out does not count. So without
 * swapping the result is at least the deepest use of the stack, in whole pages.
 *
 * - EINVAL: `bytes` is NULL, or the fiber is a root fiber.
 * - ESRCH: there is no such fiber.
 * - EPERM: `id` is 0, and the caller is not a fiber.
 */
int fiber_stack_used(fiber_id_t id, size_t *bytes);

/*
 * Returns the user data of the calling fiber: the argument of fiber_create(), or NULL for a root
 * fiber, until fiber_set_data() changes it. The result is also NULL if the caller is not a fiber.
 * Async-signal-safe. Source: Windows' GetFiberData().
 */
void *fiber_data(void);

/*
 * Change and give the user data of any fiber; `id` 0 means the calling fiber, for which both
 * functions are async-signal-safe. A fiber that starts again gets the argument of fiber_create(),
 * whatever its user data is.
 *
 * - EINVAL: `data` of fiber_get_data() is NULL.
 * - ESRCH: there is no such fiber.
 * - EPERM: `id` is 0, and the caller is not a fiber.
 */
int fiber_set_data(fiber_id_t id, void *data);
int fiber_get_data(fiber_id_t id, void **data);

/*
 * Iterates over all fibers of the process, root fibers included: *id becomes the id of the next
 * fiber. Begin with 0. The order has no meaning. Each fiber that exists during the whole iteration
 * is given once, whatever other threads create and delete meanwhile.
 *
 * - ESRCH: there are no more fibers.
 * - EINVAL: `id` is NULL.
 */
int fiber_next(fiber_id_t *id);

/*
 * Counts the process's fibers, root fibers included. The function visits all of them, and other
 * threads may change their number at any time.
 */
size_t fiber_count(void);

/*
 * Gives fiber `id` a name of at most FIBER_NAME_MAX bytes; 0 means the calling fiber.
 *
 * - EINVAL: `name` is NULL or too long.
 * - ESRCH: there is no such fiber.
 * - EPERM: `id` is 0, and the caller is not a fiber.
 */
int fiber_set_name(fiber_id_t id, const char *name);

/*
 * The functions by which a tool follows fibers, for example a profiler, a tracer or a debugger.
 * Each function may be NULL. The library calls them on the thread where the event happens, in the
 * order of that thread's events, and also inside signal handlers that call this library. So they
 * may only call async-signal-safe functions; fiber_switch() returns EAGAIN in them.
 */
struct fiber_observer {
	size_t size;			/* as in struct fiber_attr */
	void *data;			/* passed to each function */
	/* The fiber exists, and no thread can switch to it yet. Also for root fibers. */
	void (*created)(fiber_id_t id, void *data);
	/*
	 * The thread suspends `from` and runs `to`; 0 means that the thread is not a fiber before
	 * or after. The call runs on the stack of one of the two fibers. Not for switches that
	 * fail.
	 */
	void (*switched)(fiber_id_t from, fiber_id_t to, void *data);
	/* No function finds the fiber any more; its memory still exists. */
	void (*ended)(fiber_id_t id, void *data);
	/* The fiber has this name from now on; `name` is valid during the call. */
	void (*named)(fiber_id_t id, const char *name, void *data);
};

#define FIBER_OBSERVER_INIT { sizeof(struct fiber_observer), NULL, NULL, NULL, NULL, NULL }

/*
 * Sets the process's observer; NULL removes it. `previous` gets the observer before, so that a
 * tool can call that one as well; it may be NULL. Async-signal-safe.
 *
 * The observer must stay valid as long as the process lives, because other threads may still be
 * calling it. Switches that are in progress on other threads may be reported or not. Fibers that
 * finish in the child of a fork() are not reported. Without an observer a switch costs the same as
 * ever; with one it takes a slower path.
 *
 * - EINVAL: the observer's size is too small.
 * - E2BIG: the observer's size.
 */
int fiber_set_observer(const struct fiber_observer *observer,
		       const struct fiber_observer **previous);

/*
 * Gives each fiber a record for OpenTelemetry's profilers (OTEP 4947), with the attributes fiber.id
 * and fiber.name. KFIBER_OTEL=1 in the environment does the same at the process's first conversion.
 *
 * If an object of the process exports the thread-local pointer otel_thread_ctx_v1, the pointer
 * belongs to the fiber, with and without this call: each switch takes it along, so that an SDK's
 * span is never seen on another fiber. A fiber's record is seen where its pointer would be NULL,
 * and on other threads after their next switch. This call cannot be undone. A program without an
 * SDK defines the pointer in a shared library, or is linked with -Wl,--export-dynamic:
 *
 *	_Thread_local void *otel_thread_ctx_v1;
 *
 * - ENOENT: no object exports the pointer.
 * - EEXIST: an SDK has published the context of this process, of which there is one.
 * - ENOMEM: there is not enough memory.
 */
int fiber_otel_enable(void);

/*
 * Shows a span in the calling fiber's record: its trace id of 16 bytes and its span id of 8 bytes,
 * in the order of W3C Trace Context, and its flags. NULL and NULL remove it. Async-signal-safe.
 *
 * - EPERM: the caller is not a fiber.
 * - ENOENT: fibers have no records.
 * - EINVAL: one of the two ids is NULL.
 */
int fiber_otel_set_span(const unsigned char *trace_id, const unsigned char *span_id,
			unsigned int flags);

/*
 * Fiber-local storage of the reference report: a fiber allocates positions for itself alone, and
 * each position has a value. Async-signal-safe.
 *
 * - EPERM: the caller is not a fiber.
 * - EINVAL: the position is not allocated, or a pointer is NULL.
 * - EAGAIN: no position is free.
 * - ENOMEM: there is not enough memory.
 */
int fiber_fls_alloc(uint64_t *index);
int fiber_fls_free(uint64_t index);
int fiber_fls_set(uint64_t index, uint64_t value);
int fiber_fls_get(uint64_t index, uint64_t *value);

/*
 * Fiber-local storage with keys of the whole process. Each fiber has its own value of each key,
 * NULL at first. Source: Windows' FlsAlloc(), FlsFree(), FlsSetValue() and FlsGetValue().
 *
 * `destructor` (may be NULL) is called with each value that is not NULL when the fiber is deleted,
 * when the thread that runs the fiber ends, and when the key is deleted. If a destructor sets a
 * key of a fiber on which a thread ends, the destructors are called again, at most
 * PTHREAD_DESTRUCTOR_ITERATIONS times.
 *
 * A fiber may set a key while another thread deletes the key. Either the fiber gets EINVAL, or the
 * destructor gets the value. In the child of a fork() the values of fibers that other threads ran
 * are dropped.
 *
 * - EAGAIN: FIBER_KEYS_MAX keys exist.
 * - EINVAL: there is no such key, or a pointer is NULL.
 * - EPERM: the caller is not a fiber.
 * - ENOMEM: there is not enough memory.
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
