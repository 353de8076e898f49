/* SPDX-License-Identifier: MIT */
/*
 * The user-level baseline: fibers over glibc's swapcontext(), with the rules of the others. A
 * fiber that a thread runs is refused (EBUSY) and the refusal is counted; each fiber has storage of
 * its own; any thread may resume any suspended fiber.
 *
 *	switch_to(id)
 *	  busy = 1			this thread's handlers are refused from here on
 *	  to->running: 0 -> 1		or EBUSY
 *	  left = from, current = to
 *	  swapcontext(from, to)	saves `from`
 *	arrive()			now on the stack of `to`, on the same thread
 *	  left->running = 0		nobody enters a fiber before it is saved
 *	  busy = 0
 *
 * A signal handler may suspend a fiber at any instruction, and another thread may resume it. So
 * code that is not busy reads and writes this thread's words by single instructions.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "backend.h"

#define POSITIONS	64
#define PAGE		4096

struct ucontext_fiber {
	ucontext_t context;
	_Atomic int running;	/* a thread runs it, or still saves it */
	_Atomic uint64_t refused;
	uint64_t id;
	void (*func)(void *);
	void *arg;
	uint64_t allocated;	/* positions, a bit each */
	uint64_t values[POSITIONS];
};

/* By id. An entry is set once. */
static struct ucontext_fiber *_Atomic fibers[BACKEND_FIBERS_MAX + 1024 + 1];
static _Atomic uint64_t fiber_count;

/* This thread's; not static, since the assembly names them. */
extern __thread struct ucontext_fiber *ucontext_current, *ucontext_left;
extern __thread int ucontext_busy;
__thread struct ucontext_fiber *ucontext_current, *ucontext_left;
__thread int ucontext_busy;

/* True if this thread was not busy. */
static inline bool become_busy(void)
{
	int before = 1;

	__asm__ volatile("xchgl %0, %%fs:ucontext_busy@tpoff" : "+r"(before) : : "memory");
	return !before;
}

static inline void become_idle(void)
{
	__asm__ volatile("movl $0, %%fs:ucontext_busy@tpoff" : : : "memory");
}

static inline struct ucontext_fiber *running_fiber(void)
{
	struct ucontext_fiber *fiber;

	__asm__ volatile("movq %%fs:ucontext_current@tpoff, %0" : "=r"(fiber) : : "memory");
	return fiber;
}

static inline struct ucontext_fiber *left_fiber(void)
{
	struct ucontext_fiber *fiber;

	__asm__ volatile("movq %%fs:ucontext_left@tpoff, %0" : "=r"(fiber) : : "memory");
	return fiber;
}

static inline void note_switch(struct ucontext_fiber *from, struct ucontext_fiber *to)
{
	__asm__ volatile("movq %0, %%fs:ucontext_left@tpoff\n\t"
			 "movq %1, %%fs:ucontext_current@tpoff"
			 : : "r"(from), "r"(to) : "memory");
}

/* Where a switch ends; the thread is busy. */
static void arrive(void)
{
	atomic_store_explicit(&left_fiber()->running, 0, memory_order_release);
	become_idle();
}

static void begin(void)
{
	struct ucontext_fiber *self = running_fiber();

	arrive();
	self->func(self->arg);
	abort();	/* the workloads' fibers do not return */
}

static int new_fiber(struct ucontext_fiber **made)
{
	struct ucontext_fiber *fiber = calloc(1, sizeof(*fiber));

	if (!fiber)
		return ENOMEM;
	fiber->id = atomic_fetch_add(&fiber_count, 1) + 1;
	if (fiber->id >= sizeof(fibers) / sizeof(fibers[0])) {
		free(fiber);
		return EAGAIN;
	}
	*made = fiber;
	return 0;
}

static int ucontext_convert(uint64_t *id)
{
	struct ucontext_fiber *self;
	int err;

	if (running_fiber())
		return EEXIST;
	err = new_fiber(&self);
	if (err)
		return err;
	self->running = 1;
	note_switch(NULL, self);
	atomic_store(&fibers[self->id], self);
	if (id)
		*id = self->id;
	return 0;
}

static int ucontext_create(uint64_t *id, void (*func)(void *), void *arg, const char *name,
			   size_t stack_size)
{
	struct ucontext_fiber *fiber;
	char *stack;
	int err;

	(void)name;
	err = new_fiber(&fiber);
	if (err)
		return err;
	stack = mmap(NULL, stack_size + PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED || mprotect(stack, PAGE, PROT_NONE) || getcontext(&fiber->context))
		return ENOMEM;
	fiber->func = func;
	fiber->arg = arg;
	fiber->context.uc_stack.ss_sp = stack + PAGE;
	fiber->context.uc_stack.ss_size = stack_size;
	fiber->context.uc_link = NULL;
	makecontext(&fiber->context, begin, 0);
	atomic_store(&fibers[fiber->id], fiber);
	*id = fiber->id;
	return 0;
}

static int ucontext_switch(uint64_t id)
{
	struct ucontext_fiber *from, *to = NULL;
	int err = 0;

	if (!running_fiber())
		return EPERM;
	if (!become_busy())
		return EAGAIN;
	from = running_fiber();
	if (id < sizeof(fibers) / sizeof(fibers[0]))
		to = atomic_load_explicit(&fibers[id], memory_order_acquire);
	if (!to)
		err = ESRCH;
	else if (to == from)
		err = EINVAL;
	else if (atomic_exchange_explicit(&to->running, 1, memory_order_acquire))
		err = EBUSY;
	if (err) {
		if (to)
			atomic_fetch_add_explicit(&to->refused, 1, memory_order_relaxed);
		become_idle();
		return err;
	}
	note_switch(from, to);
	swapcontext(&from->context, &to->context);
	arrive();
	return 0;
}

static int ucontext_self(uint64_t *id)
{
	struct ucontext_fiber *self = running_fiber();

	if (!self)
		return EPERM;
	*id = self->id;
	return 0;
}

static int ucontext_fls_alloc(uint64_t *index)
{
	struct ucontext_fiber *self = running_fiber();
	unsigned int i;

	if (!self)
		return EPERM;
	for (i = 0; i < POSITIONS; i++) {
		if (self->allocated >> i & 1)
			continue;
		self->allocated |= UINT64_C(1) << i;
		self->values[i] = 0;
		*index = i;
		return 0;
	}
	return EAGAIN;
}

/* The calling fiber's value, or NULL and why. */
static uint64_t *position(uint64_t index, int *err)
{
	struct ucontext_fiber *self = running_fiber();

	if (!self)
		*err = EPERM;
	else if (index >= POSITIONS || !(self->allocated >> index & 1))
		*err = EINVAL;
	else
		return &self->values[index];
	return NULL;
}

static int ucontext_fls_set(uint64_t index, uint64_t value)
{
	int err = 0;
	uint64_t *place = position(index, &err);

	if (place)
		*place = value;
	return err;
}

static int ucontext_fls_get(uint64_t index, uint64_t *value)
{
	int err = 0;
	const uint64_t *place = position(index, &err);

	if (place)
		*value = *place;
	return err;
}

const struct backend backend_ucontext = {
	.name = "swapcontext",
	.masks_travel = true,	/* swapcontext() saves it, by a system call */
	.convert = ucontext_convert,
	.create = ucontext_create,
	.switch_to = ucontext_switch,
	.self = ucontext_self,
	.fls_alloc = ucontext_fls_alloc,
	.fls_set = ucontext_fls_set,
	.fls_get = ucontext_fls_get,
};
