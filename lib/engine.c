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

/* What "auto" tries, in this order. */
static const struct engine *const engines[] = {
	&engine_mapped, &engine_local, &engine_kernel,
};

#define ENGINES (sizeof(engines) / sizeof(engines[0]))

/* "auto", for which `open` tries them all. */
static const struct engine engine_auto = { .name = "auto" };

static const struct engine *engine_find(const char *name)
{
	size_t i;

	if (!strcmp(name, engine_auto.name))
		return &engine_auto;
	for (i = 0; i < ENGINES; i++)
		if (!strcmp(name, engines[i]->name))
			return engines[i];
	return NULL;
}

/* The chosen engine, or the first that works, when it is open. */
static int open_chosen(void)
{
	size_t i;
	int err = 0;

	if (chosen != &engine_auto)
		return chosen->open();
	for (i = 0; i < ENGINES; i++) {
		err = engines[i]->open();
		if (!err) {
			chosen = engines[i];
			break;
		}
	}
	return err;
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
	err = open_chosen();
	if (!err)
		atomic_store_explicit(&current, chosen, memory_order_release);
	return err;
}

void engine_fork_prepare(void)
{
	const struct engine *engine = engine_current();

	if (engine && engine->prepare)
		engine->prepare();
}

void engine_fork_parent(void)
{
	const struct engine *engine = engine_current();

	if (engine && engine->parent)
		engine->parent();
}

bool engine_fork_child(void)
{
	const struct engine *engine = engine_current(), *kept = NULL;

	if (!engine)
		return false;
	if (engine->keep)
		kept = engine->keep();
	else
		engine->close();
	atomic_store_explicit(&current, kept, memory_order_release);
	return kept;
}
