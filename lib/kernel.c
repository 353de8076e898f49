/* SPDX-License-Identifier: MIT */
/*
 * Engine `kernel`: the module knows the fibers and switches them. Each function
 * is one request on this process's own descriptor of /dev/fiber.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "checker.h"
#include "fiber_cb.h"
#include "device.h"
#include "engine.h"
#include "key.h"
#include "lock.h"
#include "observer.h"
#include "stack.h"
#include "switch.h"
#include "thread.h"
#include "uapi/fiber.h"

_Static_assert(FIBER_FPU == FIBER_FLAG_FPU, "flags go through as they are");
_Static_assert(FIBER_NAME_MAX + 1 == FIBER_NAME_SIZE, "names go through whole");
_Static_assert(FIBER_STATE_NEW == FIBER_NEW && FIBER_STATE_RUNNING == FIBER_RUNNING &&
	       FIBER_STATE_SUSPENDED == FIBER_SUSPENDED && FIBER_STATE_FINISHED == FIBER_FINISHED,
	       "states go through as they are");

/*
 * Created fibers that have ended with their threads. The module has them running until their
 * threads are gone, so they are deleted later. Linked by `sp`; under the lock.
 */
static struct fiber_cb *ended;

static int request_struct(unsigned long number, const void *argument)
{
	return device_request(number, (uintptr_t)argument);
}

static int kernel_open(void)
{
	int err = fiber_cb_init();

	/* The module would switch Valgrind's own registers. */
	if (!err && checker_valgrind)
		err = ENODEV;
	return err ? err : device_open();
}

/* In a forked child, whose only thread is no fiber any more. */
static void kernel_close(void)
{
	device_close();
	thread_self()->current_id = 0;
	ended = NULL;
}

/* Ids and control words appear and go as one, with the lock held. */
static void fiber_cb_publish(fiber_id_t id, const struct stack *stack)
{
	struct fiber_cb *cb = fiber_cb_at(id);

	cb->root_of = !stack;
	fiber_cb_set_stack(cb, stack);
	atomic_store_explicit(&cb->owner, GENERATION(id) | OWNER_FREE, memory_order_release);
	fiber_cb_used(fiber_cb_slot(cb) + 1);
}

static void fiber_cb_end(struct fiber_cb *cb, struct detached *detached)
{
	*detached = (struct detached) {
		.values = atomic_exchange(&fiber_extra(cb)->values, NULL),
		.stack = fiber_cb_stack(cb),
	};
	atomic_store_explicit(&cb->owner, OWNER_NONE, memory_order_relaxed);
	values_close(detached->values);
}

static void kernel_free(const struct detached *detached)
{
	struct lock_state state;

	if (!detached->stack.start)
		return;
	if (stack_is_own(&detached->stack)) {
		stack_return(&detached->stack);
		return;
	}
	lock_take(&state);
	stack_free(&detached->stack);
	lock_drop(&state);
}

static void kernel_leave(void)
{
	struct thread *self = thread_self();
	struct fiber_cb *cb = self->ending;
	struct lock_state state;

	if (cb && (atomic_load(&cb->flags) & CB_ENDS)) {
		lock_take(&state);
		own(cb, OWNER_DELETED);
		cb->sp = ended;
		ended = cb;
		lock_drop(&state);
	}
	self->ending = NULL;
	self->current_id = 0;
}

/* Deletes a fiber that has ended. EBUSY: its thread is not gone, or another one has resumed it. */
static int delete_ended(fiber_id_t id)
{
	struct detached detached;
	struct lock_state state;
	int err;

	lock_take(&state);
	err = device_request(FIBER_IOC_DELETE, id);
	if (!err)
		fiber_cb_end(fiber_cb_at(id), &detached);
	lock_drop(&state);
	if (!err) {
		observer_ended(id);
		kernel_free(&detached);
	}
	return err;
}

/* One that was resumed all the same ends once more. */
static void kernel_left(fiber_id_t id)
{
	delete_ended(id);
}

static void sweep_ended(void)
{
	struct lock_state state;
	struct fiber_cb *cb, *next;

	lock_take(&state);
	cb = ended;
	ended = NULL;
	lock_drop(&state);
	for (; cb; cb = next) {
		next = cb->sp;
		if (!delete_ended(id_of(cb)))
			continue;
		lock_take(&state);
		cb->sp = ended;
		ended = cb;
		lock_drop(&state);
	}
}

static int kernel_convert(unsigned int flags, fiber_id_t *id)
{
	struct fiber_convert argument = { .size = sizeof(argument), .flags = flags };
	struct lock_state state;
	int err;

	sweep_ended();
	lock_take(&state);
	err = request_struct(FIBER_IOC_CONVERT, &argument);
	if (!err) {
		err = fiber_cb_reserve(argument.id & OWNER_MASK);
		if (err)
			device_request(FIBER_IOC_REVERT, 0);
	}
	if (!err) {
		fiber_cb_begin(fiber_cb_at(argument.id), NULL, NULL, 0);
		fiber_cb_publish(argument.id, NULL);
		*id = argument.id;
		thread_self()->current_id = thread_self()->root_id = *id;
	}
	lock_drop(&state);
	return err;
}

static int kernel_revert(struct detached *detached)
{
	fiber_id_t id = thread_fiber();
	struct lock_state state;
	int err;

	if (!id)
		return EPERM;
	lock_take(&state);
	err = device_request(FIBER_IOC_REVERT, 0);
	if (!err) {
		fiber_cb_end(fiber_cb_at(id), detached);
		thread_self()->current_id = 0;
	}
	lock_drop(&state);
	return err;
}

/* The module creates for fibers only, so a thread that is none is one meanwhile. */
static int request_create(struct fiber_create *argument)
{
	struct fiber_convert convert = { .size = sizeof(convert) };
	bool converts = !thread_fiber();
	int err = converts ? request_struct(FIBER_IOC_CONVERT, &convert) : 0;

	if (err)
		return err;
	err = request_struct(FIBER_IOC_CREATE, argument);
	if (converts)
		device_request(FIBER_IOC_REVERT, 0);
	return err;
}

static int kernel_create(const struct engine_fiber *order, fiber_id_t *id)
{
	struct fiber_create argument = {
		.size = sizeof(argument),
		.entry = (uintptr_t)order->entry,
		.start = (uintptr_t)switch_begin_kernel,
		.flags = order->flags & FIBER_FPU,
	};
	struct lock_state state;
	struct stack stack;
	int err = 0;

	strncpy(argument.name, order->name, sizeof(argument.name) - 1);
	sweep_ended();
	lock_take(&state);
	stack = order->stack;
	if (!stack.start)
		err = stack_alloc(&stack, order->stack_size, order->guard_size);
	if (err)
		goto unlock;
	argument.stack_start = (uintptr_t)stack.start;
	argument.stack_size = stack.size;
	/* 64-byte aligned: stack.h. */
	((uintptr_t *)(stack.start + stack.size))[-1] = SWITCH_RETURN;
	err = request_create(&argument);
	if (!err) {
		err = fiber_cb_reserve(argument.id & OWNER_MASK);
		if (err)
			device_request(FIBER_IOC_DELETE, argument.id);
	}
	if (err) {
		if (!order->stack.start)
			stack_free(&stack);
		goto unlock;
	}
	observer_created(argument.id, order->name);
	/* Until now kernel_switch_to() let nobody in. */
	fiber_cb_begin(fiber_cb_at(argument.id), order->entry, order->arg,
		       order->flags);
	fiber_cb_publish(argument.id, &stack);
	*id = argument.id;
unlock:
	lock_drop(&state);
	return err;
}

static int kernel_delete(fiber_id_t id, struct detached *detached)
{
	struct fiber_cb *cb;
	struct lock_state state;
	int err = ESRCH;

	lock_take(&state);
	cb = fiber_cb_find(id);
	if (cb)
		err = device_request(FIBER_IOC_DELETE, id);
	if (!err)
		fiber_cb_end(cb, detached);
	lock_drop(&state);
	return err;
}

static int kernel_retire(void)
{
	return device_request(FIBER_IOC_RETIRE, 0);
}

static int kernel_set_name(fiber_id_t id, const char *name)
{
	struct fiber_name argument = { .size = sizeof(argument), .id = id };

	strncpy(argument.name, name, sizeof(argument.name) - 1);
	return request_struct(FIBER_IOC_SET_NAME, &argument);
}

static int kernel_get_stat(fiber_id_t id, struct fiber_stat *stat)
{
	struct fiber_snapshot snapshot = { .size = sizeof(snapshot), .id = id };
	int err = request_struct(FIBER_IOC_STAT, &snapshot);

	if (err)
		return err;
	*stat = (struct fiber_stat) {
		.id = snapshot.id,
		.state = (enum fiber_state)snapshot.state,
		.thread = snapshot.thread,
		.activations = snapshot.activations,
		.failed_activations = snapshot.failed,
		.cpu_time = snapshot.cpu_time,
		.run_time = FIBER_TIME_UNKNOWN,
		.longest_run = snapshot.longest_run,
		.stack_start = snapshot.stack_start,
		.stack_size = snapshot.stack_size,
	};
	memcpy(stat->name, snapshot.name, sizeof(stat->name));
	return 0;
}

/* A signal handler may use it. */
static void kernel_get_name(fiber_id_t id, char *name)
{
	struct fiber_snapshot snapshot = { .size = sizeof(snapshot), .id = id };

	if (!request_struct(FIBER_IOC_STAT, &snapshot))
		memcpy(name, snapshot.name, sizeof(snapshot.name));
}

/*
 * The thread is busy from before the request to switch_arrived(), on the fiber that is
 * resumed, so that no handler switches in between.
 */
static int kernel_switch_to(fiber_id_t id, void *value, unsigned int kind)
{
	struct thread *self = thread_self();
	struct fiber_cb *cb = fiber_cb_at(self->current_id);
	void *otel = otel_travels() ? otel_leave() : NULL;
	int err;

	self->next_id = id;
	self->next_value = value;
	self->next_kind = kind;
	/* From now on nobody resumes it, but who has already seen it. */
	if (kind & SWITCH_ENDS)
		own(cb, OWNER_DELETED);
	/* One that is still being made, or none of this library's: 0 never exists. */
	err = device_request(FIBER_IOC_SWITCH, fiber_cb_find(id) ? id : 0);
	if (!err) {
		cb = switch_arrived(otel);
		if (cb->unwinds && !cb->detoured)
			unwind_here();
		return 0;
	}
	if (kind & SWITCH_ENDS)
		own(cb, OWNER_FREE);
	thread_idle(0);
	return err;
}

static int kernel_fls_alloc(uint64_t *index)
{
	return request_struct(FIBER_IOC_FLS_ALLOC, index);
}

static int kernel_fls_free(uint64_t index)
{
	return device_request(FIBER_IOC_FLS_FREE, index);
}

static int kernel_fls_set(uint64_t index, uint64_t value)
{
	struct fiber_fls argument = { sizeof(argument), 0, index, value };

	return request_struct(FIBER_IOC_FLS_SET, &argument);
}

static int kernel_fls_get(uint64_t index, uint64_t *value)
{
	struct fiber_fls argument = { .size = sizeof(argument), .index = index };
	int err = request_struct(FIBER_IOC_FLS_GET, &argument);

	if (!err)
		*value = argument.value;
	return err;
}

const struct engine engine_kernel = {
	.name = "kernel",
	.open = kernel_open,
	.close = kernel_close,
	.convert = kernel_convert,
	.revert = kernel_revert,
	.create = kernel_create,
	.delete = kernel_delete,
	.free = kernel_free,
	.retire = kernel_retire,
	.set_name = kernel_set_name,
	.get_stat = kernel_get_stat,
	.get_name = kernel_get_name,
	.switch_to = kernel_switch_to,
	.left = kernel_left,
	.leave = kernel_leave,
	.fls_alloc = kernel_fls_alloc,
	.fls_free = kernel_fls_free,
	.fls_set = kernel_fls_set,
	.fls_get = kernel_fls_get,
};
