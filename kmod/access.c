// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who may see the addresses of a process.
 *
 * The rule is that of /proc/PID/maps, PTRACE_MODE_READ with the credentials for
 * file systems: ids, capabilities, dumpability, user namespaces, and whatever
 * Yama, Landlock, AppArmor or SELinux add. The function that decides it is not
 * exported to modules. But the link /proc/PID/exe is read under the same rule,
 * and reading links is exported: so the answer comes from the kernel itself. Only
 * CAP_PERFMON, which newer kernels accept for maps, has to be asked for besides.
 */
#include <linux/dcache.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/namei.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>

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

/* What reading the link `exe` in that directory gives: 0 or more, or an error. */
static int read_exe(struct dentry *dir)
{
	struct dentry *exe = fiber_lookup_one("exe", 3, dir);
	int err = -ENOENT;

	if (IS_ERR(exe))
		return PTR_ERR(exe);
	/* Nothing is copied: the length is 0. A path too long to tell comes after the right. */
	if (d_really_is_positive(exe))
		err = vfs_readlink(exe, NULL, 0);
	if (err == -ENAMETOOLONG)
		err = 0;
	dput(exe);
	return err;
}

/* A thread of the group that still has its memory, as that namespace has it; 0: none. */
static pid_t living_thread(struct pid *pid, struct pid_namespace *pid_ns)
{
	struct task_struct *leader, *task;
	pid_t nr = 0;

	rcu_read_lock();
	leader = pid_task(pid, PIDTYPE_TGID);
	if (leader)
		for_each_thread(leader, task)
			if (READ_ONCE(task->mm))
				nr = task_pid_nr_ns(task, pid_ns);
	rcu_read_unlock();
	return nr;
}

/*
 * Whether the caller may see the addresses of the thread group of that pid, whose
 * /proc/PID @pid_dir is. May sleep.
 */
bool fiber_access_addresses(struct dentry *pid_dir, struct pid *pid)
{
	struct dentry *tasks, *dir;
	char name[12];
	int err;

	if (fiber_may_read_all_maps())
		return true;
	err = read_exe(pid_dir);
	if (err != -ENOENT)
		return err >= 0;

	/* The first thread has ended, and has no memory that has a rule. Another one has. */
	tasks = fiber_lookup_one("task", 4, pid_dir);
	if (IS_ERR(tasks))
		return false;
	err = snprintf(name, sizeof(name), "%d",
		       living_thread(pid, proc_pid_ns(pid_dir->d_sb)));
	dir = d_really_is_positive(tasks) ? fiber_lookup_one(name, err, tasks) : NULL;
	err = -ENOENT;
	if (!IS_ERR_OR_NULL(dir)) {
		if (d_really_is_positive(dir))
			err = read_exe(dir);
		dput(dir);
	}
	dput(tasks);
	return err >= 0;
}
