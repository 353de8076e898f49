/* SPDX-License-Identifier: MIT */
/*
 * Engine `kernel`: the module knows the fibers and switches them. Each function
 * is one request on this process's own descriptor of /dev/fiber.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "device.h"
#include "engine.h"
#include "fls.h"
#include "lock.h"
#include "stack.h"
#include "switch.h"
#include "uapi/fiber.h"

_Static_assert(FIBER_FPU == FIBER_FLAG_FPU, "flags go through as they are");
_Static_assert(FIBER_NAME_MAX + 1 == FIBER_NAME_SIZE, "names go through whole");
_Static_assert(FIBER_STATE_NEW == FIBER_NEW && FIBER_STATE_RUNNING == FIBER_RUNNING &&
	       FIBER_STATE_SUSPENDED == FIBER_SUSPENDED && FIBER_STATE_FINISHED == FIBER_FINISHED,
	       "states go through as they are");

/*
 * Valid from open() to close(). Plain: engine_current() publishes what open()
 * stored, and close() runs while the process has one thread.
 */
static int device;

static int request(unsigned long number, uintptr_t argument)
{
	return (int)-switch_ioctl(device, number, argument);
}

static int request_struct(unsigned long number, const void *argument)
{
	return request(number, (uintptr_t)argument);
}

static int kernel_open(void)
{
	int err = control_init();

	return err ? err : device_open(&device);
}

static void kernel_close(void)
{
	close(device);
}

/* Ids and control words appear and go as one, with the lock held. */
static void control_begin(fiber_id_t id, void *arg, const struct stack *stack)
{
	struct control *control = control_at(id);

	control->arg = arg;
	control_set_stack(control, stack);
	atomic_store_explicit(&control->owner, GENERATION(id) | OWNER_FREE, memory_order_release);
	control_used(control_slot(control) + 1);
}

static void control_end(struct control *control, struct remains *remains)
{
	*remains = (struct remains) {
		.values = atomic_exchange(&control->values, NULL),
		.stack = control_stack(control),
	};
	atomic_store_explicit(&control->owner, OWNER_NONE, memory_order_relaxed);
	values_close(remains->values);
}

static int kernel_convert(unsigned int flags, fiber_id_t *id)
{
	struct fiber_convert argument = { .size = sizeof(argument), .flags = flags };
	struct lock_state state;
	int err;

	lock_take(&state);
	err = request_struct(FIBER_IOC_CONVERT, &argument);
	if (!err) {
		control_begin(argument.id, NULL, NULL);
		*id = argument.id;
	}
	lock_drop(&state);
	return err;
}

static int kernel_self(fiber_id_t *id)
{
	return request_struct(FIBER_IOC_SELF, id);
}

static int kernel_revert(struct remains *remains)
{
	struct lock_state state;
	fiber_id_t id;
	int err;

	lock_take(&state);
	err = kernel_self(&id);
	if (!err)
		err = request(FIBER_IOC_REVERT, 0);
	if (!err)
		control_end(control_at(id), remains);
	lock_drop(&state);
	return err;
}

static int kernel_create(const struct engine_fiber *order, fiber_id_t *id)
{
	struct fiber_create argument = {
		.size = sizeof(argument),
		.entry = (uintptr_t)order->entry,
		.arg = (uintptr_t)order->arg,
		.flags = order->flags,
	};
	struct lock_state state;
	struct stack stack;
	int err;

	strncpy(argument.name, order->name, sizeof(argument.name) - 1);
	lock_take(&state);
	err = stack_alloc(&stack, order->stack_size);
	if (err)
		goto unlock;
	argument.stack_start = (uintptr_t)stack.start;
	argument.stack_size = stack.size;
	/* 64-byte aligned: stack.h. */
	((uintptr_t *)(stack.start + stack.size))[-1] = SWITCH_RETURN;
	err = request_struct(FIBER_IOC_CREATE, &argument);
	if (err) {
		stack_free(&stack);
		goto unlock;
	}
	/* Until now kernel_switch_to() let nobody in. */
	control_begin(argument.id, order->arg, &stack);
	*id = argument.id;
unlock:
	lock_drop(&state);
	return err;
}

static int kernel_delete(fiber_id_t id, struct remains *remains)
{
	struct control *control;
	struct lock_state state;
	int err = ESRCH;

	lock_take(&state);
	control = control_find(id);
	if (control)
		err = request(FIBER_IOC_DELETE, id);
	if (!err)
		control_end(control, remains);
	lock_drop(&state);
	return err;
}

static void kernel_free(const struct remains *remains)
{
	struct lock_state state;

	if (!remains->stack.start)
		return;
	lock_take(&state);
	stack_free(&remains->stack);
	lock_drop(&state);
}

static int kernel_retire(void)
{
	return request(FIBER_IOC_RETIRE, 0);
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

static int kernel_switch_to(fiber_id_t id)
{
	/* One that is still being made, or none of this library's: 0 never exists. */
	return request(FIBER_IOC_SWITCH, control_find(id) ? id : 0);
}

static int kernel_fls_alloc(uint64_t *index)
{
	return request_struct(FIBER_IOC_FLS_ALLOC, index);
}

static int kernel_fls_free(uint64_t index)
{
	return request(FIBER_IOC_FLS_FREE, index);
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
	.self = kernel_self,
	.fls_alloc = kernel_fls_alloc,
	.fls_free = kernel_fls_free,
	.fls_set = kernel_fls_set,
	.fls_get = kernel_fls_get,
};
