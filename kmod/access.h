/* SPDX-License-Identifier: GPL-2.0-only */
/* Who may see the addresses of a process: whoever may read its /proc/PID/maps. */
#ifndef FIBER_ACCESS_H
#define FIBER_ACCESS_H

#include <linux/types.h>

struct dentry;
struct pid;
struct super_block;

bool fiber_access_addresses(struct dentry *pid_dir, struct pid *pid);
struct dentry *fiber_access_pid_dir(struct super_block *sb, pid_t nr);

#endif /* FIBER_ACCESS_H */
