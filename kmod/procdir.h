/* SPDX-License-Identifier: GPL-2.0-only */
/* The directory /proc/PID/fiber and its files. */
#ifndef FIBER_PROCDIR_H
#define FIBER_PROCDIR_H

#include <linux/types.h>

struct dentry;
struct dir_context;
struct file;
struct inode;

#define FIBER_PROCDIR "fiber"

struct dentry *fiber_procdir_lookup(struct inode *dir, struct dentry *dentry);
bool fiber_procdir_emit(struct file *file, struct dir_context *ctx);

#endif /* FIBER_PROCDIR_H */
