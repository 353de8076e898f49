/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who exists, who owns whom, and under which lock.
 *
 *	process --- owns ---> fibers (slots), each until it is deleted
 *	   ^  ^
 *	   |  +-- a reference each: the table of processes until the image ends,
 *	   |      every open descriptor, every inode and open file under /proc
 *	   +----- a reference each, and a user: threads, from conversion to exit
 *
 * When the image has ended and its last thread is done, the fibers go; who
 * still has a reference keeps an empty shell.
 *
 * Lock order:
 *	fiber_process.lock (mutex)
 *	  fiber_processes_lock (raw spinlock, in process.c)
 *	  fiber_tables.lock (raw spinlock, in lookup.c)
 *
 * The switch takes none of them. It rests on one word, fiber.owner: whoever changes
 * it from FIBER_FREE owns the fiber's context until giving it back, and only an
 * owner may take a fiber away.
 *
 * Exit and exec reach us in tracepoint probes (atomic, in the thread's own
 * context); what may sleep is left to a work queue.
 */
#ifndef FIBER_INTERNAL_H
#define FIBER_INTERNAL_H

#include <linux/atomic.h>
#include <linux/idr.h>
#include <linux/mutex.h>
#include <linux/nospec.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/seqlock.h>
#include <linux/signal_types.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include <fiber.h>

#include "x86/context.h"

struct fiber_observations;
struct fiber_tables;
struct fiber_watch;
struct file;
struct pid_namespace;
struct proc_dir_entry;
struct vm_area_struct;

/* Slots are kept in chunks, which are allocated as ids reach them. */
#define FIBER_CHUNK_SHIFT	9
#define FIBER_CHUNK_SIZE	((u32)BIT(FIBER_CHUNK_SHIFT))
#define FIBER_SLOT_MASK		((1U << FIBER_SLOT_BITS) - 1)

struct fiber_chunk {
	struct fiber __rcu *fibers[FIBER_CHUNK_SIZE];
};

/**
 * struct fiber_process - the fibers of one process image
 * @node: in the table of processes; fiber_processes_lock, read under RCU
 * @refs: see the drawing above
 * @users: the image until it ends, and the threads: who may touch the fibers
 * @mm: what makes a caller this process, together with @signal; pinned by
 *      mmgrab(), so that the address means nobody else
 * @signal: the thread group's; compared, never followed
 * @pid: of the thread group; a reference
 * @engine: enum fiber_engine; set once
 * @table: what it shares with us, for FIBER_ENGINE_MAPPED; set once
 * @dead: it exited or called execve(). Never reset. Set under
 *      fiber_processes_lock. Who looks for fibers without being a user asks
 *      for this in the same RCU section, or under @lock
 * @converted: a thread has been converted or attached, so /proc shows the directory
 * @lock: guards the slots (@ids, @chunks, @generation, @end) and the names
 * @ids: the slots in use
 * @generation: of the next id; grows with every deletion, so that no id returns
 * @end: one above the highest slot ever used; read without the lock
 * @max: the highest slot
 * @left: threads in FIBER_IOC_RETIRE wait here
 * @end_work: frees the fibers after the last user
 * @free_work: frees it after the last reference
 * @tables: of the report's look-ups, where one of those is in use
 * @proc: /proc/fiber/PID, where that is in use
 * @rcu: readers of the table
 * @chunks: @lock for changes, RCU for readers; grows only
 */
struct fiber_process {
	struct hlist_node node;
	refcount_t refs;
	refcount_t users;
	struct mm_struct *mm;
	struct signal_struct *signal;
	struct pid *pid;
	int engine;
	struct fiber_observations *table;
	bool dead;
	bool converted;

	struct mutex lock;	/* guards what follows up to @end, and names */
	struct ida ids;
	u64 generation;
	u32 end;
	u32 max;

	wait_queue_head_t left;
	struct work_struct end_work;
	struct work_struct free_work;
	struct fiber_tables *tables;
	struct proc_dir_entry *proc;
	struct rcu_head rcu;
	struct fiber_chunk __rcu *chunks[];
};

/**
 * struct fiber_thread - a thread that is a fiber
 * @notifier: on the task's own list, which is also how it is found
 * @process: its process; a reference
 * @own_id: the fiber that the thread itself is
 * @pid: its pid; a reference
 * @node: in the table of threads, where that is in use
 * @seq: guards the fields below it against readers; the writer is the thread
 *       itself with interrupts off, or the scheduler switching it
 * @running: the fiber that the thread runs
 * @cpu_base: the thread's CPU time when it last went on or off the CPU, in ns
 * @clock_base: local_clock() when it went on the CPU; 0 while it is off
 * @charged: the CPU time up to which fibers have been charged, in ns
 * @rcu: readers of fiber.owner
 *
 * Created, changed and unhooked by its own thread only.
 */
struct fiber_thread {
	struct preempt_notifier notifier;
	struct fiber_process *process;
	u64 own_id;
	struct pid *pid;
	struct hlist_node node;

	seqcount_t seq;
	struct fiber *running;
	u64 cpu_base;
	u64 clock_base;
	u64 charged;

	struct rcu_head rcu;
};

/* Who switches the fibers of a process: for as long as its image lives. */
enum fiber_engine {
	FIBER_ENGINE_NONE,
	FIBER_ENGINE_KERNEL,
	FIBER_ENGINE_MAPPED,
};

/* In ns. */
struct fiber_times {
	u64 exec_time;
	u64 longest_run;
};

/* A fiber as one look found it; pids as the reader sees them, @last_switch ns ago. */
struct fiber_snapshot {
	struct fiber_times times;
	u64 activations;
	u64 failed;
	u64 ip;
	u64 sp;
	u64 last_switch;
	u64 entry;
	u64 stack_start;
	u64 stack_size;
	const char *state;
	const char *engine;
	bool running;
	pid_t thread;
	pid_t parent;
	char name[FIBER_NAME_SIZE];
};

/*
 * Values of fiber.owner besides the address of the thread that runs it. With
 * FIBER_DOOMED on top of the address, the thread whose own fiber this is has
 * ended or waits to: whoever leaves the fiber finishes it.
 */
#define FIBER_FREE	0L
#define FIBER_FINISHED	2L
#define FIBER_DELETED	4L
#define FIBER_DOOMED	1L

/**
 * struct fiber - a fiber
 * @id: constant
 * @owner: see above. Acquire on taking, release on giving back
 * @context: the owner's
 * @mask: blocked signals while nobody runs it; the owner's
 * @started: it has run since its creation or reset; the owner's
 * @flags: FIBER_FLAG_*; constant
 * @home: the thread that this fiber is, else NULL. Constant, compared, never
 *        followed
 * @fls: local storage, NULL until the first allocation; the owner's
 * @activations, @exec_time, @longest_run, @last_switch: the owner's, under the
 *        thread's seq; times in ns, the last by local_clock()
 * @failed: failed activations, by anybody
 * @shown: the times that were last shown; the process's lock
 * @entry, @arg, @stack_start, @stack_size, @first_mask: as created; constant
 * @parent: pid of the creating thread; a reference
 * @name: zero-terminated; the process's lock
 * @node: in the table of fibers, where that is in use
 * @rcu: readers of the slots
 */
struct fiber {
	u64 id;
	atomic_long_t owner;
	struct fiber_context context;
	sigset_t mask;
	bool started;
	u32 flags;
	struct fiber_thread *home;
	struct fiber_storage *fls;

	u64 activations;
	u64 exec_time;
	u64 longest_run;
	u64 last_switch;
	atomic64_t failed;
	struct fiber_times shown;

	u64 entry;
	u64 arg;
	u64 stack_start;
	u64 stack_size;
	sigset_t first_mask;
	struct pid *parent;
	char name[FIBER_NAME_SIZE];
	struct hlist_node node;
	struct rcu_head rcu;
};

/* The numbers of objects alive, shown as parameters of the module. */
extern atomic_long_t fiber_processes, fiber_threads, fiber_fibers;
extern unsigned int fiber_max_fibers;
extern bool fiber_proc_pid;
extern struct workqueue_struct *fiber_workqueue;

/* process.c */
struct fiber_process *fiber_process_open(void);
struct fiber_process *fiber_process_find(struct signal_struct *signal);
struct fiber_process *fiber_process_lookup(struct signal_struct *signal);
void fiber_process_get(struct fiber_process *process);
void fiber_process_put(struct fiber_process *process);
void fiber_process_unuse(struct fiber_process *process);
void fiber_process_end(struct signal_struct *signal);
void fiber_process_end_all(void);

/* Whether that is what switches its fibers, from now on if nothing did so far. */
static inline bool fiber_process_choose(struct fiber_process *process, enum fiber_engine engine)
{
	int before = cmpxchg(&process->engine, FIBER_ENGINE_NONE, engine);

	return before == FIBER_ENGINE_NONE || before == engine;
}

static inline bool fiber_process_is_current(const struct fiber_process *process)
{
	return process->mm == current->mm && process->signal == current->signal &&
	       !READ_ONCE(process->dead);
}

/* thread.c */
long fiber_thread_convert(struct fiber_process *process, struct fiber_convert __user *user);
long fiber_thread_revert(struct fiber_process *process);
long fiber_thread_retire(struct fiber_process *process);
void fiber_thread_end(struct fiber_thread *thread);

/* fibers.c */
int fiber_cache_init(void);
void fiber_cache_exit(void);
struct fiber *fiber_alloc(struct fiber_process *process, u32 flags);
int fiber_reserve(struct fiber_process *process, struct fiber *fiber);
void fiber_publish(struct fiber_process *process, struct fiber *fiber);
void fiber_unreserve(struct fiber_process *process, struct fiber *fiber);
void fiber_remove(struct fiber_process *process, struct fiber *fiber);
void fiber_free(struct fiber *fiber);
void fiber_reset(struct fiber *fiber);
long fiber_create(struct fiber_process *process, struct fiber_create __user *user);
long fiber_delete(struct fiber_process *process, u64 id);
long fiber_set_name(struct fiber_process *process, const struct fiber_name __user *user);
u64 fiber_slot_id(struct fiber_process *process, u32 slot);

static inline struct fiber_thread *fiber_owner_thread(long owner)
{
	if (owner == FIBER_FREE || owner == FIBER_FINISHED || owner == FIBER_DELETED)
		return NULL;
	return (struct fiber_thread *)(owner & ~FIBER_DOOMED);
}

extern struct preempt_ops fiber_preempt_ops;

/* lookup.c */
int fiber_lookup_init(void);
int fiber_tables_create(struct fiber_process *process);
void fiber_tables_destroy(struct fiber_process *process);
void fiber_tables_add_fiber(struct fiber_process *process, struct fiber *fiber);
void fiber_tables_remove_fiber(struct fiber_process *process, struct fiber *fiber);
void fiber_tables_add_thread(struct fiber_process *process, struct fiber_thread *thread);
void fiber_tables_remove_thread(struct fiber_process *process, struct fiber_thread *thread);
struct fiber_thread *fiber_tables_caller(struct fiber_process *process);
struct fiber *fiber_tables_find(struct fiber_process *process, u64 id);

extern enum fiber_lookup {
	FIBER_LOOKUP_DIRECT,
	FIBER_LOOKUP_HASH,
	FIBER_LOOKUP_SCAN,
} fiber_lookup;

/* What the calling thread is, or NULL if it is no fiber. In any context. */
static inline struct fiber_thread *fiber_thread_current(void)
{
	struct preempt_notifier *notifier;

	hlist_for_each_entry(notifier, &current->preempt_notifiers, link)
		if (notifier->ops == &fiber_preempt_ops)
			return container_of(notifier, struct fiber_thread, notifier);
	return NULL;
}

/* The calling thread, if it is a fiber of that process, else NULL. */
static inline struct fiber_thread *fiber_caller(struct fiber_process *process)
{
	struct fiber_thread *thread;

	if (unlikely(fiber_lookup != FIBER_LOOKUP_DIRECT))
		return fiber_tables_caller(process);
	thread = fiber_thread_current();
	return likely(thread && thread->process == process) ? thread : NULL;
}

/* What keeps a fiber that was found: RCU, which interrupts off include, or the lock. */
#define fiber_slots_held(process) \
	(lockdep_is_held(&(process)->lock) || rcu_read_lock_any_held())

/* The place of a fiber in the slots, or NULL. Under fiber_slots_held(). */
static inline struct fiber __rcu **fiber_slot(struct fiber_process *process, u32 slot)
{
	struct fiber_chunk *chunk;

	chunk = rcu_dereference_check(process->chunks[slot >> FIBER_CHUNK_SHIFT],
				      fiber_slots_held(process));
	return chunk ? &chunk->fibers[slot & (FIBER_CHUNK_SIZE - 1)] : NULL;
}

/*
 * Returns the fiber of that id or NULL. Under fiber_slots_held(), which is how
 * long the fiber stays unless the caller comes to own it.
 */
static inline struct fiber *fiber_find(struct fiber_process *process, u64 id)
{
	u32 slot = id & FIBER_SLOT_MASK;
	struct fiber __rcu **place;
	struct fiber *fiber;

	if (unlikely(fiber_lookup != FIBER_LOOKUP_DIRECT))
		return fiber_tables_find(process, id);
	if (unlikely(slot > process->max))
		return NULL;
	place = fiber_slot(process, array_index_nospec(slot, process->max + 1));
	if (unlikely(!place))
		return NULL;
	fiber = rcu_dereference_check(*place, fiber_slots_held(process));
	return likely(fiber && fiber->id == id) ? fiber : NULL;
}

/* switch.c */
long fiber_switch(struct fiber_process *process, u64 id);
void fiber_release(struct fiber *fiber, struct fiber_thread *thread);

/* fls.c */
long fiber_fls_alloc(struct fiber *fiber, u64 __user *user);
long fiber_fls_free(struct fiber *fiber, u64 index);
long fiber_fls_set(struct fiber *fiber, const struct fiber_fls __user *user);
long fiber_fls_get(struct fiber *fiber, struct fiber_fls __user *user);

/* table.c */
int fiber_table_mmap(struct file *file, struct vm_area_struct *vma);
long fiber_table_commit(struct fiber_process *process, unsigned long slots);
long fiber_table_attach(struct fiber_process *process, unsigned long number);
long fiber_table_detach(struct fiber_process *process);
void fiber_table_end(struct fiber_process *process);
void fiber_table_free(struct fiber_process *process);
u32 fiber_table_slots(const struct fiber_process *process);
u64 fiber_table_slot_id(struct fiber_process *process, u32 slot);
bool fiber_table_look(struct fiber_process *process, u64 id, struct pid_namespace *pid_ns,
		      struct fiber_snapshot *snapshot);
struct fiber_watch *fiber_watch_current(void);
void fiber_watch_end(struct fiber_watch *watch);

/* account.c */
void fiber_account_start(struct fiber_thread *thread, struct fiber *fiber);
void fiber_account_switch(struct fiber_thread *thread, struct fiber *to);
void fiber_account_read(const struct fiber *fiber, struct fiber_thread *thread,
			struct fiber_times *times);
int fiber_account_init(void);
void fiber_account_exit(void);

/* device.c */
int fiber_device_init(void);
void fiber_device_exit(void);

/* procfs.c */
void fiber_procfs_init(void);
void fiber_procfs_exit(void);
void fiber_procfs_add(struct fiber_process *process);
void fiber_procfs_remove(struct fiber_process *process);

#endif /* FIBER_INTERNAL_H */
