/* SPDX-License-Identifier: GPL-2.0-only */
/* Readers who may read /proc/PID/maps of a process may see its addresses. */
#ifndef FIBER_ACCESS_H
#define FIBER_ACCESS_H

#include <linux/types.h>

struct dentry;
struct pid;
struct super_block;

bool fiber_access_addresses(struct dentry *pid_dir, struct pid *pid);
struct dentry *fiber_access_pid_dir(struct super_block *sb, pid_t nr);

#endif /* FIBER_ACCESS_H */
