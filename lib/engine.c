/* SPDX-License-Identifier: MIT */
#include "engine.h"

const struct engine *_Atomic engine_opened;

void engine_set(const struct engine *engine)
{
	atomic_store_explicit(&engine_opened, engine, memory_order_release);
}
