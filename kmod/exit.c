// SPDX-License-Identifier: GPL-2.0-only
/*
 * Threads that exit and images that are replaced: probes of two tracepoints.
 *
 * Probes run in the context of the thread itself. Up to Linux 6.17 they are
 * atomic and in an RCU section; later kernels promise neither, so the code that
 * they call asks for what it needs.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/sched/signal.h>
#include <linux/tracepoint.h>

#include "compat.h"
#include "exit.h"
#include "find.h"
#include "process.h"

static void thread_end(void)
{
	struct fiber_thread *thread = fiber_thread_current();

	if (thread)
		fiber_thread_engine(thread)->end(thread);
}

static void probe_exit(void *data, FIBER_EXIT_PROBE_ARGS)
{
	thread_end();
	/* Counted down before: two racing threads may see 0, each of them at the end. */
	if (!atomic_read(&current->signal->live))
		fiber_process_end(current->signal);
}

static void probe_exec(void *data, struct task_struct *task, pid_t old_pid,
		       struct linux_binprm *bprm)
{
	thread_end();
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

int __init fiber_hooks_init(void)
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

void fiber_hooks_exit(void)
{
	unhook(ARRAY_SIZE(hooks));
	preempt_notifier_dec();
}
