// SPDX-License-Identifier: GPL-2.0-only
/*
 * Snapshots: one copy of a fiber's public state, for FIBER_IOC_STAT and /proc.
 * Taking one needs no lock, so that no reader can make a request wait.
 */
#include <linux/math64.h>
#include <linux/nospec.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched/clock.h>
#include <asm/tsc.h>

#include "account.h"
#include "args.h"
#include "attach.h"
#include "find.h"
#include "owner.h"
#include "snapshot.h"
#include "table.h"

/*
 * The time of a running fiber is an estimate: the scheduler may book less, as its
 * clock can leave interrupts out. A time that was shown once does not go back.
 */
static u64 not_back(atomic64_t *shown, u64 value)
{
	s64 before = atomic64_read(shown);

	while (before < (s64)value && !atomic64_try_cmpxchg(shown, &before, value))
		;
	return max_t(u64, before, value);
}

static void read_name(struct fiber_process *process, const struct fiber *fiber, char *name)
{
	unsigned int seq;

	do {
		seq = read_seqbegin(&process->names);
		memcpy(name, fiber->name, FIBER_NAME_SIZE);
	} while (read_seqretry(&process->names, seq));
	/* In case it is ever written without its end. */
	name[FIBER_NAME_SIZE - 1] = '\0';
}

/* fiber_engine.snapshot. A switch may come in between: the fields are of two moments then. */
bool fiber_snapshot_kernel(struct fiber_process *process, u64 id, struct pid_namespace *pid_ns,
			   struct fiber_snapshot *snapshot)
{
	u64 last_switch, now = local_clock();
	struct fiber_thread *thread;
	struct fiber_times times;
	struct fiber *fiber;
	long owner;

	rcu_read_lock();
	fiber = READ_ONCE(process->dead) ? NULL : fiber_find(process, id);
	owner = fiber ? atomic_long_read_acquire(&fiber->owner) : OWNER_DELETED;
	if (owner == OWNER_DELETED) {
		rcu_read_unlock();
		return false;
	}
	thread = owner_thread(owner);
	fiber_account_read(fiber, thread, &times);
	snapshot->cpu_time = not_back(&fiber->shown_time, times.cpu_time);
	snapshot->longest_run = not_back(&fiber->shown_run, times.longest_run);
	/* Another reader may have shown a longer run, after the time that contains it. */
	snapshot->cpu_time = max(snapshot->cpu_time, snapshot->longest_run);
	snapshot->thread = thread ? pid_nr_ns(thread->pid, pid_ns) : 0;
	if (thread)
		snapshot->state = FIBER_STATE_RUNNING;
	else if (owner == OWNER_FINISHED)
		snapshot->state = FIBER_STATE_FINISHED;
	else
		snapshot->state = READ_ONCE(fiber->started) ? FIBER_STATE_SUSPENDED :
							      FIBER_STATE_NEW;
	snapshot->id = id;
	snapshot->activations = READ_ONCE(fiber->activations);
	snapshot->failed = atomic64_read(&fiber->failed);
	snapshot->ip = thread ? 0 : READ_ONCE(fiber->context.ip);
	snapshot->sp = thread ? 0 : READ_ONCE(fiber->context.sp);
	last_switch = READ_ONCE(fiber->last_switch);
	snapshot->last_switch = now > last_switch ? now - last_switch : 0;
	snapshot->entry = fiber->entry;
	snapshot->parent = pid_nr_ns(fiber->parent, pid_ns);
	snapshot->stack_start = fiber->stack_start;
	snapshot->stack_size = fiber->stack_size;
	snapshot->engine = FIBER_ENGINE_KERNEL;
	read_name(process, fiber, snapshot->name);
	rcu_read_unlock();
	return true;
}

/* The division traps where its result does not fit, so nonsense is cut. */
static u64 cycles_to_ns(u64 cycles)
{
	if (!tsc_khz)
		return 0;
	return mul_u64_u32_div(min(cycles, (u64)tsc_khz << 40), 1000000, tsc_khz);
}

/* The number that the process gave, as the reader's namespace has it; else 0. Under RCU. */
static pid_t parent_nr(const struct fiber_process *process, u32 nr, struct pid_namespace *pid_ns)
{
	struct pid_namespace *own = ns_of_pid(process->pid);

	if (nr > PID_MAX_LIMIT)
		return 0;
	return own == pid_ns ? nr : pid_nr_ns(find_pid_ns(nr, own), pid_ns);
}

/* fiber_engine.snapshot. The process wrote most of it, and may have written anything. */
bool fiber_snapshot_mapped(struct fiber_process *process, u64 id, struct pid_namespace *pid_ns,
			   struct fiber_snapshot *snapshot)
{
	struct fiber_thread *thread = NULL;
	struct status_table *table;
	struct fiber_slot slot;
	u64 run = 0, now;

	rcu_read_lock();
	table = fiber_table_of(process);
	if (!table || !fiber_table_read_slot(table, id & FIBER_SLOT_MASK, &slot) ||
	    slot.id != id) {
		rcu_read_unlock();
		return false;
	}
	if (slot.state == FIBER_STATE_RUNNING) {
		thread = fiber_attach_find(table, slot.area);
		/* Its next owner starts it again; a root fiber's thread is gone. */
		if (!thread)
			slot.state = slot.stack_size ? FIBER_STATE_NEW : FIBER_STATE_FINISHED;
	}
	if (thread)
		run = fiber_attach_run(thread, id, slot.last_switch);
	snapshot->thread = thread ? pid_nr_ns(thread->pid, pid_ns) : 0;
	snapshot->parent = parent_nr(process, slot.parent, pid_ns);
	rcu_read_unlock();

	now = rdtsc();
	snapshot->state = min_t(u32, slot.state, FIBER_STATE_FINISHED);
	snapshot->id = id;
	snapshot->cpu_time = cycles_to_ns(slot.run_time + run);
	snapshot->longest_run = cycles_to_ns(max(slot.longest_run, run));
	snapshot->activations = slot.activations;
	snapshot->failed = slot.failed;
	snapshot->ip = thread ? 0 : slot.ip;
	snapshot->sp = thread ? 0 : slot.sp;
	snapshot->last_switch = slot.last_switch && now > slot.last_switch ?
				cycles_to_ns(now - slot.last_switch) : 0;
	snapshot->entry = slot.entry;
	snapshot->stack_start = slot.stack_start;
	snapshot->stack_size = slot.stack_size;
	snapshot->engine = FIBER_ENGINE_MAPPED;
	memcpy(snapshot->name, slot.name, sizeof(snapshot->name));
	snapshot->name[sizeof(snapshot->name) - 1] = '\0';
	return true;
}

/*
 * Fills in a fiber, pids as that namespace has them; false if it is not there. The
 * caller has a reference to the process, which may have ended.
 */
bool fiber_snapshot_take(struct fiber_process *process, u64 id, struct pid_namespace *pid_ns,
			 struct fiber_snapshot *snapshot)
{
	const struct fiber_engine *engine = READ_ONCE(process->engine);

	*snapshot = (struct fiber_snapshot) { .size = sizeof(*snapshot) };
	return engine && engine->snapshot(process, id, pid_ns, snapshot);
}

/* The id of the fiber in that slot, 0 if there is none or the process has ended. */
u64 fiber_snapshot_id(struct fiber_process *process, u32 slot)
{
	const struct fiber_engine *engine = READ_ONCE(process->engine);

	return engine ? engine->slot_id(process, slot) : 0;
}

/* Slots at and above this one are empty. */
u32 fiber_snapshot_slots(const struct fiber_process *process)
{
	const struct fiber_engine *engine = READ_ONCE(process->engine);

	return engine ? engine->slots(process) : 0;
}

/* FIBER_IOC_STAT */
long fiber_stat(struct fiber_process *process, struct fiber_snapshot __user *user)
{
	struct fiber_snapshot snapshot;
	u32 size;
	u64 id;
	int err;

	err = fiber_args_copy(&snapshot, sizeof(snapshot), user, sizeof(snapshot));
	if (err)
		return err;
	size = snapshot.size;
	id = snapshot.id;
	if (!id) {
		struct fiber_thread *thread = fiber_caller(process);

		if (!thread)
			return -EPERM;
		id = thread->running->id;
	}
	if (!fiber_snapshot_take(process, id, task_active_pid_ns(current), &snapshot))
		return -ESRCH;
	snapshot.size = size;
	return copy_to_user(user, &snapshot, min_t(size_t, size, sizeof(snapshot))) ? -EFAULT : 0;
}
