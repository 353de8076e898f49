// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who may see the addresses of a process.
 *
 * The rule is that of /proc/PID/maps, PTRACE_MODE_READ with the credentials for
 * file systems: ids, capabilities, dumpability, user namespaces, and whatever
 * Yama, Landlock, AppArmor or SELinux add. The function that decides it is not
 * exported to modules. But the link /proc/PID/exe is read under the same rule,
 * and reading links is exported: so the answer comes from the kernel itself.
 */
#include <linux/dcache.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/namei.h>

#include "access.h"
#include "compat.h"

/* The directory /proc/PID of that mount, if the caller can enter it; or an error. */
struct dentry *fiber_access_pid_dir(struct super_block *sb, pid_t nr)
{
	struct dentry *dir;
	char name[12];
	int err;

	dir = fiber_lookup_one(name, snprintf(name, sizeof(name), "%d", nr), sb->s_root);
	if (IS_ERR(dir))
		return dir;
	/* hidepid, and a process that has ended. */
	err = d_really_is_negative(dir) ? -ENOENT :
	      inode_permission(FIBER_NOP_IDMAP, d_inode(dir), MAY_EXEC);
	if (!err)
		return dir;
	dput(dir);
	return ERR_PTR(err);
}

/* Whether the caller may see the addresses of the process whose /proc/PID that is. May sleep. */
bool fiber_access_addresses(struct dentry *pid_dir)
{
	struct dentry *exe = fiber_lookup_one("exe", 3, pid_dir);
	bool may = false;

	if (IS_ERR(exe))
		return false;
	/* Nothing is copied: the length is 0. */
	if (d_really_is_positive(exe))
		may = vfs_readlink(exe, NULL, 0) >= 0;
	dput(exe);
	return may;
}
