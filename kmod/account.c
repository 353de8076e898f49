// SPDX-License-Identifier: GPL-2.0-only
/*
 * CPU time of fibers, and the hooks into the scheduler, exit and exec.
 *
 * A thread's CPU time is what the scheduler has booked when the thread goes on
 * or off the CPU, and that plus the clock's advance while it runs. Each switch
 * of fibers charges the one that is left with what the thread has used since
 * the last switch, so the times of its fibers add up to the thread's.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/jiffies.h>
#include <linux/sched/clock.h>
#include <linux/sched/signal.h>
#include <linux/tracepoint.h>

#include "compat.h"
#include "internal.h"

static u64 thread_cpu_time(const struct fiber_thread *thread, u64 now)
{
	u64 time = thread->cpu_base;

	/* Clocks of two CPUs may differ a little. */
	if (thread->clock_base && now > thread->clock_base)
		time += now - thread->clock_base;
	return time;
}

static void thread_sched_in(struct preempt_notifier *notifier, int cpu)
{
	struct fiber_thread *thread = container_of(notifier, struct fiber_thread, notifier);

	raw_write_seqcount_begin(&thread->seq);
	thread->clock_base = local_clock();
	raw_write_seqcount_end(&thread->seq);
}

static void thread_sched_out(struct preempt_notifier *notifier, struct task_struct *next)
{
	struct fiber_thread *thread = container_of(notifier, struct fiber_thread, notifier);

	raw_write_seqcount_begin(&thread->seq);
	thread->cpu_base = current->se.sum_exec_runtime;
	thread->clock_base = 0;
	raw_write_seqcount_end(&thread->seq);
}

/* Going off runs under the scheduler's lock: adds numbers only. */
struct preempt_ops fiber_preempt_ops = {
	.sched_in = thread_sched_in,
	.sched_out = thread_sched_out,
};

/* The calling thread starts to be accounted, running that fiber. */
void fiber_account_start(struct fiber_thread *thread, struct fiber *fiber)
{
	u64 now, unbooked;

	local_irq_disable();
	now = local_clock();
	/*
	 * The scheduler books at least once a tick. Where its clock leaves
	 * interrupts out, the difference means nothing: hence the bound.
	 */
	unbooked = min_t(u64, now - current->se.exec_start, TICK_NSEC);
	thread->cpu_base = current->se.sum_exec_runtime + unbooked;
	thread->clock_base = now;
	thread->charged = thread->cpu_base;
	thread->running = fiber;
	fiber->last_switch = now;
	preempt_notifier_register(&thread->notifier);
	local_irq_enable();
}

/*
 * Charges the fiber that the thread runs and makes it run @to, NULL when it
 * ends. Interrupts are off.
 */
void fiber_account_switch(struct fiber_thread *thread, struct fiber *to)
{
	struct fiber *from = thread->running;
	u64 now = local_clock();
	u64 cpu = thread_cpu_time(thread, now);
	u64 run = 0;

	raw_write_seqcount_begin(&thread->seq);
	if (likely(cpu > thread->charged)) {
		run = cpu - thread->charged;
		thread->charged = cpu;
	}
	from->exec_time += run;
	if (run > from->longest_run)
		from->longest_run = run;
	from->last_switch = now;
	thread->running = to;
	if (likely(to)) {
		to->started = true;
		to->activations++;
		to->last_switch = now;
	}
	raw_write_seqcount_end(&thread->seq);
}

/*
 * Reads a fiber's times, with the part of a fiber that is running. @thread: its
 * owner's thread or NULL. Under RCU.
 */
void fiber_account_read(const struct fiber *fiber, struct fiber_thread *thread,
			struct fiber_times *times)
{
	unsigned int seq;
	u64 run;

	if (!thread) {
		times->exec_time = READ_ONCE(fiber->exec_time);
		times->longest_run = READ_ONCE(fiber->longest_run);
		return;
	}
	do {
		seq = raw_read_seqcount_begin(&thread->seq);
		times->exec_time = fiber->exec_time;
		times->longest_run = fiber->longest_run;
		run = 0;
		if (thread->running == fiber) {
			u64 cpu = thread_cpu_time(thread, local_clock());

			if (cpu > thread->charged)
				run = cpu - thread->charged;
		}
	} while (read_seqcount_retry(&thread->seq, seq));
	times->exec_time += run;
	times->longest_run = max(times->longest_run, run);
}

static void probe_exit(void *data, FIBER_EXIT_PROBE_ARGS)
{
	struct fiber_thread *thread = fiber_thread_current();
	struct fiber_watch *watch = fiber_watch_current();

	if (thread)
		fiber_thread_end(thread);
	if (watch)
		fiber_watch_end(watch);
	/* Counted down before: two racing threads may see 0, each of them at the end. */
	if (!atomic_read(&current->signal->live))
		fiber_process_end(current->signal);
}

static void probe_exec(void *data, struct task_struct *task, pid_t old_pid,
		       struct linux_binprm *bprm)
{
	struct fiber_thread *thread = fiber_thread_current();
	struct fiber_watch *watch = fiber_watch_current();

	if (thread)
		fiber_thread_end(thread);
	if (watch)
		fiber_watch_end(watch);
	fiber_process_end(current->signal);
}

/* Neither is exported by name. */
static struct hook {
	const char *name;
	void *probe;
	struct tracepoint *tracepoint;
} hooks[] = {
	{ "sched_process_exit", probe_exit },
	{ "sched_process_exec", probe_exec },
};

static void hook_match(struct tracepoint *tracepoint, void *data)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(hooks); i++)
		if (!strcmp(tracepoint->name, hooks[i].name))
			hooks[i].tracepoint = tracepoint;
}

static void unhook(unsigned int nr)
{
	while (nr--)
		tracepoint_probe_unregister(hooks[nr].tracepoint, hooks[nr].probe, NULL);
	tracepoint_synchronize_unregister();
}

int __init fiber_account_init(void)
{
	unsigned int i;
	int err;

	for_each_kernel_tracepoint(hook_match, NULL);
	for (i = 0; i < ARRAY_SIZE(hooks); i++) {
		err = -ENOENT;
		if (hooks[i].tracepoint)
			err = tracepoint_probe_register(hooks[i].tracepoint, hooks[i].probe, NULL);
		if (err) {
			pr_err("cannot watch %s, without which nothing is safe: error %d\n",
			       hooks[i].name, err);
			unhook(i);
			return err;
		}
	}
	preempt_notifier_inc();
	return 0;
}

void fiber_account_exit(void)
{
	unhook(ARRAY_SIZE(hooks));
	preempt_notifier_dec();
}
