/* SPDX-License-Identifier: MIT */
/*
 * Which engine this process uses. Chosen once: a set_engine call, else the
 * environment, else "auto"; fixed when it is open.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "choice.h"
#include "engine.h"

/* Under the lock. NULL: none was asked for by engine_choose(). */
static const struct engine *chosen;

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

/* Whether this is of the moment, and another engine should not be taken for life because of it. */
static bool is_passing(int err)
{
	return err == EMFILE || err == ENFILE || err == EINTR || err == ENOMEM;
}

/* The first that works becomes *engine. */
static int open_any(const struct engine **engine)
{
	size_t i;
	int err = ENODEV;

	for (i = 0; i < ENGINES; i++) {
		*engine = engines[i];
		err = engines[i]->open();
		if (!err || is_passing(err))
			break;
	}
	return err;
}

int engine_choose(const char *name)
{
	const struct engine *engine;

	if (engine_current())
		return EBUSY;
	engine = name ? engine_find(name) : NULL;
	if (!engine)
		return EINVAL;
	chosen = engine;
	return 0;
}

int engine_open(void)
{
	const struct engine *engine = chosen;
	const char *name;
	int err;

	if (engine_current())
		return 0;
	if (!engine) {
		name = getenv("KFIBER_ENGINE");
		engine = engine_find(name && *name ? name : engine_auto.name);
		if (!engine)
			return EINVAL;
	}
	err = engine == &engine_auto ? open_any(&engine) : engine->open();
	if (err)
		return err;
	/* Also for a forked child that has to open it again. */
	chosen = engine;
	engine_set(engine);
	return 0;
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
	engine_set(kept);
	return kept;
}
