// SPDX-License-Identifier: GPL-2.0-only
/* Loading and unloading, and the module's parameters. */
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/workqueue.h>

#include "device.h"
#include "exit.h"
#include "fibers.h"
#include "image.h"
#include "proc.h"
#include "process.h"
#include "report_lookup.h"
#include "thread.h"
#include "user.h"

/* An unsigned number within bounds; -EINVAL for any other. */
struct bounded {
	unsigned int *value;
	unsigned int least, most;
};

static int bounded_set(const char *text, const struct kernel_param *param)
{
	const struct bounded *bounded = param->arg;

	return param_set_uint_minmax(text, &(struct kernel_param) { .arg = bounded->value },
				     bounded->least, bounded->most);
}

static int bounded_get(char *buffer, const struct kernel_param *param)
{
	const struct bounded *bounded = param->arg;

	return sysfs_emit(buffer, "%u\n", READ_ONCE(*bounded->value));
}

static const struct kernel_param_ops bounded_ops = {
	.set = bounded_set,
	.get = bounded_get,
};

unsigned int fiber_max_fibers = 65536;
static struct bounded max_fibers = { &fiber_max_fibers, 1, FIBER_SLOT_MASK };

module_param_cb(max_fibers, &bounded_ops, &max_fibers, 0644);
MODULE_PARM_DESC(max_fibers, "Fibers that a process may have, 1 to 1048575; read when it opens the device (default 65536)");

unsigned int fiber_max_user_kib = 65536;
static struct bounded max_user_kib = { &fiber_max_user_kib, 0, UINT_MAX / 2 };

module_param_cb(max_user_kib, &bounded_ops, &max_user_kib, 0644);
MODULE_PARM_DESC(max_user_kib, "Kernel memory in KiB that all fibers of a user may take, but for CAP_SYS_RESOURCE (default 65536)");

bool fiber_proc_pid = true;
module_param_named(proc_pid, fiber_proc_pid, bool, 0444);
MODULE_PARM_DESC(proc_pid, "Show fibers under /proc/PID/fiber, else in /proc/fiber (default Y)");

static int fiber_get_count(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "%ld\n", atomic_long_read((atomic_long_t *)param->arg));
}

/* Called if the parameter is given to insmod, whatever its mode is. */
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

	err = fiber_report_init();
	if (err)
		return err;
	fiber_workqueue = alloc_workqueue("fiber", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!fiber_workqueue)
		return -ENOMEM;
	err = fiber_xstate_cache_init();
	if (err)
		goto workqueue;
	err = fiber_cache_init();
	if (err)
		goto xstate_cache;
	err = fiber_hooks_init();
	if (err)
		goto cache;
	err = fiber_device_init();
	if (err)
		goto hooks;
	/* Last, because it cannot be undone while somebody uses it. */
	fiber_proc_init();
	return 0;

hooks:
	fiber_hooks_exit();
cache:
	fiber_cache_exit();
xstate_cache:
	fiber_xstate_cache_exit();
workqueue:
	destroy_workqueue(fiber_workqueue);
	return err;
}

/* No descriptor is open, no thread is a fiber and no file or directory of ours is in use. */
static void __exit fiber_exit(void)
{
	int i;

	fiber_device_exit();
	fiber_hooks_exit();
	fiber_process_end_all();
	fiber_proc_exit();
	/* Works are queued by RCU callbacks, and the first work of a process queues its second. */
	for (i = 0; i < 2; i++) {
		rcu_barrier();
		flush_workqueue(fiber_workqueue);
	}
	destroy_workqueue(fiber_workqueue);
	/* Fibers that the works freed last, and threads. */
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
