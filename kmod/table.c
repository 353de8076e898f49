// SPDX-License-Identifier: GPL-2.0-only
/*
 * The status table that a process shares with the module: pages that it maps from
 * the device.
 *
 * The contents of the pages are hostile: each word is read once, through the
 * kernel's own mapping, no word is an address to follow, and each index is
 * bounded, speculation included. At worst the process shows wrong numbers of
 * itself. The module reads nothing back that it wrote there itself.
 *
 * Page faults come with the process's mmap_lock held, which a user can hold for
 * ever, so nothing here takes that lock, and faults take no lock of ours.
 *
 * A mapping can outlive the image: other processes can share the memory, and any
 * reader of /proc/PID/cmdline keeps it as long as it likes. Its user must not pay
 * for that, so the pages are taken out of all mappings when the image has ended.
 */
#include <linux/clocksource.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <asm/tsc.h>

#include "compat.h"
#include "process.h"
#include "table.h"
#include "user.h"

static_assert(sizeof(struct fiber_slot) == 192 && TABLE_AREA_SIZE == 64);
static_assert(sizeof(struct fiber_table) <= FIBER_TABLE_AREAS_AT);
static_assert(FIBER_TABLE_AREAS_AT == PAGE_SIZE && FIBER_TABLE_SLOTS_AT % PAGE_SIZE == 0);

/* Tables lie one behind the other in the file that they are mapped from, that far apart. */
#define TABLE_PAGES_SHIFT	16
#define TABLE_PAGES		(FIBER_TABLE_SIZE(1UL << FIBER_SLOT_BITS) / PAGE_SIZE)

static_assert(TABLE_PAGES <= BIT(TABLE_PAGES_SHIFT));

static int table_charge(struct status_table *table, size_t bytes)
{
	int err = fiber_user_charge(table->user, bytes);

	if (!err)
		table->bytes += bytes;
	return err;
}

static void table_uncharge(struct status_table *table, size_t bytes)
{
	table->bytes -= bytes;
	fiber_user_uncharge(table->user, bytes);
}

/* Adds a zeroed page to the table. -EDQUOT, -ENOMEM. */
static int page_add(struct status_table *table, unsigned long index)
{
	struct page *page;
	int err;

	err = table_charge(table, PAGE_SIZE);
	if (err)
		return err;
	err = -ENOMEM;
	page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!page)
		goto uncharge;
	err = xa_insert(&table->pages, index, page, GFP_KERNEL_ACCOUNT);
	if (err)
		goto free;
	return 0;

free:
	__free_page(page);
uncharge:
	table_uncharge(table, PAGE_SIZE);
	return err;
}

/* A page that no reader can know of. */
static void page_remove(struct status_table *table, unsigned long index)
{
	__free_page(xa_erase(&table->pages, index));
	table_uncharge(table, PAGE_SIZE);
}

static void table_put(struct status_table *table)
{
	unsigned long index;
	struct page *page;
	unsigned int i;

	if (!refcount_dec_and_test(&table->refs))
		return;
	xa_for_each(&table->pages, index, page) {
		put_page(page);
		cond_resched();
	}
	xa_destroy(&table->pages);
	for (i = 0; i < TABLE_BLOCKS; i++)
		kfree(table->blocks[i]);
	fput(table->file);
	mutex_destroy(&table->lock);
	fiber_user_uncharge(table->user, table->bytes);
	kfree(table);
}

/* What the kernel knows better than the process: how long a cycle is. */
static void table_set_clock(struct status_table *table)
{
	struct fiber_table *head = fiber_table_address(table, 0);
	u32 mult, shift;

	if (!tsc_khz)
		return;
	clocks_calc_mult_shift(&mult, &shift, tsc_khz, NSEC_PER_MSEC, 0);
	head->mult = mult;
	head->shift = shift;
}

/* What a new table begins with in the file. After 2^34 tables another one has it, too. */
static unsigned long table_first_page(void)
{
	static atomic_long_t tables;

	return (atomic_long_inc_return(&tables) & (BIT(34) - 1)) << TABLE_PAGES_SHIFT;
}

/* A table of the calling process with its head, or an error. */
static struct status_table *table_alloc(struct fiber_process *process, struct file *file)
{
	struct status_table *table;
	int err;

	err = fiber_user_charge(process->user, sizeof(*table));
	if (err)
		return ERR_PTR(err);
	table = kzalloc(sizeof(*table), GFP_KERNEL_ACCOUNT);
	if (!table) {
		fiber_user_uncharge(process->user, sizeof(*table));
		return ERR_PTR(-ENOMEM);
	}
	refcount_set(&table->refs, 1);
	table->mm = process->mm;
	table->file = get_file(file);
	table->first_page = table_first_page();
	table->user = process->user;
	table->bytes = sizeof(*table);
	mutex_init(&table->lock);
	raw_spin_lock_init(&table->places);
	xa_init(&table->pages);
	err = page_add(table, 0);
	if (err) {
		table_put(table);
		return ERR_PTR(err);
	}
	table_set_clock(table);
	return table;
}

/* Pages at and above this one cannot be mapped. */
static unsigned long table_limit(const struct status_table *table)
{
	/* Pairs with fiber_table_commit(): the pages are there. */
	return FIBER_TABLE_SIZE(smp_load_acquire(&table->slots)) / PAGE_SIZE;
}

static vm_fault_t table_fault(struct vm_fault *vmf)
{
	struct status_table *table = vmf->vma->vm_private_data;
	struct page *page = NULL;
	unsigned long index;

	if (!table)
		return VM_FAULT_SIGBUS;
	index = vmf->pgoff - table->first_page;
	/* Whoever frees pages has waited for us, and sees our reference. */
	rcu_read_lock();
	if (!READ_ONCE(table->ended) && index < table_limit(table))
		page = xa_load(&table->pages, index);
	if (page)
		get_page(page);
	rcu_read_unlock();
	vmf->page = page;
	return page ? 0 : VM_FAULT_SIGBUS;
}

static void table_vm_open(struct vm_area_struct *vma)
{
	struct status_table *table = vma->vm_private_data;

	if (!table)
		return;
	/* In a child, by MADV_DOFORK, it shows and holds nothing. */
	if (vma->vm_mm == table->mm)
		refcount_inc(&table->refs);
	else
		vma->vm_private_data = NULL;
}

static void table_vm_close(struct vm_area_struct *vma)
{
	struct status_table *table = vma->vm_private_data;

	if (table)
		table_put(table);
}

static const struct vm_operations_struct table_vm_ops = {
	.open = table_vm_open,
	.close = table_vm_close,
	.fault = table_fault,
};

/* The process's table, made if need be; or an error. */
static struct status_table *table_get(struct fiber_process *process, struct file *file)
{
	struct status_table *table = READ_ONCE(process->table), *rival;

	if (table)
		return table;
	/* Allocated first: a failure must not choose the engine. */
	table = table_alloc(process, file);
	if (IS_ERR(table))
		return table;
	if (!fiber_process_choose(process, &fiber_engine_mapped)) {
		table_put(table);
		return ERR_PTR(-EBUSY);
	}
	rival = cmpxchg(&process->table, NULL, table);
	if (rival) {
		table_put(table);
		table = rival;
	}
	return table;
}

/* mmap() of the device. The caller holds its mmap_lock. */
int fiber_table_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct fiber_process *process = file->private_data;
	struct status_table *table;

	if (!fiber_process_is_current(process))
		return -EPERM;
	if (!(vma->vm_flags & VM_SHARED) || (vma->vm_flags & VM_EXEC))
		return -EINVAL;
	if (vma->vm_pgoff + vma_pages(vma) > TABLE_PAGES)
		return -EINVAL;
	table = table_get(process, file);
	if (IS_ERR(table))
		return PTR_ERR(table);
	/* Another node of the device. */
	if (table->file->f_mapping != file->f_mapping)
		return -EINVAL;
	vma->vm_pgoff += table->first_page;
	/* The caller is the process, whose image keeps the table until here. */
	refcount_inc(&table->refs);
	fiber_vm_flags(vma, VM_DONTCOPY | VM_DONTEXPAND, VM_MAYEXEC);
	vma->vm_private_data = table;
	vma->vm_ops = &table_vm_ops;
	return 0;
}

/* Adds the pages from @first on and below @last, or none of them. */
static int pages_add(struct status_table *table, unsigned long first, unsigned long last)
{
	unsigned long index;
	int err = 0;

	lockdep_assert_held(&table->lock);

	for (index = first; !err && index < last; index++) {
		err = fatal_signal_pending(current) ? -EINTR : page_add(table, index);
		if (err)
			break;
		cond_resched();
	}
	if (err)
		while (index-- > first)
			page_remove(table, index);
	return err;
}

/* FIBER_IOC_COMMIT */
long fiber_table_commit(struct fiber_process *process, unsigned long slots)
{
	struct status_table *table = READ_ONCE(process->table);
	long err = 0;

	if (!table)
		return -EINVAL;
	if (slots > process->max + 1UL)
		return -EAGAIN;
	if (mutex_lock_killable(&table->lock))
		return -EINTR;
	if (slots > table->slots) {
		err = pages_add(table, table_limit(table), FIBER_TABLE_SIZE(slots) / PAGE_SIZE);
		if (!err)
			/* After the pages: see table_limit(). */
			smp_store_release(&table->slots, slots);
	}
	mutex_unlock(&table->lock);
	return err;
}

/* The threads of the page that thread area @number is in, made if need be; or an error. */
struct table_block *fiber_table_block(struct status_table *table, u32 number)
{
	struct table_block *block = table->blocks[number / TABLE_BLOCK_AREAS];
	int err;

	lockdep_assert_held(&table->lock);

	if (block)
		return block;
	err = table_charge(table, sizeof(*block));
	if (err)
		return ERR_PTR(err);
	block = kzalloc(sizeof(*block), GFP_KERNEL_ACCOUNT);
	err = block ? page_add(table, FIBER_TABLE_AREAS_AT / PAGE_SIZE +
			       number / TABLE_BLOCK_AREAS) : -ENOMEM;
	if (err) {
		kfree(block);
		table_uncharge(table, sizeof(*block));
		return ERR_PTR(err);
	}
	/* A reader who finds it finds it zeroed. */
	smp_store_release(&table->blocks[number / TABLE_BLOCK_AREAS], block);
	return block;
}

/* The word at that offset in the kernel's mapping, or NULL. Under RCU or the lock. */
void *fiber_table_address(struct status_table *table, u64 offset)
{
	struct page *page = xa_load(&table->pages, offset / PAGE_SIZE);

	return page ? page_address(page) + offset % PAGE_SIZE : NULL;
}

/* The table of a process whose image has not ended, or NULL. Under RCU, which keeps it. */
struct status_table *fiber_table_of(const struct fiber_process *process)
{
	return READ_ONCE(process->dead) ? NULL : READ_ONCE(process->table);
}

/* fiber_engine.slots */
u32 fiber_table_slots(const struct fiber_process *process)
{
	struct status_table *table;
	u32 slots = 0;

	rcu_read_lock();
	table = fiber_table_of(process);
	if (table)
		slots = READ_ONCE(table->slots);
	rcu_read_unlock();
	return slots;
}

/* A slot as it is now, each word read once. Under RCU, the process being alive. */
bool fiber_table_read_slot(struct status_table *table, u32 number, struct fiber_slot *slot)
{
	u64 offset = FIBER_TABLE_SLOTS_AT + number * sizeof(*slot);
	unsigned int i;

	/* Pairs with fiber_table_commit(). */
	if (number >= smp_load_acquire(&table->slots))
		return false;
	/* Its words may lie in two pages. */
	for (i = 0; i < sizeof(*slot) / sizeof(u64); i++) {
		const u64 *word = fiber_table_address(table, offset + i * sizeof(u64));

		if (WARN_ON_ONCE(!word))
			return false;
		((u64 *)slot)[i] = READ_ONCE(*word);
	}
	return true;
}

/* fiber_engine.slot_id */
u64 fiber_table_slot_id(struct fiber_process *process, u32 number)
{
	u64 offset = FIBER_TABLE_SLOTS_AT + number * sizeof(struct fiber_slot);
	struct status_table *table;
	const u64 *word;
	u64 id = 0;

	rcu_read_lock();
	table = fiber_table_of(process);
	/* Pairs with fiber_table_commit(). */
	if (table && number < smp_load_acquire(&table->slots)) {
		word = fiber_table_address(table, offset + offsetof(struct fiber_slot, id));
		if (word)
			id = READ_ONCE(*word);
	}
	rcu_read_unlock();
	return (id & FIBER_SLOT_MASK) == number ? id : 0;
}

/* The image has ended: no more page faults. In any context. */
void fiber_table_end(struct status_table *table)
{
	WRITE_ONCE(table->ended, true);
}

/*
 * Its threads, readers and page faults are through, too: takes it out of whatever
 * maps it, and frees it. What remains until the last mapping is gone is a shell, and
 * pages that somebody has a reference to.
 */
void fiber_table_free(struct status_table *table)
{
	unsigned long index;
	struct page *page;
	unsigned int i;

	unmap_mapping_range(table->file->f_mapping, (loff_t)table->first_page << PAGE_SHIFT,
			    TABLE_PAGES << PAGE_SHIFT, 1);
	xa_for_each(&table->pages, index, page) {
		if (page_count(page) == 1)
			page_remove(table, index);
		cond_resched();
	}
	for (i = 0; i < TABLE_BLOCKS; i++) {
		if (!table->blocks[i])
			continue;
		kfree(table->blocks[i]);
		table->blocks[i] = NULL;
		table_uncharge(table, sizeof(*table->blocks[i]));
	}
	table_put(table);
}
