// SPDX-License-Identifier: GPL-2.0-only
/*
 * CPU time of the fibers that the module switches.
 *
 * A thread's CPU time is the time that the scheduler has booked when the thread
 * goes on or off the CPU, and that plus the clock's advance while it runs. Each
 * switch of fibers charges the fiber that is suspended with the time that the
 * thread has used since the last switch, so the times of its fibers add up to
 * the thread's.
 */
#include <linux/jiffies.h>
#include <linux/lockdep.h>
#include <linux/sched.h>
#include <linux/sched/clock.h>

#include "account.h"

static u64 thread_cpu_time(const struct fiber_thread *thread, u64 now)
{
	u64 time = thread->cpu_base;

	/* Clocks of two CPUs may differ a little. */
	if (thread->clock_base && now > thread->clock_base)
		time += now - thread->clock_base;
	return time;
}

void fiber_account_sched_in(struct preempt_notifier *notifier, int cpu)
{
	struct fiber_thread *thread = container_of(notifier, struct fiber_thread, notifier);

	raw_write_seqcount_begin(&thread->seq);
	thread->clock_base = local_clock();
	raw_write_seqcount_end(&thread->seq);
}

void fiber_account_sched_out(struct preempt_notifier *notifier, struct task_struct *next)
{
	struct fiber_thread *thread = container_of(notifier, struct fiber_thread, notifier);

	raw_write_seqcount_begin(&thread->seq);
	thread->cpu_base = current->se.sum_exec_runtime;
	thread->clock_base = 0;
	raw_write_seqcount_end(&thread->seq);
}

/*
 * The calling thread, which has just been hooked, starts to be accounted, running
 * that fiber. Interrupts are off.
 */
void fiber_account_start(struct fiber_thread *thread, struct fiber *fiber)
{
	u64 now = local_clock(), unbooked;

	lockdep_assert_irqs_disabled();

	/*
	 * The scheduler books at least once a tick. If its clock leaves
	 * interrupts out, the difference means nothing: hence the bound.
	 */
	unbooked = min_t(u64, now - current->se.exec_start, TICK_NSEC);
	thread->cpu_base = current->se.sum_exec_runtime + unbooked;
	thread->clock_base = now;
	thread->charged = thread->cpu_base;
	thread->running = fiber;
	fiber->last_switch = now;
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
	from->times.cpu_time += run;
	if (run > from->times.longest_run)
		from->times.longest_run = run;
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
		times->cpu_time = READ_ONCE(fiber->times.cpu_time);
		times->longest_run = READ_ONCE(fiber->times.longest_run);
		return;
	}
	do {
		seq = raw_read_seqcount_begin(&thread->seq);
		*times = fiber->times;
		run = 0;
		if (thread->running == fiber) {
			u64 cpu = thread_cpu_time(thread, local_clock());

			if (cpu > thread->charged)
				run = cpu - thread->charged;
		}
	} while (read_seqcount_retry(&thread->seq, seq));
	times->cpu_time += run;
	times->longest_run = max(times->longest_run, run);
}
