// SPDX-License-Identifier: GPL-2.0-only
/* Where fibers are shown: under /proc/PID/fiber, else in /proc/fiber. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/errno.h>
#include <linux/printk.h>

#include "fallback.h"
#include "proc.h"
#include "redirect.h"

void __init fiber_proc_init(void)
{
	int err = 0;

	if (fiber_proc_pid) {
		err = fiber_redirect_init();
		if (!err)
			return;
		if (err == -EBUSY)
			pr_info("/proc/PID cannot be redirected: kernel.ftrace_enabled is 0, or a live patch has proc_tgid_base_lookup() or proc_tgid_base_readdir()\n");
		else
			pr_info("/proc/PID cannot be redirected: error %d\n", err);
	}
	if (fiber_fallback_init())
		pr_warn("fibers are not shown in /proc: no memory\n");
	else
		pr_info("fibers are shown in /proc/fiber, not under /proc/PID/fiber%s\n",
			err ? "" : ": proc_pid=N");
}

void fiber_proc_exit(void)
{
	fiber_redirect_exit();
	fiber_fallback_exit();
}
