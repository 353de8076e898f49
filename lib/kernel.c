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

#include "engine.h"
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
	int file = open(FIBER_DEVICE, O_RDWR | O_CLOEXEC);

	if (file < 0)
		return errno == ENOENT || errno == ENXIO ? ENODEV : errno;
	if (switch_ioctl(file, FIBER_IOC_VERSION, 0) != FIBER_ABI_VERSION) {
		close(file);
		return EPROTO;
	}
	device = file;
	return 0;
}

static void kernel_close(void)
{
	close(device);
}

static int kernel_convert(unsigned int flags, fiber_id_t *id)
{
	struct fiber_convert argument = { .flags = flags };
	int err = request_struct(FIBER_IOC_CONVERT, &argument);

	if (!err)
		*id = argument.id;
	return err;
}

static int kernel_revert(void)
{
	return request(FIBER_IOC_REVERT, 0);
}

static int kernel_create(const struct engine_fiber *order, fiber_id_t *id)
{
	struct fiber_create argument = {
		.entry = order->entry,
		.arg = order->arg,
		.stack_start = order->stack_start,
		.stack_size = order->stack_size,
		.flags = order->flags,
	};
	int err;

	strncpy(argument.name, order->name, sizeof(argument.name) - 1);
	err = request_struct(FIBER_IOC_CREATE, &argument);
	if (!err)
		*id = argument.id;
	return err;
}

static int kernel_delete(fiber_id_t id)
{
	return request(FIBER_IOC_DELETE, id);
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

static int kernel_switch_to(fiber_id_t id)
{
	return request(FIBER_IOC_SWITCH, id);
}

static int kernel_self(fiber_id_t *id)
{
	return request_struct(FIBER_IOC_SELF, id);
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
	.retire = kernel_retire,
	.set_name = kernel_set_name,
	.get_stat = kernel_get_stat,
	.switch_to = kernel_switch_to,
	.self = kernel_self,
	.fls_alloc = kernel_fls_alloc,
	.fls_free = kernel_fls_free,
	.fls_set = kernel_fls_set,
	.fls_get = kernel_fls_get,
};
