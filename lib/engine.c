/* SPDX-License-Identifier: MIT */
/*
 * Which engine this process uses. Chosen once: a set_engine call, else the
 * environment, else "auto"; fixed by the first attempt to open it.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/* Under the lock. NULL: none was asked for by engine_choose(). */
static const struct engine *chosen;
static bool fixed;

/* Written under the lock, read by all. */
static const struct engine *_Atomic current;

static const struct engine *engine_find(const char *name)
{
	if (!strcmp(name, "auto") || !strcmp(name, engine_kernel.name))
		return &engine_kernel;
	return NULL;
}

const struct engine *engine_current(void)
{
	return atomic_load_explicit(&current, memory_order_acquire);
}

int engine_choose(const char *name)
{
	const struct engine *engine;

	if (fixed)
		return EBUSY;
	engine = name ? engine_find(name) : NULL;
	if (!engine)
		return EINVAL;
	chosen = engine;
	return 0;
}

int engine_open(void)
{
	const char *name;
	int err;

	if (engine_current())
		return 0;
	fixed = true;
	if (!chosen) {
		name = getenv("KFIBER_ENGINE");
		chosen = engine_find(name && *name ? name : "auto");
		if (!chosen)
			return EINVAL;
	}
	err = chosen->open();
	if (!err)
		atomic_store_explicit(&current, chosen, memory_order_release);
	return err;
}

void engine_close(void)
{
	const struct engine *engine = engine_current();

	if (!engine)
		return;
	atomic_store_explicit(&current, NULL, memory_order_release);
	engine->close();
}
