/* SPDX-License-Identifier: MIT */
/* The fibers that the workloads run on: libfiber's with any engine, or glibc's swapcontext(). */
#ifndef BENCH_BACKEND_H
#define BENCH_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BACKEND_FIBERS_MAX	65000

/*
 * Functions return 0 or an error number and behave as those of <fiber.h>. All but convert and
 * create may be called in a signal handler; switch_to() gives EAGAIN there if the handler
 * interrupted another switch.
 */
struct backend {
	const char *name;	/* the engine's */
	/* The signal mask belongs to the fiber, else to the thread. */
	bool masks_travel;

	int (*convert)(uint64_t *id);
	int (*create)(uint64_t *id, void (*func)(void *), void *arg, const char *name,
		      size_t stack_size);
	int (*switch_to)(uint64_t id);
	int (*self)(uint64_t *id);
	int (*fls_alloc)(uint64_t *index);
	int (*fls_set)(uint64_t index, uint64_t value);
	int (*fls_get)(uint64_t index, uint64_t *value);
};

/* The names that backend_open() takes, for help texts. */
#define BACKEND_NAMES	"auto, kernel, mapped, local, swapcontext"

/* Chooses it by name, before anything else. False: there is none of that name. */
bool backend_choose(const char *name);

/*
 * The one that was chosen, opened by this process and no parent of it. Whether its engine works
 * here, the first convert() tells.
 */
const struct backend *backend_open(void);

/* glibc's swapcontext(), in backend_ucontext.c. */
extern const struct backend backend_ucontext;

#endif /* BENCH_BACKEND_H */
