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
 * A fiber whose function returns ends its thread, as with Windows. A start
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

/* Unique in the process, never used again, never 0. */
typedef uint64_t fiber_id_t;

/* A process-wide index whose value is each fiber's own (Windows: FlsAlloc). */
typedef uint32_t fiber_key_t;

#define FIBER_NAME_MAX 63	/* bytes, without the terminating zero */
#define FIBER_KEYS_MAX 1024

/*
 * The whole FPU, SSE and AVX state belongs to the fiber (FIBER_FLAG_FLOAT_SWITCH).
 * Nothing with engines "mapped" and "local": a call loses all of it but the control words, and
 * those always travel.
 */
#define FIBER_FPU (1u << 0)

struct fiber_attr {
	size_t stack_size;	/* bytes that the fiber can use; 0: 1 MiB */
	unsigned int flags;	/* FIBER_FPU or 0 */
	const char *name;	/* at most FIBER_NAME_MAX bytes; NULL: none */
};

/*
 * Chooses the engine: "kernel" (the module switches), "mapped" (user mode switches and
 * the module watches), "local" (user mode switches, no module needed), or "auto":
 * "mapped" where that works, else "local". Before anything else has been called
 * (EBUSY otherwise); EINVAL: no such engine. Without it the environment
 * variable KFIBER_ENGINE decides, else "auto".
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
 * EPROTO: the module lacks something that this library needs. EBUSY: its fibers are
 * switched by another engine than this one. EINVAL: KFIBER_ENGINE or flags.
 * EAGAIN: too many fibers. EDQUOT: the user has as much of the kernel's memory as the
 * module's max_user_kib allows. ENOMEM.
 */
int fiber_convert(unsigned int flags, fiber_id_t *id);

/*
 * The thread goes on as a thread and its own fiber's id is gone. EPERM: the
 * caller is no fiber. EINVAL: it is not on its own fiber.
 */
int fiber_revert(void);

/*
 * A new, suspended fiber that runs func(arg) on a stack of its own, below which
 * lies a guard page. `attr` may be NULL. EPERM: the caller is no fiber.
 * EINVAL: no function, unknown flags, a stack below 16 KiB, a name too long.
 * EAGAIN: too many fibers or mappings (vm.max_map_count). EDQUOT: as fiber_convert().
 * ENOMEM.
 */
int fiber_create(fiber_id_t *id, void (*func)(void *), void *arg, const struct fiber_attr *attr);

/*
 * Leaves the calling fiber and runs `id` on this thread. Returns 0 when somebody
 * switches back. EPERM: the caller is no fiber. ESRCH: no such fiber. EBUSY: it is
 * running. EINVAL: the calling fiber itself, or the caller is on its signal's
 * alternate stack. EOWNERDEAD: it was a thread that has ended. EAGAIN: in a signal
 * handler that interrupted a switch or another function of this library.
 *
 * A created fiber on which a thread ended begins anew at its function. Its keys' values
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
 * Ends a fiber that is not running and frees its stack, on which nothing is
 * unwound. Destructors of its keys run on the caller. ESRCH: no such fiber.
 * EBUSY: it is running. EPERM: it is a living thread's own fiber.
 */
int fiber_delete(fiber_id_t id);

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
	FIBER_FINISHED,		/* a thread's own fiber whose thread has ended */
};

#define FIBER_TIME_UNKNOWN UINT64_MAX

struct fiber_stat {
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

/* What is to be seen of a fiber now, 0 being the calling one. EINVAL: no `stat`. ESRCH, EPERM. */
int fiber_get_stat(fiber_id_t id, struct fiber_stat *stat);

/* The argument that the calling fiber was created with; NULL for a thread's own. */
void *fiber_data(void);

/* `id` 0 is the calling fiber. EINVAL: the name is too long. ESRCH, EPERM. */
int fiber_set_name(fiber_id_t id, const char *name);

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
 * EPERM: the caller is no fiber. A fiber that sets a key while another thread deletes
 * it may leave its value to the next key of that index.
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
