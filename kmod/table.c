// SPDX-License-Identifier: GPL-2.0-only
/*
 * The table of observations that a process shares with the module: pages that
 * it maps from the device, and threads whose time off the CPU is added there.
 *
 * What the pages say is hostile: each word is read once, through the kernel's own
 * mapping, none is an address to follow, and each index is bounded. At worst the
 * process shows wrong numbers of itself. Nothing here is read back that the module
 * wrote: what it knows is in struct fiber_watch.
 *
 * Page faults come with the process's mmap_lock held, and committing takes that
 * with the process's own lock held. So faults take no lock: pages are only ever
 * added until the image has ended, and freed an RCU grace period later.
 */
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/slab.h>
#include <linux/xarray.h>
#include <asm/tsc.h>

#include "compat.h"
#include "internal.h"

#define AREA_SIZE	sizeof(struct fiber_area)
#define BLOCK_AREAS	(PAGE_SIZE / AREA_SIZE)
#define BLOCKS		(FIBER_AREAS / BLOCK_AREAS)

/**
 * struct fiber_watch - a thread that runs fibers of the table
 * @notifier: on the task's own list, which is also how it is found
 * @process: its process; a reference
 * @pid: its pid; a reference
 * @area: what it shares, in the kernel's mapping
 * @place: where it is known as that area's thread
 * @off: cycles off the CPU since it was attached
 * @left: cycle counter when it left the CPU; 0 while it is on it
 * @rcu: readers of @place
 *
 * Created, changed and unhooked by its own thread or its scheduler only.
 */
struct fiber_watch {
	struct preempt_notifier notifier;
	struct fiber_process *process;
	struct pid *pid;
	struct fiber_area *area;
	struct fiber_watch __rcu **place;
	u64 off;
	u64 left;
	struct rcu_head rcu;
};

/* The threads of one page of areas. */
struct fiber_block {
	struct fiber_watch __rcu *watches[BLOCK_AREAS];
};

/**
 * struct fiber_observations - the table of a process
 * @pages: by offset in the mapping, each a reference; grows only, the process's
 *         lock for changes and RCU for readers, until the image has ended
 * @blocks: as @pages
 * @slots: those below this one are there; the process's lock
 * @charged: pages charged to RLIMIT_MEMLOCK; the process's lock
 */
struct fiber_observations {
	struct xarray pages;
	struct fiber_block *blocks[BLOCKS];
	u32 slots;
	unsigned long charged;
};

static_assert(sizeof(struct fiber_slot) == 192 && AREA_SIZE == 64);
static_assert(sizeof(struct fiber_table) <= FIBER_TABLE_AREAS_AT);
static_assert(FIBER_TABLE_AREAS_AT == PAGE_SIZE && FIBER_TABLE_SLOTS_AT % PAGE_SIZE == 0);

/* Adds a zeroed page to the table. */
static struct page *page_add(struct fiber_observations *table, unsigned long index)
{
	struct page *page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	int err;

	if (!page)
		return ERR_PTR(-ENOMEM);
	err = xa_insert(&table->pages, index, page, GFP_KERNEL_ACCOUNT);
	if (err) {
		__free_page(page);
		return ERR_PTR(err);
	}
	return page;
}

static void table_free_pages(struct fiber_observations *table)
{
	unsigned long index;
	struct page *page;

	/* Mappings that are left have references of their own. */
	xa_for_each(&table->pages, index, page) {
		put_page(page);
		cond_resched();
	}
	xa_destroy(&table->pages);
}

static void table_free(struct fiber_observations *table)
{
	unsigned int i;

	table_free_pages(table);
	for (i = 0; i < BLOCKS; i++)
		kfree(table->blocks[i]);
	kfree(table);
}

static struct fiber_observations *table_alloc(void)
{
	struct fiber_observations *table = kzalloc(sizeof(*table), GFP_KERNEL_ACCOUNT);

	if (!table)
		return NULL;
	xa_init(&table->pages);
	if (IS_ERR(page_add(table, 0))) {
		table_free(table);
		return NULL;
	}
	return table;
}

static vm_fault_t table_fault(struct vm_fault *vmf)
{
	struct fiber_process *process = vmf->vma->vm_file->private_data;
	struct page *page = NULL;

	rcu_read_lock();
	if (!READ_ONCE(process->dead))
		page = xa_load(&process->table->pages, vmf->pgoff);
	if (page)
		get_page(page);
	rcu_read_unlock();
	if (!page)
		return VM_FAULT_SIGBUS;
	vmf->page = page;
	return 0;
}

static const struct vm_operations_struct table_vm_ops = {
	.fault = table_fault,
};

/* mmap() of the device. The caller holds its mmap_lock. */
int fiber_table_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct fiber_process *process = file->private_data;
	struct fiber_observations *table = NULL;

	if (!fiber_process_is_current(process))
		return -EPERM;
	if (!(vma->vm_flags & VM_SHARED) || (vma->vm_flags & VM_EXEC) || vma->vm_pgoff ||
	    vma->vm_end - vma->vm_start > FIBER_TABLE_SIZE(1UL << FIBER_SLOT_BITS))
		return -EINVAL;
	/* Allocated first: what fails must not choose the engine. */
	if (!READ_ONCE(process->table)) {
		table = table_alloc();
		if (!table)
			return -ENOMEM;
	}
	if (!fiber_process_choose(process, FIBER_ENGINE_MAPPED)) {
		if (table)
			table_free(table);
		return -EBUSY;
	}
	if (table && cmpxchg(&process->table, NULL, table))
		table_free(table);
	fiber_vm_flags(vma, VM_DONTCOPY | VM_DONTEXPAND, VM_MAYEXEC);
	vma->vm_ops = &table_vm_ops;
	return 0;
}

/* FIBER_IOC_COMMIT */
long fiber_table_commit(struct fiber_process *process, unsigned long slots)
{
	struct fiber_observations *table = READ_ONCE(process->table);
	unsigned long first, last, index;
	long err = 0;

	if (!table)
		return -EINVAL;
	if (slots > process->max + 1UL)
		return -EAGAIN;
	if (mutex_lock_killable(&process->lock))
		return -EINTR;
	if (slots <= table->slots)
		goto unlock;
	first = FIBER_TABLE_SIZE(table->slots) / PAGE_SIZE;
	last = FIBER_TABLE_SIZE(slots) / PAGE_SIZE;
	err = account_locked_vm(process->mm, last - first, true);
	if (err)
		goto unlock;
	for (index = first; index < last; index++) {
		struct page *page = page_add(table, index);

		err = PTR_ERR_OR_ZERO(page);
		if (err)
			break;
		if (fatal_signal_pending(current)) {
			index++;
			err = -EINTR;
			break;
		}
	}
	/* What has been added stays, whole slots of it. */
	account_locked_vm(process->mm, last - index, false);
	table->charged += index - first;
	if (err)
		slots = (index * PAGE_SIZE - FIBER_TABLE_SLOTS_AT) / sizeof(struct fiber_slot);
	WRITE_ONCE(table->slots, slots);
unlock:
	mutex_unlock(&process->lock);
	return err;
}

static void watch_sched_in(struct preempt_notifier *notifier, int cpu)
{
	struct fiber_watch *watch = container_of(notifier, struct fiber_watch, notifier);
	u64 now = rdtsc();

	/* Counters of two CPUs may differ a little. */
	if (now > watch->left)
		watch->off += now - watch->left;
	WRITE_ONCE(watch->left, 0);
	WRITE_ONCE(watch->area->off, watch->off);
}

static void watch_sched_out(struct preempt_notifier *notifier, struct task_struct *next)
{
	struct fiber_watch *watch = container_of(notifier, struct fiber_watch, notifier);

	WRITE_ONCE(watch->left, rdtsc());
}

/* Going off runs under the scheduler's lock: a number is stored, no more. */
static struct preempt_ops watch_ops = {
	.sched_in = watch_sched_in,
	.sched_out = watch_sched_out,
};

struct fiber_watch *fiber_watch_current(void)
{
	struct preempt_notifier *notifier;

	hlist_for_each_entry(notifier, &current->preempt_notifiers, link)
		if (notifier->ops == &watch_ops)
			return container_of(notifier, struct fiber_watch, notifier);
	return NULL;
}

static void watch_free_rcu(struct rcu_head *rcu)
{
	struct fiber_watch *watch = container_of(rcu, struct fiber_watch, rcu);

	put_pid(watch->pid);
	kfree(watch);
}

/*
 * The thread is not watched any more. @dead: nor does it run any more, which its
 * process is told last, as from then on it may want the area for another thread.
 */
static void watch_end(struct fiber_watch *watch, bool dead)
{
	preempt_disable();
	preempt_notifier_unregister(&watch->notifier);
	preempt_enable();
	rcu_assign_pointer(*watch->place, NULL);
	if (dead)
		/* After @place, which the next one is to find empty. */
		smp_store_release(&watch->area->dead, 1);
	fiber_process_unuse(watch->process);
	fiber_process_put(watch->process);
	call_rcu(&watch->rcu, watch_free_rcu);
	atomic_long_dec(&fiber_threads);
}

/*
 * The calling thread will not return to user mode as it was. Whoever wants the
 * fiber that it ran sees that from now on. In a tracepoint's probe.
 */
void fiber_watch_end(struct fiber_watch *watch)
{
	watch_end(watch, true);
	/* Unloading waits for the probe to return. */
	module_put(THIS_MODULE);
}

/* FIBER_IOC_DETACH */
long fiber_table_detach(struct fiber_process *process)
{
	struct fiber_watch *watch = fiber_watch_current();

	if (!watch || watch->process != process)
		return -EPERM;
	watch_end(watch, false);
	/* The caller's descriptor holds the module. */
	module_put(THIS_MODULE);
	return 0;
}

/* The threads of the page of areas that area @number is in, made if need be; or an error. */
static struct fiber_block *block_get(struct fiber_observations *table, u32 number)
{
	struct fiber_block *block = table->blocks[number / BLOCK_AREAS];
	struct page *page;

	if (block)
		return block;
	block = kzalloc(sizeof(*block), GFP_KERNEL_ACCOUNT);
	if (!block)
		return ERR_PTR(-ENOMEM);
	page = page_add(table, FIBER_TABLE_AREAS_AT / PAGE_SIZE + number / BLOCK_AREAS);
	if (IS_ERR(page)) {
		kfree(block);
		return ERR_CAST(page);
	}
	/* Whoever finds it finds it zeroed. */
	smp_store_release(&table->blocks[number / BLOCK_AREAS], block);
	return block;
}

static void *table_address(struct fiber_observations *table, u64 offset)
{
	struct page *page = xa_load(&table->pages, offset / PAGE_SIZE);

	return page ? page_address(page) + offset % PAGE_SIZE : NULL;
}

/* Makes the thread known as that area's. With the process's lock held. */
static long watch_place(struct fiber_observations *table, struct fiber_watch *watch, u32 number)
{
	struct fiber_block *block = block_get(table, number);
	struct fiber_watch __rcu **place;

	if (IS_ERR(block))
		return PTR_ERR(block);
	place = &block->watches[number % BLOCK_AREAS];
	if (rcu_access_pointer(*place))
		return -EBUSY;
	watch->place = place;
	watch->area = table_address(table, FIBER_TABLE_AREAS_AT + number * AREA_SIZE);
	memset(watch->area, 0, AREA_SIZE);
	WRITE_ONCE(watch->area->tid, task_pid_vnr(current));
	rcu_assign_pointer(*place, watch);
	return 0;
}

/* FIBER_IOC_ATTACH */
long fiber_table_attach(struct fiber_process *process, unsigned long number)
{
	struct fiber_observations *table = READ_ONCE(process->table);
	struct fiber_watch *watch;
	long err;

	if (!table || !number || number >= FIBER_AREAS)
		return -EINVAL;
	if (fiber_watch_current() || fiber_thread_current())
		return -EEXIST;
	if (fiber_has_shadow_stack())
		return -EOPNOTSUPP;
	watch = kzalloc(sizeof(*watch), GFP_KERNEL_ACCOUNT);
	if (!watch)
		return -ENOMEM;
	preempt_notifier_init(&watch->notifier, &watch_ops);
	watch->process = process;
	watch->pid = get_pid(task_pid(current));

	mutex_lock(&process->lock);
	err = watch_place(table, watch, array_index_nospec(number, FIBER_AREAS));
	mutex_unlock(&process->lock);
	if (err) {
		put_pid(watch->pid);
		kfree(watch);
		return err;
	}
	fiber_process_get(process);
	refcount_inc(&process->users);
	atomic_long_inc(&fiber_threads);
	/* The hooks run module code until the thread ends or detaches. */
	__module_get(THIS_MODULE);
	preempt_disable();
	preempt_notifier_register(&watch->notifier);
	preempt_enable();
	fiber_procfs_add(process);
	return 0;
}

/* The image has ended, and nobody comes any more. With the process's lock held. */
void fiber_table_end(struct fiber_process *process)
{
	struct fiber_observations *table = process->table;

	if (!table)
		return;
	account_locked_vm(process->mm, table->charged, false);
	table->charged = 0;
	table_free_pages(table);
}

/* With the process itself. */
void fiber_table_free(struct fiber_process *process)
{
	if (process->table)
		table_free(process->table);
}

u32 fiber_table_slots(const struct fiber_process *process)
{
	return READ_ONCE(process->table->slots);
}

/* A slot as it is now, each word read once. Under RCU, the process being alive. */
static bool slot_read(struct fiber_observations *table, u32 number, struct fiber_slot *slot)
{
	u64 offset = FIBER_TABLE_SLOTS_AT + number * sizeof(*slot);
	unsigned int i;

	if (number >= READ_ONCE(table->slots))
		return false;
	/* Its words may lie in two pages. */
	for (i = 0; i < sizeof(*slot) / sizeof(u64); i++) {
		const u64 *word = table_address(table, offset + i * sizeof(u64));

		if (!word)
			return false;
		((u64 *)slot)[i] = READ_ONCE(*word);
	}
	return true;
}

/* As fiber_slot_id(). */
u64 fiber_table_slot_id(struct fiber_process *process, u32 number)
{
	struct fiber_observations *table = process->table;
	u64 offset = FIBER_TABLE_SLOTS_AT + number * sizeof(struct fiber_slot);
	const u64 *word;
	u64 id = 0;

	rcu_read_lock();
	if (!READ_ONCE(process->dead) && number < READ_ONCE(table->slots)) {
		word = table_address(table, offset + offsetof(struct fiber_slot, id));
		if (word)
			id = READ_ONCE(*word);
	}
	rcu_read_unlock();
	return (id & FIBER_SLOT_MASK) == number ? id : 0;
}

/* The division traps where its result does not fit, so that what is nonsense is cut. */
static u64 cycles_to_ns(u64 cycles)
{
	if (!tsc_khz)
		return 0;
	return mul_u64_u32_div(min(cycles, (u64)tsc_khz << 40), 1000000, tsc_khz);
}

/* Who runs area @number, or NULL. Under RCU. */
static struct fiber_watch *watch_find(struct fiber_observations *table, u32 number)
{
	struct fiber_block *block;

	if (!number || number >= FIBER_AREAS)
		return NULL;
	number = array_index_nospec(number, FIBER_AREAS);
	/* Pairs with block_get(). */
	block = smp_load_acquire(&table->blocks[number / BLOCK_AREAS]);
	return block ? rcu_dereference(block->watches[number % BLOCK_AREAS]) : NULL;
}

/* Cycles that the thread has been running that fiber, as far as it says so. */
static u64 watch_run(const struct fiber_watch *watch, u64 id)
{
	const struct fiber_area *area = watch->area;
	u64 since = READ_ONCE(area->since), off_since = READ_ONCE(area->off_since);
	u64 left = READ_ONCE(watch->left), off = READ_ONCE(watch->off);
	s64 run = (left ?: rdtsc()) - since - (off - off_since);

	return READ_ONCE(area->fiber) == id && run > 0 ? run : 0;
}

/* The number that the process gave, as the reader's namespace has it; else 0. Under RCU. */
static pid_t parent_nr(const struct fiber_process *process, u32 nr, struct pid_namespace *pid_ns)
{
	struct pid_namespace *own = ns_of_pid(process->pid);

	if (nr > PID_MAX_LIMIT)
		return 0;
	return own == pid_ns ? nr : pid_nr_ns(find_pid_ns(nr, own), pid_ns);
}

/* Fills in what is to be seen of a fiber; false if it is not there. */
bool fiber_table_look(struct fiber_process *process, u64 id, struct pid_namespace *pid_ns,
		      struct fiber_snapshot *snapshot)
{
	static const char *const states[] = {
		[FIBER_STATE_NEW] = "new", [FIBER_STATE_RUNNING] = "running",
		[FIBER_STATE_SUSPENDED] = "suspended", [FIBER_STATE_FINISHED] = "finished",
	};
	struct fiber_observations *table = process->table;
	struct fiber_watch *watch = NULL;
	struct fiber_slot slot;
	u64 run = 0, now;

	rcu_read_lock();
	if (!slot_read(table, id & FIBER_SLOT_MASK, &slot) || slot.id != id) {
		rcu_read_unlock();
		return false;
	}
	if (slot.state == FIBER_STATE_RUNNING) {
		watch = watch_find(table, slot.area);
		/* Its next owner has it begin anew; a thread's own one is gone. */
		if (!watch)
			slot.state = slot.stack_size ? FIBER_STATE_NEW : FIBER_STATE_FINISHED;
	}
	if (watch)
		run = watch_run(watch, id);
	snapshot->thread = watch ? pid_nr_ns(watch->pid, pid_ns) : 0;
	snapshot->parent = parent_nr(process, slot.parent, pid_ns);
	rcu_read_unlock();

	now = rdtsc();
	snapshot->running = watch;
	snapshot->state = states[min_t(u32, slot.state, FIBER_STATE_FINISHED)];
	snapshot->times.exec_time = cycles_to_ns(slot.run_time + run);
	snapshot->times.longest_run = cycles_to_ns(max(slot.longest_run, run));
	snapshot->activations = slot.activations;
	snapshot->failed = slot.failed;
	snapshot->ip = watch ? 0 : slot.ip;
	snapshot->sp = watch ? 0 : slot.sp;
	snapshot->last_switch = slot.last_switch && now > slot.last_switch ?
				cycles_to_ns(now - slot.last_switch) : 0;
	snapshot->entry = slot.entry;
	snapshot->stack_start = slot.stack_start;
	snapshot->stack_size = slot.stack_size;
	snapshot->engine = "mapped";
	memcpy(snapshot->name, slot.name, sizeof(snapshot->name));
	snapshot->name[sizeof(snapshot->name) - 1] = '\0';
	return true;
}
