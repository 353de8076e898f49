// SPDX-License-Identifier: GPL-2.0-only
/* Loading and unloading, and the module's parameters. */
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/workqueue.h>

#include "internal.h"

unsigned int fiber_max_fibers = 65536;
module_param_named(max_fibers, fiber_max_fibers, uint, 0644);
MODULE_PARM_DESC(max_fibers, "Fibers that a process may have, 1 to 1048575; read when it opens the device (default 65536)");

bool fiber_proc_pid = true;
module_param_named(proc_pid, fiber_proc_pid, bool, 0444);
MODULE_PARM_DESC(proc_pid, "Show fibers under /proc/PID/fiber, else in /proc/fiber/PID (default Y)");

static int fiber_get_count(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "%ld\n", atomic_long_read((atomic_long_t *)param->arg));
}

/* On the line of insmod; the kernel calls it unasked. */
static int fiber_set_count(const char *value, const struct kernel_param *param)
{
	return -EPERM;
}

static const struct kernel_param_ops fiber_count_ops = {
	.set = fiber_set_count,
	.get = fiber_get_count,
};

module_param_cb(processes, &fiber_count_ops, &fiber_processes, 0444);
MODULE_PARM_DESC(processes, "Process entries in memory (read-only)");
module_param_cb(threads, &fiber_count_ops, &fiber_threads, 0444);
MODULE_PARM_DESC(threads, "Threads that are fibers (read-only)");
module_param_cb(fibers, &fiber_count_ops, &fiber_fibers, 0444);
MODULE_PARM_DESC(fibers, "Fibers in memory (read-only)");

struct workqueue_struct *fiber_workqueue;

static int __init fiber_init(void)
{
	int err;

	err = fiber_lookup_init();
	if (err)
		return err;
	fiber_workqueue = alloc_workqueue("fiber", WQ_UNBOUND, 0);
	if (!fiber_workqueue)
		return -ENOMEM;
	err = fiber_xstate_cache_init();
	if (err)
		goto workqueue;
	err = fiber_cache_init();
	if (err)
		goto xstate_cache;
	err = fiber_account_init();
	if (err)
		goto cache;
	err = fiber_device_init();
	if (err)
		goto account;
	/* Last, since whoever is in there cannot be sent away. */
	fiber_procfs_init();
	return 0;

account:
	fiber_account_exit();
cache:
	fiber_cache_exit();
xstate_cache:
	fiber_xstate_cache_exit();
workqueue:
	destroy_workqueue(fiber_workqueue);
	return err;
}

/* No descriptor is open, no thread is a fiber and nobody is in our part of /proc. */
static void __exit fiber_exit(void)
{
	fiber_device_exit();
	fiber_account_exit();
	fiber_process_end_all();
	/* The end of a process closes what is open of it and queues its freeing. */
	flush_workqueue(fiber_workqueue);
	destroy_workqueue(fiber_workqueue);
	fiber_procfs_exit();
	/* Fibers and threads that wait for their readers. */
	rcu_barrier();
	fiber_cache_exit();
	fiber_xstate_cache_exit();
}

module_init(fiber_init);
module_exit(fiber_exit);

MODULE_DESCRIPTION("Fibers that the kernel knows: Windows' fibers for Linux");
MODULE_AUTHOR("The kfiber authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
