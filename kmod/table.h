/* SPDX-License-Identifier: GPL-2.0-only */
/* The status table of a process: the pages that it shares with the module. */
#ifndef FIBER_TABLE_H
#define FIBER_TABLE_H

#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/types.h>
#include <linux/xarray.h>

#include "types.h"

struct file;
struct vm_area_struct;

#define TABLE_AREA_SIZE		sizeof(struct fiber_thread_area)
#define TABLE_BLOCK_AREAS	(PAGE_SIZE / TABLE_AREA_SIZE)
#define TABLE_BLOCKS		(FIBER_THREAD_AREAS / TABLE_BLOCK_AREAS)

/* The threads of one page of thread areas. */
struct table_block {
	struct fiber_thread __rcu *threads[TABLE_BLOCK_AREAS];
};

/**
 * struct status_table - the status table of a process
 * @refs: the process until its image has ended, and every VMA that shows it
 * @mm: the only one that may map it; compared, never followed
 * @file: through which it was first mapped; a reference
 * @first_page: its place in the device's file, which no other table has
 * @user: pays for @bytes, until the last reference is gone
 * @ended: the image has ended: nothing more is mapped. Page faults read it under RCU
 * @lock: guards growth: @pages, @blocks, @slots, @bytes
 * @pages: by offset in the mapping. Readers use RCU; a page that a reader can
 *	   know of stays until the table is freed
 * @blocks: as @pages
 * @slots: those below this one are there; their pages may be mapped
 * @places: guards whose thread an area is, with what the thread area says of it
 * @bytes: charged
 */
struct status_table {
	refcount_t refs;
	struct mm_struct *mm;
	struct file *file;
	unsigned long first_page;
	struct fiber_user *user;
	bool ended;
	struct mutex lock;	/* see above */
	struct xarray pages;
	struct table_block *blocks[TABLE_BLOCKS];
	u32 slots;
	raw_spinlock_t places;	/* see above */
	size_t bytes;
};

int fiber_table_mmap(struct file *file, struct vm_area_struct *vma);
long fiber_table_commit(struct fiber_process *process, unsigned long slots);
struct table_block *fiber_table_block(struct status_table *table, u32 number);
struct status_table *fiber_table_of(const struct fiber_process *process);
void *fiber_table_address(struct status_table *table, u64 offset);
bool fiber_table_read_slot(struct status_table *table, u32 number, struct fiber_slot *slot);
u64 fiber_table_slot_id(struct fiber_process *process, u32 number);
u32 fiber_table_slots(const struct fiber_process *process);
void fiber_table_end(struct status_table *table);
void fiber_table_free(struct status_table *table);

#endif /* FIBER_TABLE_H */
