/* SPDX-License-Identifier: MIT */
#include <fiber.h>
#include <string.h>

#include "backend.h"

static struct backend libfiber;

static int convert(uint64_t *id)
{
	return fiber_convert(0, id);
}

static int create(uint64_t *id, void (*func)(void *), void *arg, const char *name,
		  size_t stack_size)
{
	struct fiber_attr attr = { .size = sizeof(attr), .stack_size = stack_size, .name = name };

	return fiber_create(id, func, arg, &attr);
}

static struct backend libfiber = {
	.convert = convert,
	.create = create,
	.switch_to = fiber_switch,
	.self = fiber_self,
	.fls_alloc = fiber_fls_alloc,
	.fls_set = fiber_fls_set,
	.fls_get = fiber_fls_get,
};

static bool swapcontext_chosen;

bool backend_choose(const char *name)
{
	swapcontext_chosen = !strcmp(name, "swapcontext");
	return swapcontext_chosen || !fiber_set_engine(name);
}

const struct backend *backend_open(void)
{
	if (swapcontext_chosen)
		return &backend_ucontext;
	/* NULL where it cannot be had; convert() says why. */
	libfiber.name = fiber_engine() ? fiber_engine() : "none";
	libfiber.masks_travel = !strcmp(libfiber.name, "kernel");
	return &libfiber;
}
