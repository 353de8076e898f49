/* SPDX-License-Identifier: MIT */
/* The table of engine `local`: private memory, for whoever may debug the process. */
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checker.h"
#include "fiber_cb.h"
#include "table.h"

/* A page that others find by its name; where memfds are forbidden, one that they do not. */
static void head_map(void *start)
{
	int file = memfd_create(FIBER_TABLE_NAME, MFD_CLOEXEC);

	if (file < 0)
		return;
	if (!ftruncate(file, sizeof(struct fiber_table)))
		mmap(start, sizeof(struct fiber_table), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_FIXED, file, 0);
	close(file);
	checker_ignore(start, sizeof(struct fiber_table));
}

int table_map_private(void *wish, uint32_t slots)
{
	struct span span;
	int err = span_open(&span, wish, FIBER_TABLE_SIZE(slots), FIBER_TABLE_SIZE(CB_SLOTS), -1);

	if (err)
		return err;
	head_map(span.start);
	table_place(&span, 0);
	table.committed = table_slots();
	return 0;
}

static int local_open(void)
{
	return table_map_private(NULL, 1);
}

static int local_commit(uint32_t slot)
{
	int err = span_grow(&table.span, FIBER_TABLE_SIZE(slot + 1));

	if (!err)
		table.committed = table_slots();
	return err;
}

static int local_attach(uint32_t number)
{
	(void)number;
	return 0;
}

static void local_detach(void)
{
}

const struct table_ops table_local = {
	.name = "local",
	.open = local_open,
	.commit = local_commit,
	.attach = local_attach,
	.detach = local_detach,
};
