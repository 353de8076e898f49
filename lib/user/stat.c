/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "clock.h"
#include "lock.h"
#include "owner.h"
#include "slots.h"
#include "stat.h"
#include "thread.h"

int user_set_name(fiber_id_t id, const char *name)
{
	struct fiber_cb *cb;
	struct lock_state state;
	char padded[FIBER_NAME_SIZE] = "";
	int err = 0;

	strncpy(padded, name, sizeof(padded) - 1);
	lock_take(&state);
	cb = fiber_cb_find(id);
	if (!cb)
		err = ESRCH;
	else
		memcpy(slot_of(cb)->name, padded, sizeof(padded));
	lock_drop(&state);
	return err;
}

void user_get_name(fiber_id_t id, char *name)
{
	memcpy(name, slot_of(fiber_cb_at(id))->name, FIBER_NAME_MAX);
}

/* A copy in which each word is whole, and what a switch changes is of one moment. */
static struct fiber_slot slot_read(const struct fiber_slot *shown)
{
	struct fiber_slot slot;
	uint64_t before;

	do {
		before = __atomic_load_n(&shown->last_switch, __ATOMIC_ACQUIRE);
		slot = *(const volatile struct fiber_slot *)shown;
	} while (*(const volatile __u64 *)&shown->last_switch != before);
	return slot;
}

/*
 * Cycles of the run that the slot says is going on. 0 also where it has just ended, and may or
 * may not be booked: then the two moments differ.
 */
static uint64_t run_read(const struct fiber_slot *slot, const struct fiber_thread_area *area)
{
	uint64_t off, since, now;
	int64_t run;

	/* The scheduler may come in between, where it is watched. */
	do {
		off = __atomic_load_n(&area->off, __ATOMIC_ACQUIRE);
		since = __atomic_load_n(&area->since, __ATOMIC_ACQUIRE);
		now = cycles();
		run = (int64_t)(now - since - (off - area->off_since));
	} while (__atomic_load_n(&area->off, __ATOMIC_ACQUIRE) != off);
	return since == slot->last_switch && run > 0 ? (uint64_t)run : 0;
}

/*
 * A time that was told once does not become less: the thread may have read its clock for a switch
 * already, but not told, and then be off the CPU for long.
 */
static uint64_t not_back(__u64 *shown, uint64_t ns)
{
	if (*shown < ns)
		*shown = ns;
	return *shown;
}

/* With the lock held. */
static void stat_read(fiber_id_t id, struct fiber_slot *shown, struct fiber_stat *stat)
{
	const struct fiber_slot slot = slot_read(shown);
	const struct fiber_thread_area *area = &table.areas[slot.area];
	bool watched = backing == &table_mapped;
	uint64_t run = 0, time, longest;

	if (slot.state == FIBER_STATE_RUNNING)
		run = run_read(&slot, area);
	time = nanoseconds(slot.run_time + run);
	longest = nanoseconds(run > slot.longest_run ? run : slot.longest_run);
	/* Whether another thread is off the CPU, and since when, knows the kernel. */
	if (slot.state == FIBER_STATE_RUNNING && slot.area != thread_self()->number &&
	    backing->times)
		backing->times(id, &time, &longest);
	time = not_back(&shown->shown[0], time);
	longest = not_back(&shown->shown[1], longest);
	*stat = (struct fiber_stat) {
		.id = id,
		.state = (enum fiber_state)slot.state,
		.thread = slot.area ? area->tid : 0,
		.activations = slot.activations,
		.failed_activations = slot.failed,
		.cpu_time = watched ? time : FIBER_TIME_UNKNOWN,
		.run_time = watched ? FIBER_TIME_UNKNOWN : time,
		.longest_run = longest,
		.stack_start = slot.stack_start,
		.stack_size = slot.stack_size,
	};
	memcpy(stat->name, slot.name, sizeof(stat->name));
}

int user_get_stat(fiber_id_t id, struct fiber_stat *stat)
{
	struct fiber_cb *cb;
	struct lock_state state;
	int err = 0;

	if (!fiber_cb_exists(id))
		return ESRCH;
	cb = fiber_cb_at(id);
	owner_gone(atomic_load(&cb->owner));
	thread_gone(cb->root_of);
	lock_take(&state);
	cb = fiber_cb_find(id);
	if (!cb)
		err = ESRCH;
	else
		stat_read(id, slot_of(cb), stat);
	lock_drop(&state);
	return err;
}
