/* SPDX-License-Identifier: MIT */
/*
 * Engine `kernel`: the module knows the fibers and switches them. Each function
 * is one request on this process's own descriptor of /dev/fiber.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
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
	struct fiber_convert argument = { .flags = flags };
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
	struct fiber_name argument = { .id = id };

	strncpy(argument.name, name, sizeof(argument.name) - 1);
	return request_struct(FIBER_IOC_SET_NAME, &argument);
}

/* Opens /proc/PID/fiber/ID, or /proc/fiber/PID where the module uses that, at the fiber's block. */
static FILE *stat_open(fiber_id_t id)
{
	char path[64], line[FIBER_NAME_SIZE * 4 + 64], head[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fiber/%llu", (unsigned long long)id);
	file = fopen(path, "re");
	if (file)
		return file;
	snprintf(path, sizeof(path), "/proc/fiber/%d", getpid());
	file = fopen(path, "re");
	if (!file)
		return NULL;
	snprintf(head, sizeof(head), "Fiber: %llu\n", (unsigned long long)id);
	while (fgets(line, sizeof(line), file))
		if (!strcmp(line, head))
			return file;
	fclose(file);
	return NULL;
}

/* A name as /proc writes it: `\ooo` for what would disturb. */
static void unescape(char *name, const char *text)
{
	size_t length = 0;

	while (*text && length < FIBER_NAME_MAX) {
		if (text[0] == '\\' && text[1] && text[2] && text[3]) {
			name[length++] = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 |
						(text[3] - '0'));
			text += 4;
		} else {
			name[length++] = *text++;
		}
	}
	name[length] = '\0';
}

static void stat_line(struct fiber_stat *stat, const char *key, const char *value)
{
	static const char *const states[] = { "new", "running", "suspended", "finished" };
	uint64_t number = strtoull(value, NULL, 0);
	unsigned int i;

	if (!strcmp(key, "Number of activations"))
		stat->activations = number;
	else if (!strcmp(key, "Number of failed activations"))
		stat->failed_activations = number;
	else if (!strcmp(key, "Name"))
		unescape(stat->name, value);
	else if (!strcmp(key, "Thread id"))
		stat->thread = (uint32_t)number;
	else if (!strcmp(key, "CPU time ns"))
		stat->cpu_time = number;
	else if (!strcmp(key, "Longest run ns"))
		stat->longest_run = number;
	else if (!strcmp(key, "Stack start"))
		stat->stack_start = number;
	else if (!strcmp(key, "Stack size"))
		stat->stack_size = number;
	else if (!strcmp(key, "State"))
		for (i = 0; i < 4; i++)
			if (!strcmp(value, states[i]))
				stat->state = (enum fiber_state)i;
}

static int kernel_get_stat(fiber_id_t id, struct fiber_stat *stat)
{
	char line[FIBER_NAME_SIZE * 4 + 64];
	int saved_errno = errno, err = ESRCH;
	FILE *file = stat_open(id);

	while (file && fgets(line, sizeof(line), file) && *line != '\n') {
		char *value = strstr(line, ": ");

		if (err) {
			*stat = (struct fiber_stat) { .id = id, .run_time = FIBER_TIME_UNKNOWN };
			err = 0;
		}
		line[strcspn(line, "\n")] = '\0';
		if (!value)
			continue;
		*value = '\0';
		stat_line(stat, line, value + 2);
	}
	if (file)
		fclose(file);
	errno = saved_errno;
	return err;
}

/* Without stdio, which a signal handler may not use. */
static void kernel_get_name(fiber_id_t id, char *name)
{
	static const char key[] = "\nName: ";
	char path[64] = "/proc/self/fiber/", digits[24], text[1024], *start, *end;
	size_t digit = sizeof(digits) - 1;
	ssize_t length;
	int file;

	digits[digit] = '\0';
	do
		digits[--digit] = (char)('0' + id % 10);
	while (id /= 10);
	strcat(path, digits + digit);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return;
	length = read(file, text, sizeof(text) - 1);
	close(file);
	if (length <= 0)
		return;
	text[length] = '\0';
	start = strstr(text, key);
	end = start ? strchr(start + 1, '\n') : NULL;
	if (!end)
		return;
	*end = '\0';
	unescape(name, start + strlen(key));
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
	struct fiber_fls argument = { .index = index, .value = value };

	return request_struct(FIBER_IOC_FLS_SET, &argument);
}

static int kernel_fls_get(uint64_t index, uint64_t *value)
{
	struct fiber_fls argument = { .index = index };
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
