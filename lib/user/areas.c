/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "areas.h"
#include "owner.h"
#include "sole.h"
#include "slots.h"

int area_take(uint32_t *number)
{
	struct fiber_table *head = table.head;
	uint32_t i;
	int err;

	for (i = 1; i < head->areas_used; i++) {
		if (table_thread_is_dead(i))
			thread_reap(i);
		if (!table.areas[i].tid)
			break;
	}
	if (i == FIBER_THREAD_AREAS)
		return EAGAIN;
	err = backing->attach(i);
	if (err)
		return err;
	table.areas[i].tid = (uint32_t)gettid();
	if (i == head->areas_used)
		head->areas_used = i + 1;
	sole_count(1);
	*number = i;
	return 0;
}

void area_give(uint32_t number)
{
	backing->detach();
	sole_count(-1);
	memset(&table.areas[number], 0, sizeof(table.areas[number]));
}

void area_begin(struct fiber_thread_area *area, uint64_t now)
{
	area->since = now;
	area->off_since = area->off;
}
