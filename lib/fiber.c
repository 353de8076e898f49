/* SPDX-License-Identifier: MIT */
/*
 * The API: checks its arguments, and keeps engine, records and stacks in step.
 *
 * Lock order: the library's lock (lock.h) is outermost and alone. No callback
 * of the user runs under it.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "end.h"
#include "engine.h"
#include "exception.h"
#include "fls.h"
#include "lock.h"
#include "stack.h"
#include "switch.h"
#include "table.h"

/* The state of the lock over a fork(), from prepare to parent and child. Under the lock itself. */
static struct lock_state fork_state;

static void fork_prepare(void)
{
	struct lock_state state;

	lock_take(&state);
	fork_state = state;
}

static void fork_parent(void)
{
	struct lock_state state = fork_state;

	lock_drop(&state);
}

/*
 * With some engines the child has no fibers: they belong to the parent. The
 * stacks stay mapped, because this very function may run on one of them and
 * others hold data.
 */
static void fork_child(void)
{
	struct lock_state state = fork_state;
	struct record *record;
	struct values *values;
	struct stack stack;
	bool kept = engine_fork();
	size_t slot = 0;

	while (!kept && (record = table_next(&slot))) {
		table_remove(record, &stack, &values);
		values_free(values);
	}
	lock_drop(&state);
}

static int fork_error;

static void fork_watch(void)
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
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct lock_state state;
	int err;

	/* Without the lock: fork() holds its own list's lock when it takes ours. */
	pthread_once(&once, fork_watch);
	if (fork_error)
		return fork_error;
	lock_take(&state);
	err = engine_open();
	lock_drop(&state);
	return err;
}

const char *fiber_engine(void)
{
	return open_engine() ? NULL : engine_current()->name;
}

/* With the lock held. */
static int convert_thread(unsigned int flags, fiber_id_t *id)
{
	int err;

	err = end_watch();
	if (err)
		return err;
	err = engine_current()->convert(flags, id);
	if (err)
		return err;
	err = table_insert(*id, NULL, NULL);
	if (err)
		engine_current()->revert();
	return err;
}

int fiber_convert(unsigned int flags, fiber_id_t *id)
{
	struct lock_state state;
	fiber_id_t new;
	int err;

	if (flags & ~FIBER_FPU)
		return EINVAL;
	err = open_engine();
	if (err)
		return err;
	exception_attach();
	lock_take(&state);
	err = convert_thread(flags, &new);
	lock_drop(&state);
	if (!err && id)
		*id = new;
	return err;
}

int fiber_revert(void)
{
	const struct engine *engine = engine_current();
	struct values *values = NULL;
	struct lock_state state;
	struct record *record;
	struct stack stack;
	fiber_id_t id;
	int err;

	if (!engine)
		return EPERM;
	lock_take(&state);
	err = engine->self(&id);
	if (!err)
		err = engine->revert();
	if (!err) {
		record = table_find(id);
		if (record)
			table_remove(record, &stack, &values);
		values_close(values);
	}
	lock_drop(&state);
	values_destroy(values);
	return err;
}

/* The order is complete but for the stack. */
static int create_on(const struct stack *stack, struct engine_fiber *order, fiber_id_t *id)
{
	const struct engine *engine = engine_current();
	struct lock_state state;
	uintptr_t top;
	int err;

	order->stack_start = (uintptr_t)stack->start;
	order->stack_size = stack->size;
	top = order->stack_start + order->stack_size;	/* 64-byte aligned: stack.h */
	*(uintptr_t *)(top - sizeof(uintptr_t)) = SWITCH_RETURN;
	/*
	 * Without the lock, since the fiber gets this thread's signal mask. If it
	 * also gets the slot of a fiber that is just being deleted, the insertion
	 * waits until the former record is gone. Until then fiber_switch() lets
	 * nobody in.
	 */
	err = engine->create(order, id);
	if (err)
		return err;
	lock_take(&state);
	err = table_insert(*id, (void *)order->arg, stack);
	if (err)
		engine->delete(*id);
	lock_drop(&state);
	return err;
}

int fiber_create(fiber_id_t *id, void (*func)(void *), void *arg, const struct fiber_attr *attr)
{
	static const struct fiber_attr defaults;
	struct engine_fiber order = {
		.entry = (uintptr_t)func,
		.arg = (uintptr_t)arg,
		.name = "",
	};
	struct lock_state state;
	struct stack stack;
	size_t stack_size;
	fiber_id_t new;
	int err;

	if (!attr)
		attr = &defaults;
	stack_size = attr->stack_size ? attr->stack_size : STACK_DEFAULT;
	order.flags = attr->flags;
	if (attr->name)
		order.name = attr->name;
	if (!id || !func || stack_size < STACK_MIN || (attr->flags & ~FIBER_FPU) ||
	    strnlen(order.name, FIBER_NAME_MAX + 1) > FIBER_NAME_MAX)
		return EINVAL;
	if (!engine_current())
		return EPERM;
	lock_take(&state);
	err = stack_alloc(&stack, stack_size);
	lock_drop(&state);
	if (err)
		return err;
	err = create_on(&stack, &order, &new);
	if (!err) {
		*id = new;
		return 0;
	}
	lock_take(&state);
	stack_free(&stack);
	lock_drop(&state);
	return err;
}

int fiber_switch(fiber_id_t id)
{
	const struct engine *engine = engine_current();
	struct exception_state state;
	int err;

	if (!engine)
		return EPERM;
	/*
	 * A fiber without a record is still being created, or is none of this
	 * library's: 0 never exists, so the engine says what is wrong.
	 */
	if (!table_find(id))
		id = 0;
	state = exception_leave();
	err = engine->switch_to(id);
	exception_enter(state);
	return err;
}

int fiber_delete(fiber_id_t id)
{
	const struct engine *engine = engine_current();
	struct values *values = NULL;
	struct stack stack = { 0 };
	struct lock_state state;
	struct record *record;
	int err;

	if (!engine)
		return ESRCH;
	lock_take(&state);
	record = table_find(id);
	err = record ? engine->delete(id) : ESRCH;
	if (!err) {
		table_remove(record, &stack, &values);
		values_close(values);
	}
	lock_drop(&state);
	if (err)
		return err;
	/* The stack last: values may point into it. */
	values_destroy(values);
	lock_take(&state);
	stack_free(&stack);
	lock_drop(&state);
	return 0;
}

int fiber_self(fiber_id_t *id)
{
	const struct engine *engine = engine_current();

	if (!id)
		return EINVAL;
	return engine ? engine->self(id) : EPERM;
}

void *fiber_data(void)
{
	struct record *record;
	fiber_id_t id;

	if (fiber_self(&id))
		return NULL;
	record = table_find(id);
	return record ? record->arg : NULL;
}

int fiber_set_name(fiber_id_t id, const char *name)
{
	const struct engine *engine = engine_current();

	if (!name || strnlen(name, FIBER_NAME_MAX + 1) > FIBER_NAME_MAX)
		return EINVAL;
	if (!engine)
		return id ? ESRCH : EPERM;
	return engine->set_name(id, name);
}

int fiber_get_stat(fiber_id_t id, struct fiber_stat *stat)
{
	const struct engine *engine = engine_current();
	int err;

	if (!stat)
		return EINVAL;
	if (!engine)
		return id ? ESRCH : EPERM;
	if (!id) {
		err = engine->self(&id);
		if (err)
			return err;
	}
	return engine->get_stat(id, stat);
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
