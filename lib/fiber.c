/* SPDX-License-Identifier: MIT */
/*
 * The API: checks its arguments, and asks the engine. fiber_switch() is in
 * switch_x86_64.S.
 *
 * Lock order: the library's lock (lock.h) is outermost and alone. No callback
 * of the user runs under it.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "choice.h"
#include "fiber_cb.h"
#include "engine.h"
#include "exception.h"
#include "key.h"
#include "lock.h"
#include "observer.h"
#include "overflow.h"
#include "pin.h"
#include "sanitizer.h"
#include "stack.h"
#include "switch.h"
#include "thread.h"
#include "thread_exit.h"

/*
 * Over a fork(), from prepare to parent and child; under the lock. No signal may come
 * in between: in the child a handler would switch before all is in order.
 */
static struct lock_state fork_state;
static sigset_t fork_mask;

static void fork_prepare(void)
{
	struct lock_state state;
	sigset_t all, mask;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &mask);
	lock_take(&state);
	fork_state = state;
	fork_mask = mask;
	engine_fork_prepare();
}

static void fork_end(void)
{
	struct lock_state state = fork_state;
	sigset_t mask = fork_mask;

	lock_drop(&state);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

static void fork_parent(void)
{
	engine_fork_parent();
	fork_end();
}

/*
 * With some engines the child has no fibers: they belong to the parent. The
 * stacks stay mapped, because this very function may run on one of them and
 * others hold data.
 */
static void fork_child(void)
{
	struct fiber_cb *cb;
	bool kept = engine_fork_child();
	uint32_t slot = 1;

	while (!kept && (cb = fiber_cb_next(&slot))) {
		values_free(atomic_exchange(&fiber_extra(cb)->values, NULL));
		atomic_store(&cb->owner, OWNER_NONE);
	}
	otel_child();
	fork_end();
}

static int fork_error;

/*
 * As early as can be: handlers before fork() run from the last registered to the first. So those
 * of programs, which may wait for who uses this library, run without its lock.
 */
__attribute__((constructor(101))) static void fork_watch(void)
{
	fork_error = pthread_atfork(fork_prepare, fork_parent, fork_child);
}

int fiber_set_engine(const char *name)
{
	struct lock_state state;
	int err;

	lock_take(&state);
	err = engine_choose(name);
	lock_drop(&state);
	return err;
}

static int open_engine(void)
{
	struct lock_state state;
	int err;

	if (fork_error)
		return fork_error;
	lock_take(&state);
	err = engine_open();
	lock_drop(&state);
	if (!err)
		pin();
	return err;
}

const char *fiber_engine(void)
{
	return open_engine() ? NULL : engine_current()->name;
}

/* What engine->delete() or revert() took away. The stack last: values may point into it. */
static void reap(const struct engine *engine, fiber_id_t id, const struct detached *detached)
{
	observer_ended(id);
	if (detached->values)
		values_destroy(detached->values);
	engine->free(detached);
}

/*
 * The calling fiber ends, and its key values go. A destructor may set a key again, so many times as one of a
 * thread may (PTHREAD_DESTRUCTOR_ITERATIONS); what is there still is dropped.
 */
static void destroy_values(struct fiber_cb *cb)
{
	struct fiber_extra *extra = fiber_extra_used(cb);
	struct values *values = NULL;
	struct lock_state state;
	int rounds = 0;

	if (!extra)
		return;
	atomic_fetch_or(&cb->flags, CB_ENDING);
	do {
		values_destroy(values);
		lock_take(&state);
		values = atomic_exchange(&extra->values, NULL);
		if (rounds++ < PTHREAD_DESTRUCTOR_ITERATIONS) {
			values_close(values);
		} else {
			values_free(values);
			values = NULL;
		}
		lock_drop(&state);
	} while (values);
	/* It may begin again. */
	atomic_fetch_and(&cb->flags, (uint16_t)~CB_ENDING);
}

/*
 * The calling created fiber's function has returned. If that is to end the fiber and not its
 * thread, whoever resumed it goes on, or else the thread's root fiber. If neither can, the
 * thread ends, and the fiber with it.
 */
static void end_fiber(void)
{
	struct fiber_cb *cb = thread_cb();

	if (!cb || !(atomic_load(&cb->flags) & CB_RETURNS))
		return;
	destroy_values(cb);
	if (cb->resumer)
		switch_end(cb->resumer);
	switch_end(thread_self()->root_id);
	atomic_fetch_or(&cb->flags, CB_ENDS);
}

/* The calling thread ends on a created fiber, and its root fiber with it. */
static void leave_fiber(void)
{
	const struct engine *engine = engine_current();
	struct fiber_cb *cb = thread_cb();
	struct thread *self = thread_self();
	struct detached detached;

	if (!cb)
		return;		/* done already, or a forked child, where this is only a stack */
	while (engine->retire() == EINTR)
		;
	/* Maybe somebody else has deleted it since. */
	if (!engine->delete(self->root_id, &detached))
		reap(engine, self->root_id, &detached);
	destroy_values(cb);
	observer_switched(thread_fiber(), 0);
	if (otel_travels())
		otel_switched(thread_fiber(), 0);
	/* Destructors still run, on another stack: none of them may switch. */
	self->ending = cb;
	self->current = &thread_nobody;
	sanitizer_end();
}

static void end_thread(void)
{
	const struct engine *engine = engine_current();

	/* EINVAL: on another fiber, which may have been left without unwinding its frames. */
	if (fiber_revert() == EINVAL) {
		thread_exit_leave();
		engine->leave();
	}
}

static const struct thread_exit fiber_exit = {
	.returned = end_fiber, .leave = leave_fiber, .end = end_thread
};

int fiber_convert(unsigned int flags, fiber_id_t *id)
{
	fiber_id_t new;
	int err;

	if (flags & ~FIBER_FPU)
		return EINVAL;
	err = open_engine();
	if (err)
		return err;
	err = thread_exit_watch(THREAD_EXIT_FIBER, &fiber_exit);
	if (err)
		return err;
	exception_attach();
	otel_attach();
	overflow_attach();
	err = engine_current()->convert(flags, &new);
	if (err)
		return err;
	observer_created(new, "");
	observer_switched(0, new);
	if (otel_travels())
		otel_switched(0, new);
	if (id)
		*id = new;
	return 0;
}

int fiber_revert(void)
{
	const struct engine *engine = engine_current();
	fiber_id_t id = thread_fiber();
	struct detached detached;
	int err;

	err = engine ? engine->revert(&detached) : EPERM;
	if (!err) {
		observer_switched(id, 0);
		if (otel_travels())
			otel_switched(id, 0);
		reap(engine, id, &detached);
		overflow_detach();
	}
	return err;
}

/* No structure is ever larger. */
#define SIZE_MAX_STRUCT	4096

/*
 * Whether a structure of the caller's that begins with its size is one that this library
 * can serve; `first` is the size of the first version and `known` of this one.
 */
static int size_check(const void *structure, size_t first, size_t known)
{
	const char *bytes = structure;
	size_t size, i;

	memcpy(&size, structure, sizeof(size));
	if (size < first)
		return EINVAL;
	if (size > SIZE_MAX_STRUCT)
		return E2BIG;
	for (i = known; i < size; i++)
		if (bytes[i])
			return E2BIG;
	return 0;
}

/* The first versions' sizes. */
#define ATTR_FIRST	(offsetof(struct fiber_attr, stack_data) + sizeof(void *))
#define STAT_FIRST	(offsetof(struct fiber_stat, name) + FIBER_NAME_MAX + 1)
#define OBSERVER_FIRST	(offsetof(struct fiber_observer, named) + sizeof(void *))

int fiber_set_observer(const struct fiber_observer *new, const struct fiber_observer **previous)
{
	const struct fiber_observer *before;
	int err;

	if (new) {
		err = size_check(new, OBSERVER_FIRST, sizeof(*new));
		if (err)
			return err;
	}
	before = atomic_exchange(&observer, new);
	fiber_cb_route();
	if (previous)
		*previous = before;
	return 0;
}

static size_t whole_pages(size_t size)
{
	return (size + STACK_PAGE - 1) & ~(STACK_PAGE - 1);
}

/* Takes the stack of the order from the program, if that says so. EINVAL, ENOMEM. */
static int stack_take(struct engine_fiber *order, const struct fiber_attr *attr)
{
	struct stack_return memory = {
		.free = attr->stack_free,
		.data = attr->stack_data,
		.memory = attr->stack,
		.size = attr->stack_size,
	};

	if (attr->stack_alloc) {
		/* So that the ends and what is kept above the stack take nothing of it. */
		memory.size = order->stack_size + STACK_PAGE;
		memory.memory = attr->stack_alloc(memory.size, attr->stack_data);
		if (!memory.memory)
			return ENOMEM;
	}
	if (!memory.memory)
		return 0;
	order->stack = stack_adopt(&memory);
	/* Memory of too small a size stays the caller's. */
	return order->stack.size < STACK_MIN ? EINVAL : 0;
}

int fiber_create(fiber_id_t *id, void (*func)(void *), void *arg, const struct fiber_attr *attr)
{
	static const struct fiber_attr usual = FIBER_ATTR_INIT;
	const struct engine *engine = engine_current();
	struct engine_fiber order;
	struct fiber_attr known;
	int err;

	if (!attr) {
		attr = &usual;
	} else if (attr->size != sizeof(*attr)) {
		err = size_check(attr, ATTR_FIRST, sizeof(*attr));
		if (err)
			return err;
		known = usual;
		memcpy(&known, attr, attr->size < sizeof(known) ? attr->size : sizeof(known));
		attr = &known;
	}
	/* A word each: this is most of a creation. */
	order.entry = func;
	order.arg = arg;
	order.stack_size = attr->stack_size ? attr->stack_size : STACK_DEFAULT;
	order.guard_size = attr->guard_size ? attr->guard_size : GUARD_DEFAULT;
	order.stack.start = NULL;
	order.flags = attr->flags;
	order.name = attr->name ? attr->name : "";
	if (!id || !func || order.stack_size < STACK_MIN || order.guard_size > GUARD_MAX ||
	    (attr->flags & ~(FIBER_FPU | FIBER_RETURNS)) ||
	    (attr->stack && (attr->stack_alloc || attr->stack_size < STACK_MIN)) ||
	    (attr->stack_free && !attr->stack && !attr->stack_alloc) ||
	    (attr->name && strnlen(attr->name, FIBER_NAME_MAX + 1) > FIBER_NAME_MAX))
		return EINVAL;
	if (order.stack_size > STACK_MAX)
		return ENOMEM;
	if (!engine) {
		err = open_engine();
		if (err)
			return err;
		engine = engine_current();
	}
	order.stack_size = whole_pages(order.stack_size);
	order.guard_size = whole_pages(order.guard_size);
	if (!attr->stack && !attr->stack_alloc)
		return engine->create(&order, id);
	err = stack_take(&order, attr);
	if (err)
		return err;
	err = engine->create(&order, id);
	/* Only what was allocated for it is returned. */
	if (err && attr->stack_alloc)
		stack_return(&order.stack);
	return err;
}

/* The calling fiber: no frame of it is unwound, and its thread goes on as if it had returned. */
static int delete_self(struct fiber_cb *cb)
{
	const struct stack stack = fiber_cb_stack(cb);

	if (cb->root_of)
		return EPERM;
	if (thread_self()->ending || (atomic_load(&cb->flags) & CB_ENDING)) {
		/* A destructor of the thread or of a key, which must go on. */
		atomic_fetch_or(&cb->flags, CB_ENDS);
		return 0;
	}
	if (thread_self()->busy)
		return EAGAIN;
	if ((uintptr_t)__builtin_frame_address(0) - (uintptr_t)stack.start >= stack.size)
		return EINVAL;
	atomic_fetch_or(&cb->flags, CB_ENDS);
	sanitizer_unwound();
	switch_leave(stack.start + stack.size);
}

int fiber_delete(fiber_id_t id)
{
	const struct engine *engine = engine_current();
	struct detached detached;
	int err;

	if (id && id == thread_fiber())
		return delete_self(fiber_cb_at(id));
	err = engine ? engine->delete(id, &detached) : ESRCH;
	if (!err)
		reap(engine, id, &detached);
	return err;
}

int fiber_self(fiber_id_t *id)
{
	fiber_id_t self = thread_fiber();

	if (!id)
		return EINVAL;
	if (!self)
		return EPERM;
	*id = self;
	return 0;
}

static void *data_of(const struct fiber_cb *cb)
{
	return atomic_load(&cb->flags) & CB_DATA ? atomic_load(&fiber_extra(cb)->data) : cb->arg;
}

void *fiber_data(void)
{
	struct fiber_cb *cb = thread_cb();

	return cb ? data_of(cb) : NULL;
}

/* Id 0 becomes the calling fiber's. ESRCH, EPERM. */
static int fiber_named(const struct engine *engine, fiber_id_t *id)
{
	if (!*id)
		return fiber_self(id);
	return engine ? 0 : ESRCH;
}

/* *data is exchanged for what the fiber has; both if `set`. ESRCH, EPERM. */
static int data_access(fiber_id_t id, void **data, bool set)
{
	struct fiber_cb *cb = id ? NULL : thread_cb();
	struct lock_state state = { 0 };
	void *before;

	/* The calling fiber stays without the lock. */
	if (!id && !cb)
		return EPERM;
	if (id) {
		lock_take(&state);
		cb = fiber_cb_find(id);
	}
	if (cb) {
		before = data_of(cb);
		if (set) {
			atomic_store(&fiber_extra(cb)->data, *data);
			atomic_fetch_or(&cb->flags, CB_DATA);
		}
		*data = before;
	}
	if (id)
		lock_drop(&state);
	return cb ? 0 : ESRCH;
}

int fiber_set_data(fiber_id_t id, void *data)
{
	return data_access(id, &data, true);
}

int fiber_get_data(fiber_id_t id, void **data)
{
	return data ? data_access(id, data, false) : EINVAL;
}

/* The fiber in that slot or a later one, which *slot then follows; 0: none. With the lock held. */
static fiber_id_t next_fiber(uint32_t *slot)
{
	struct fiber_cb *cb;

	while ((cb = fiber_cb_next(slot))) {
		fiber_id_t id = id_of(cb);

		if (owner_lives(atomic_load(&cb->owner), id))
			return id;
	}
	return 0;
}

int fiber_next(fiber_id_t *id)
{
	struct lock_state state;
	fiber_id_t next;
	uint32_t slot;

	if (!id)
		return EINVAL;
	slot = (*id & OWNER_MASK) + 1;
	lock_take(&state);
	next = next_fiber(&slot);
	lock_drop(&state);
	if (!next)
		return ESRCH;
	*id = next;
	return 0;
}

size_t fiber_count(void)
{
	struct lock_state state;
	uint32_t slot = 1;
	size_t count = 0;

	lock_take(&state);
	while (next_fiber(&slot))
		count++;
	lock_drop(&state);
	return count;
}

int fiber_set_name(fiber_id_t id, const char *name)
{
	const struct engine *engine = engine_current();
	int err;

	if (!name || strnlen(name, FIBER_NAME_MAX + 1) > FIBER_NAME_MAX)
		return EINVAL;
	err = fiber_named(engine, &id);
	if (!err)
		err = engine->set_name(id, name);
	if (!err)
		observer_named(id, name);
	if (!err && otel_travels())
		otel_named(id, name);
	return err;
}

int fiber_get_stat(fiber_id_t id, struct fiber_stat *stat)
{
	const struct engine *engine = engine_current();
	struct fiber_stat known;
	size_t size;
	int err;

	if (!stat)
		return EINVAL;
	err = size_check(stat, STAT_FIRST, sizeof(*stat));
	if (err)
		return err;
	err = fiber_named(engine, &id);
	if (err)
		return err;
	err = engine->get_stat(id, &known);
	if (err)
		return err;
	size = stat->size;
	memcpy(stat, &known, size < sizeof(known) ? size : sizeof(known));
	stat->size = size;
	return 0;
}

int fiber_stack_used(fiber_id_t id, size_t *bytes)
{
	struct lock_state state;
	struct stack stack;
	struct fiber_cb *cb;
	int err;

	if (!bytes)
		return EINVAL;
	err = fiber_named(engine_current(), &id);
	if (err)
		return err;
	lock_take(&state);
	cb = fiber_cb_find(id);
	err = cb ? 0 : ESRCH;
	if (cb) {
		stack = fiber_cb_stack(cb);
		if (cb->root_of || !stack.start)
			err = EINVAL;
		else
			*bytes = stack_used(&stack);
	}
	lock_drop(&state);
	return err;
}

int fiber_fls_alloc(uint64_t *index)
{
	const struct engine *engine = engine_current();

	if (!index)
		return EINVAL;
	return engine ? engine->fls_alloc(index) : EPERM;
}

int fiber_fls_free(uint64_t index)
{
	const struct engine *engine = engine_current();

	return engine ? engine->fls_free(index) : EPERM;
}

int fiber_fls_set(uint64_t index, uint64_t value)
{
	const struct engine *engine = engine_current();

	return engine ? engine->fls_set(index, value) : EPERM;
}

int fiber_fls_get(uint64_t index, uint64_t *value)
{
	const struct engine *engine = engine_current();

	if (!value)
		return EINVAL;
	return engine ? engine->fls_get(index, value) : EPERM;
}
