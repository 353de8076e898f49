/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The objects of the module, who owns them, and which lock guards what.
 *
 *	process --- owns ---> fibers (slots), each until it is deleted
 *	   ^  ^
 *	   |  +-- a reference each: the table of processes until the image ends,
 *	   |      every open descriptor, every inode and open file under /proc
 *	   +----- a reference each, and a user: threads, from conversion to exit
 *
 *	table <--- a reference each: the process until its image ends, every VMA
 *	user  <--- the account of each process; both live as long as bytes are
 *	           charged to them
 *
 * When the image has ended and its last thread has left the module, the fibers
 * are freed. References that remain keep an empty entry.
 *
 * Locks, none of which is taken inside another one except as it says:
 *	status_table.lock	mutex; taken by requests of its process, killable
 *	fiber_process.names	seqlock; readers take nothing
 *	status_table.places	raw spinlock, inside status_table.lock
 *	processes_lock		raw spinlock, in process.c
 *	users_lock		raw spinlock, in user.c; inside processes_lock
 *	fiber_tables.lock	raw spinlock, in report_lookup.c
 *
 * Slots need no lock: an id belongs to the thread that reserved it until it is
 * published, and then to the thread that claims its fiber for deletion. Readers
 * use RCU. Nothing outside the process waits for one of its requests.
 *
 * The switch takes no lock. It rests on one word, fiber.owner: see owner.h.
 *
 * Exit and exec reach the module in tracepoint probes (which can be atomic, in
 * the thread's own context). A work queue does what may sleep; its works wait
 * for nothing that a user can hold.
 */
#ifndef FIBER_TYPES_H
#define FIBER_TYPES_H

#include <linux/atomic.h>
#include <linux/idr.h>
#include <linux/irq_work.h>
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

struct fiber;
struct fiber_storage;
struct fiber_tables;
struct fiber_thread;
struct fiber_user;
struct pid_namespace;
struct status_table;

/* Slots are kept in chunks, which are allocated as ids reach them. */
#define FIBER_CHUNK_SHIFT	9
#define FIBER_CHUNK_SIZE	((u32)BIT(FIBER_CHUNK_SHIFT))
#define FIBER_SLOT_MASK		((1U << FIBER_SLOT_BITS) - 1)

struct fiber_chunk {
	struct fiber __rcu *fibers[FIBER_CHUNK_SIZE];
};

/**
 * struct fiber_process - the fibers of one process image
 * @node: in the table of processes; processes_lock, read under RCU
 * @refs: see the drawing above
 * @users: the image until it ends, and the threads: they may touch the fibers
 * @mm: identifies the caller as this process, together with @signal; pinned by
 *      mmgrab(), so that no other mm gets this address
 * @signal: the thread group's; compared, never followed
 * @pid: of the thread group; a reference
 * @user: its account, which pays for all that the process allocates
 * @engine: switches the fibers; NULL until the first conversion or mapping,
 *	    then constant
 * @table: the status table, for engine `mapped`; set once, a reference until
 *	   the image has ended
 * @dead: it exited or called execve(). Never reset. Set under processes_lock.
 *	  A reader that is no user checks this in the RCU section in which it
 *	  looks for fibers
 * @shown: a thread has been converted or attached, so /proc shows the directory
 * @names: guards the names of the fibers
 * @ids: the slots in use
 * @generation: of the next id; grows with every deletion, so that no id returns
 * @end: one above the highest slot ever used; grows only
 * @max: the highest slot
 * @left: threads in FIBER_IOC_RETIRE wait here
 * @wake: wakes these, from any context
 * @end_work: frees the fibers after the last user
 * @free_work: frees it after the last reference
 * @tables: of the report's look-ups, where one of those is in use
 * @chunks: each is added once, by cmpxchg(); RCU for readers. Freed when the
 *	    image has ended, as are @tables, @mm's reference, and the charge: what
 *	    others hold then is an empty shell
 */
struct fiber_process {
	struct hlist_node node;
	refcount_t refs;
	refcount_t users;
	struct mm_struct *mm;
	struct signal_struct *signal;
	struct pid *pid;
	struct fiber_user *user;
	const struct fiber_engine *engine;
	struct status_table *table;
	bool dead;
	bool shown;

	seqlock_t names;
	struct ida ids;
	atomic64_t generation;
	atomic_t end;
	u32 max;

	wait_queue_head_t left;
	struct irq_work wake;
	struct rcu_work end_work;
	struct rcu_work free_work;
	struct fiber_tables *tables;
	struct fiber_chunk __rcu **chunks;
};

/**
 * struct fiber_engine - how fibers of a process are switched
 * @preempt: hooks into the scheduler for its threads. Going off the CPU runs
 *	     under the scheduler's lock: it stores numbers and does no more
 * @end: the calling thread will not return to user mode as it was: it exits, or
 *	 has called execve(). In a tracepoint's probe
 * @snapshot: fills in the fiber of that id, pids as in that namespace; false if
 *	      it is not there. Takes no lock
 * @slot_id: the id of the fiber in that slot, 0 if there is none
 * @slots: slots at and above this one are empty
 */
struct fiber_engine {
	struct preempt_ops preempt;
	void (*end)(struct fiber_thread *thread);
	bool (*snapshot)(struct fiber_process *process, u64 id, struct pid_namespace *pid_ns,
			 struct fiber_snapshot *snapshot);
	u64 (*slot_id)(struct fiber_process *process, u32 slot);
	u32 (*slots)(const struct fiber_process *process);
};

/* In engine.c. */
extern const struct fiber_engine fiber_engine_kernel, fiber_engine_mapped;

/**
 * struct fiber_thread - a thread that runs fibers
 * @notifier: on the task's own list, which is also how it is found; its
 *	      operations are those of the engine
 * @process: its process; a reference and a user
 * @pid: its pid; a reference
 * @user: pays for it
 * @rcu: readers of fiber.owner, and of the thread areas' threads
 *
 * With engine `kernel`:
 * @root_id: its root fiber
 * @node: in the report's table of threads, where that is in use
 * @seq: guards the fields below it against readers; the writer is the thread
 *       itself with interrupts off, or the scheduler switching it
 * @running: the fiber that the thread runs
 * @cpu_base: the thread's CPU time when it last went on or off the CPU, in ns
 * @clock_base: local_clock() when it went on the CPU; 0 while it is off
 * @charged: the CPU time up to which fibers have been charged, in ns
 *
 * With engine `mapped`:
 * @area: its thread area, in the kernel's mapping
 * @place: where it is known as that area's thread
 * @off: cycles off the CPU since it was attached
 * @off_at: cycle counter when it went off the CPU; 0 while it is on it
 *
 * Created, changed and unhooked by its own thread, or by its scheduler, only.
 */
struct fiber_thread {
	struct preempt_notifier notifier;
	struct fiber_process *process;
	struct pid *pid;
	struct fiber_user *user;
	struct rcu_head rcu;
	union {
		struct {
			u64 root_id;
			struct hlist_node node;
			seqcount_t seq;
			struct fiber *running;
			u64 cpu_base;
			u64 clock_base;
			u64 charged;
		};
		struct {
			struct fiber_thread_area *area;
			struct fiber_thread __rcu **place;
			u64 off;
			u64 off_at;
		};
	};
};

/* In ns. */
struct fiber_times {
	u64 cpu_time;
	u64 longest_run;
};

/**
 * struct fiber - a fiber that the module switches
 * @id: constant
 * @owner: owner.h
 * @context: the owner's
 * @mask: blocked signals while no thread runs it; the owner's
 * @first_mask: the same before its first instruction; constant
 * @rcu: readers of the slots, once it has been deleted, when it needs no masks
 * @started: it has run since its creation or reset; the owner's
 * @root_of: the thread whose root fiber this is, else NULL. Constant, compared,
 *	     never followed
 * @storage: local storage, NULL until the first allocation; the owner's
 * @activations, @times, @last_switch: the owner's, under the thread's seq; the
 *	last in ns of local_clock()
 * @failed: failed activations, by anybody
 * @shown_time, @shown_run: the times that were last shown
 * @entry, @start, @arg, @stack_start, @stack_size: as created; constant
 * @parent: pid of the creating thread; a reference
 * @user: pays for it
 * @name: zero-terminated; the process's names
 * @node: in the report's table of fibers, where that is in use
 */
struct fiber {
	u64 id;
	atomic_long_t owner;
	struct fiber_context context;
	union {
		struct {
			sigset_t mask;
			sigset_t first_mask;
		};
		struct rcu_head rcu;
	};
	bool started;
	struct fiber_thread *root_of;
	struct fiber_storage *storage;

	u64 activations;
	struct fiber_times times;
	u64 last_switch;
	atomic64_t failed;
	atomic64_t shown_time;
	atomic64_t shown_run;

	u64 entry;
	u64 start;
	u64 arg;
	u64 stack_start;
	u64 stack_size;
	struct pid *parent;
	struct fiber_user *user;
	char name[FIBER_NAME_SIZE];
	struct hlist_node node;
};

#endif /* FIBER_TYPES_H */
