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

#include "control.h"
#include "device.h"
#include "engine.h"
#include "switch.h"
#include "table.h"

/* Slots are committed in steps of so many: 48 pages. */
#define STEP	1024

static const size_t length = FIBER_TABLE_SIZE(CONTROL_SLOTS);

/* This process's own descriptor of /dev/fiber. */
static int device;

/* A table of the module's, at `wish` if nothing is there. */
static int table_map(void *wish)
{
	void *start;
	int err, file;

	err = device_open(&file);
	if (err)
		return err;
	start = mmap(wish, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (start == MAP_FAILED) {
		err = errno;
		close(file);
		/* A module from before there was a table. */
		return err == ENODEV ? EPROTO : err;
	}
	device = file;
	table_place(start, 0);
	return 0;
}

static int mapped_open(void)
{
	return table_map(NULL);
}

static int mapped_commit(uint32_t slot)
{
	uint32_t slots = (slot / STEP + 1) * STEP;
	long err = switch_ioctl(device, FIBER_IOC_COMMIT, slots);

	/* Close to the limit, or out of memory: no more than is needed. */
	if (err) {
		slots = slot + 1;
		err = switch_ioctl(device, FIBER_IOC_COMMIT, slots);
	}
	if (!err)
		table.committed = slots;
	return (int)-err;
}

static int mapped_attach(uint32_t number)
{
	return (int)-switch_ioctl(device, FIBER_IOC_ATTACH, number);
}

static void mapped_detach(void)
{
	switch_ioctl(device, FIBER_IOC_DETACH, 0);
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
	void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	head_copy = *table.head;
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
		if (switch_ioctl(device, FIBER_IOC_ATTACH, i ? i : 1) ||
		    switch_ioctl(device, FIBER_IOC_DETACH, 0))
			return false;
	return true;
}

/*
 * A table of the child's own: where the parent's was, if no handler of fork() that ran
 * before has mapped something there.
 */
static bool table_remap(uint32_t slots, uint32_t number)
{
	if (table_map(table.head))
		return false;
	if (switch_ioctl(device, FIBER_IOC_COMMIT, slots) || !areas_make(head_copy.areas_used) ||
	    (number && switch_ioctl(device, FIBER_IOC_ATTACH, number))) {
		munmap(table.head, length);
		close(device);
		return false;
	}
	table.committed = slots;
	return true;
}

static const struct engine *mapped_fork_child(uint32_t number)
{
	const struct engine *engine = &engine_mapped;

	close(device);
	if (!table_remap(head_copy.slots_used, number)) {
		if (!table_map_private(table.head))
			abort();
		engine = &engine_local;
	}
	head_copy.slots_at = (uintptr_t)table.slots;
	head_copy.areas_at = (uintptr_t)table.areas;
	*table.head = head_copy;
	strncpy(table.head->engine, engine->name, sizeof(table.head->engine) - 1);
	if (slots_copy)
		memcpy(table.slots, slots_copy, head_copy.slots_used * sizeof(*slots_copy));
	mapped_fork_parent();
	return engine;
}

const struct table_ops table_mapped = {
	.open = mapped_open,
	.commit = mapped_commit,
	.attach = mapped_attach,
	.detach = mapped_detach,
	.fork_prepare = mapped_fork_prepare,
	.fork_parent = mapped_fork_parent,
	.fork_child = mapped_fork_child,
};
