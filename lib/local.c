/* SPDX-License-Identifier: MIT */
/* The table of engine `local`: private memory, for whoever may debug the process. */
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#include "control.h"
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
}

bool table_map_private(void *wish)
{
	const size_t size = FIBER_TABLE_SIZE(CONTROL_SLOTS);
	void *mapped = mmap(wish, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mapped == MAP_FAILED)
		return false;
	/* Else two fibers would cost two megabytes where huge pages are the rule. */
	madvise(mapped, size, MADV_NOHUGEPAGE);
	head_map(mapped);
	table_place(mapped, CONTROL_SLOTS);
	return true;
}

static int local_open(void)
{
	return table_map_private(NULL) ? 0 : ENOMEM;
}

/* All of it is there, and costs memory as it is used: this is never asked. */
static int local_commit(uint32_t slot)
{
	(void)slot;
	return EAGAIN;
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
	.open = local_open,
	.commit = local_commit,
	.attach = local_attach,
	.detach = local_detach,
};
