/* SPDX-License-Identifier: MIT */
/*
 * The API: checks its arguments, and asks the engine. fiber_switch() is in
 * switch_x86_64.S.
 *
 * Lock order: the library's lock (lock.h) is outermost and alone. No callback
 * of the user runs under it.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "control.h"
#include "end.h"
#include "engine.h"
#include "exception.h"
#include "fls.h"
#include "lock.h"
#include "overflow.h"
#include "stack.h"
#include "thread.h"

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
	struct control *control;
	bool kept = engine_fork_child();
	uint32_t slot = 1;

	while (!kept && (control = control_next(&slot))) {
		values_free(atomic_exchange(&control->values, NULL));
		atomic_store(&control->owner, OWNER_NONE);
	}
	fork_end();
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

int fiber_convert(unsigned int flags, fiber_id_t *id)
{
	fiber_id_t new;
	int err;

	if (flags & ~FIBER_FPU)
		return EINVAL;
	err = open_engine();
	if (err)
		return err;
	err = end_watch();
	if (err)
		return err;
	exception_attach();
	overflow_attach();
	err = engine_current()->convert(flags, &new);
	if (!err && id)
		*id = new;
	return err;
}

/* What engine->delete() or revert() took away. The stack last: values may point into it. */
static void bury(const struct engine *engine, const struct remains *remains)
{
	values_destroy(remains->values);
	engine->free(remains);
}

int fiber_revert(void)
{
	const struct engine *engine = engine_current();
	struct remains remains;
	int err;

	err = engine ? engine->revert(&remains) : EPERM;
	if (!err) {
		bury(engine, &remains);
		overflow_detach();
	}
	return err;
}

int fiber_create(fiber_id_t *id, void (*func)(void *), void *arg, const struct fiber_attr *attr)
{
	static const struct fiber_attr defaults;
	const struct engine *engine = engine_current();
	struct engine_fiber order = { .entry = func, .arg = arg, .name = "" };

	if (!attr)
		attr = &defaults;
	order.stack_size = attr->stack_size ? attr->stack_size : STACK_DEFAULT;
	order.flags = attr->flags;
	if (attr->name)
		order.name = attr->name;
	if (!id || !func || order.stack_size < STACK_MIN || (attr->flags & ~FIBER_FPU) ||
	    strnlen(order.name, FIBER_NAME_MAX + 1) > FIBER_NAME_MAX)
		return EINVAL;
	if (!engine)
		return EPERM;
	if (order.stack_size > STACK_MAX)
		return ENOMEM;
	order.stack_size = (order.stack_size + STACK_PAGE - 1) & ~(size_t)(STACK_PAGE - 1);
	return engine->create(&order, id);
}

int fiber_delete(fiber_id_t id)
{
	const struct engine *engine = engine_current();
	struct remains remains;
	int err;

	err = engine ? engine->delete(id, &remains) : ESRCH;
	if (!err)
		bury(engine, &remains);
	return err;
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
	fiber_id_t id;

	return fiber_self(&id) ? NULL : control_at(id)->arg;
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
