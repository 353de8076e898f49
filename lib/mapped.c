/* SPDX-License-Identifier: MIT */
/*
 * The table of engine `mapped`: memory of the module, which shows the fibers
 * under /proc/PID/fiber and adds what only it knows.
 */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fiber_cb.h"
#include "device.h"
#include "table.h"

/* Slots are committed in steps of so many: 48 pages. */
#define STEP	1024

/* Nobody reads a table without FIBER_TABLE_MAGIC. */
static bool claim(struct fiber_table *head)
{
	__typeof__(head->magic) before = 0;

	return __atomic_compare_exchange_n(&head->magic, &before, ~(__typeof__(before))FIBER_TABLE_MAGIC,
					   false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* A table of the module's with address space for so many slots, at `wish` if nothing is there. */
static int table_map(void *wish, uint32_t slots)
{
	struct span span;
	int err, file;

	err = device_open();
	if (!err)
		err = device_file(&file);
	if (err)
		return err;
	err = span_open(&span, wish, FIBER_TABLE_SIZE(slots), FIBER_TABLE_SIZE(CB_SLOTS), file);
	if (err) {
		device_close();
		/* A module from before there was a table. */
		return err == ENODEV ? EPROTO : err;
	}
	/* All copies of this library in the process map the same table, which is the first one's. */
	if (!claim((struct fiber_table *)span.start)) {
		span_close(&span);
		device_close();
		return EBUSY;
	}
	table_place(&span, 0);
	return 0;
}

static int mapped_open(void)
{
	return table_map(NULL, STEP);
}

static int commit(uint32_t slots)
{
	int err = device_file(&table.span.file);

	if (!err)
		err = span_grow(&table.span, FIBER_TABLE_SIZE(slots));
	if (!err)
		err = device_request(FIBER_IOC_COMMIT, slots);
	if (!err)
		table.committed = slots;
	return err;
}

static int mapped_commit(uint32_t slot)
{
	int err = commit((slot / STEP + 1) * STEP);

	/* Close to the limit, or out of memory: no more than is needed. */
	return err ? commit(slot + 1) : 0;
}

static int mapped_attach(uint32_t number)
{
	return device_request(FIBER_IOC_ATTACH, number);
}

static void mapped_detach(void)
{
	device_request(FIBER_IOC_DETACH, 0);
}

static void mapped_times(uint64_t id, uint64_t *time, uint64_t *longest)
{
	struct fiber_snapshot snapshot = { .size = sizeof(snapshot), .id = id };

	if (device_request(FIBER_IOC_STAT, (uintptr_t)&snapshot))
		return;
	*time = snapshot.cpu_time;
	*longest = snapshot.longest_run;
}

/*
 * A forked child has no mapping, and the descriptor that it inherits is the parent's.
 * So what the observations say goes with it in a copy.
 */
static struct fiber_table head_copy;
static struct fiber_slot *slots_copy;

static void mapped_fork_prepare(void)
{
	size_t size = table.head->slots_used * sizeof(*slots_copy);
	void *start = MAP_FAILED;

	head_copy = *table.head;
	/* Before the first fiber there is no slot. */
	if (table.committed)
		start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	/* Without memory the child's fibers have no names and counts. */
	slots_copy = start == MAP_FAILED ? NULL : memcpy(start, table.slots, size);
}

static void mapped_fork_parent(void)
{
	if (slots_copy)
		munmap(slots_copy, head_copy.slots_used * sizeof(*slots_copy));
}

/* An area's page is there from its first attachment on. */
static bool areas_make(uint32_t used)
{
	const uint32_t step = 4096 / sizeof(struct fiber_thread_area);
	uint32_t i;

	for (i = 0; i < used; i += step)
		if (device_request(FIBER_IOC_ATTACH, i ? i : 1) ||
		    device_request(FIBER_IOC_DETACH, 0))
			return false;
	return true;
}

/*
 * A table of the child's own: where the parent's was, if no handler of fork() that ran
 * before has mapped something there.
 */
static bool table_remap(uint32_t slots, uint32_t number)
{
	if (table_map(table.head, slots))
		return false;
	if (device_request(FIBER_IOC_COMMIT, slots) || !areas_make(head_copy.areas_used) ||
	    (number && device_request(FIBER_IOC_ATTACH, number))) {
		span_close(&table.span);
		device_close();
		return false;
	}
	table.committed = slots;
	return true;
}

static const struct table_ops *mapped_fork_child(uint32_t number)
{
	const struct table_ops *ops = &table_mapped;

	device_close();
	if (!table_remap(head_copy.slots_used, number)) {
		if (table_map_private(table.head, head_copy.slots_used))
			abort();
		ops = &table_local;
	}
	head_copy.slots_at = (uintptr_t)table.slots;
	head_copy.areas_at = (uintptr_t)table.areas;
	*table.head = head_copy;
	strncpy(table.head->engine, ops->name, sizeof(table.head->engine) - 1);
	if (slots_copy)
		memcpy(table.slots, slots_copy, head_copy.slots_used * sizeof(*slots_copy));
	mapped_fork_parent();
	return ops;
}

const struct table_ops table_mapped = {
	.name = "mapped",
	.open = mapped_open,
	.commit = mapped_commit,
	.attach = mapped_attach,
	.detach = mapped_detach,
	.times = mapped_times,
	.fork_prepare = mapped_fork_prepare,
	.fork_parent = mapped_fork_parent,
	.fork_child = mapped_fork_child,
};
