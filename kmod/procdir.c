// SPDX-License-Identifier: GPL-2.0-only
/*
 * The directory /proc/PID/fiber, with a file for every fiber.
 *
 * References: an inode owns a node, which owns a process reference; a dentry
 * owns a module reference. Dentries are dropped with their last user, so the
 * module can be unloaded as soon as nobody is in a directory or file. An inode
 * that outlives its dentry (an inotify mark holds one) is a bad inode by then,
 * and knows nothing of the module.
 */
#include <linux/ctype.h>
#include <linux/dcache.h>
#include <linux/fs.h>
#include <linux/hash.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "access.h"
#include "compat.h"
#include "procdir.h"
#include "process.h"
#include "show.h"
#include "snapshot.h"

/* Owned by an inode: the directory, with id 0, or a file. */
struct procdir_node {
	struct fiber_process *process;
	u64 id;
};

/* An open file. The opener's credentials decide whether it shows addresses. */
struct procdir_view {
	struct fiber_process *process;
	u64 id;
	bool addresses;
};

static int file_show(struct seq_file *m, void *unused)
{
	struct pid_namespace *pid_ns = proc_pid_ns(file_inode(m->file)->i_sb);
	struct procdir_view *view = m->private;
	struct fiber_snapshot snapshot;

	if (!fiber_snapshot_take(view->process, view->id, pid_ns, &snapshot))
		return -ESRCH;
	fiber_show(m, &snapshot, view->addresses);
	return 0;
}

/* Whether the opener may see addresses, by /proc/PID, two levels up. */
static bool may_see_addresses(struct file *file, struct fiber_process *process)
{
	struct dentry *dir = dget_parent(file->f_path.dentry), *pid_dir = dget_parent(dir);
	bool may = fiber_access_addresses(pid_dir, process->pid);

	dput(pid_dir);
	dput(dir);
	return may;
}

static int file_open(struct inode *inode, struct file *file)
{
	struct procdir_node *node = inode->i_private;
	struct procdir_view *view;
	int err;

	view = kmalloc(sizeof(*view), GFP_KERNEL_ACCOUNT);
	if (!view)
		return -ENOMEM;
	view->process = fiber_process_get(node->process);
	view->id = node->id;
	view->addresses = fiber_process_is_current(view->process) ||
			  may_see_addresses(file, view->process);
	err = single_open(file, file_show, view);
	if (err) {
		fiber_process_put(view->process);
		kfree(view);
	}
	return err;
}

static int file_release(struct inode *inode, struct file *file)
{
	struct procdir_view *view = ((struct seq_file *)file->private_data)->private;

	fiber_process_put(view->process);
	kfree(view);
	return single_release(inode, file);
}

static const struct file_operations file_ops = {
	.owner = THIS_MODULE,
	.open = file_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = file_release,
};

/* Like the rest of /proc/PID. */
static int dir_setattr(FIBER_SETATTR_IDMAP, struct dentry *dentry, struct iattr *attr)
{
	return -EPERM;
}

static const struct inode_operations file_inode_ops = {
	.setattr = dir_setattr,
};

/*
 * Fits 32 bits, for old programs; 0 stands for the directory. It depends on the
 * process only by the pid that the mount's PID namespace knows.
 */
static unsigned long inode_number(struct super_block *sb, const struct fiber_process *process,
				  u64 id)
{
	u64 nr = pid_nr_ns(process->pid, proc_pid_ns(sb));
	u64 key = nr << FIBER_SLOT_BITS | (id & FIBER_SLOT_MASK);

	return hash_64(key, 31) | BIT(31);
}

static bool exists(struct fiber_process *process, u64 id)
{
	return id && fiber_snapshot_id(process, id & FIBER_SLOT_MASK) == id;
}

static int dentry_revalidate(FIBER_REVALIDATE_DIR struct dentry *dentry, unsigned int flags)
{
	struct inode *inode, *parent_inode;
	struct procdir_node *node;
	struct dentry *parent;

	if (flags & LOOKUP_RCU)
		return -ECHILD;
	inode = d_inode(dentry);
	node = inode->i_private;
	if (node->id ? !exists(node->process, node->id) : READ_ONCE(node->process->dead))
		return 0;
	/* /proc/PID follows the credentials of its process, and we follow it. */
	parent = dget_parent(dentry);
	parent_inode = d_inode(parent);
	inode->i_uid = parent_inode->i_uid;
	inode->i_gid = parent_inode->i_gid;
	dput(parent);
	return 1;
}

static void dentry_iput(struct dentry *dentry, struct inode *inode)
{
	struct procdir_node *node = inode->i_private;

	inode->i_private = NULL;
	make_bad_inode(inode);
	iput(inode);
	fiber_process_put(node->process);
	kfree(node);
}

static void dentry_release(struct dentry *dentry)
{
	/* Unloading waits for tasks that are between this and the return. */
	module_put(THIS_MODULE);
}

static const struct dentry_operations dentry_ops = {
	.d_revalidate = dentry_revalidate,
	.d_delete = always_delete_dentry,
	.d_iput = dentry_iput,
	.d_release = dentry_release,
};

static const struct file_operations dir_ops;
static const struct inode_operations dir_inode_ops;

/*
 * Makes the inode of @dentry in @dir and takes over the caller's process
 * reference, also when it fails. @id 0: the directory.
 */
static struct dentry *instantiate(struct inode *dir, struct dentry *dentry,
				  struct fiber_process *process, u64 id)
{
	struct procdir_node *node = kmalloc(sizeof(*node), GFP_KERNEL_ACCOUNT);
	struct inode *inode;

	if (!node)
		goto put_process;
	inode = new_inode(dir->i_sb);
	if (!inode)
		goto free_node;

	node->process = process;
	node->id = id;
	inode->i_private = node;
	inode->i_ino = inode_number(dir->i_sb, process, id);
	inode->i_uid = dir->i_uid;
	inode->i_gid = dir->i_gid;
	fiber_inode_init_times(inode);
	if (id) {
		inode->i_mode = S_IFREG | 0444;
		inode->i_op = &file_inode_ops;
		inode->i_fop = &file_ops;
	} else {
		inode->i_mode = S_IFDIR | 0555;
		inode->i_op = &dir_inode_ops;
		inode->i_fop = &dir_ops;
		set_nlink(inode, 2);
	}

	__module_get(THIS_MODULE);
	fiber_set_dentry_ops(dentry, &dentry_ops);
	return d_splice_alias(inode, dentry);

free_node:
	kfree(node);
put_process:
	fiber_process_put(process);
	return ERR_PTR(-ENOMEM);
}

/* Only the number as we print it: no sign, no leading zero. */
static bool parse_number(const struct qstr *name, u64 *number)
{
	char digits[24];

	if (!name->len || name->len >= sizeof(digits) || name->name[0] == '0' ||
	    !isdigit(name->name[0]))
		return false;
	memcpy(digits, name->name, name->len);
	digits[name->len] = '\0';
	return !kstrtou64(digits, 10, number);
}

static struct dentry *dir_lookup(struct inode *dir, struct dentry *dentry, unsigned int flags)
{
	struct procdir_node *node = dir->i_private;
	u64 id;

	if (!parse_number(&dentry->d_name, &id) || !exists(node->process, id))
		return ERR_PTR(-ENOENT);
	fiber_process_get(node->process);
	return instantiate(dir, dentry, node->process, id);
}

/* Position 2 + n is slot 1 + n. */
static int dir_readdir(struct file *file, struct dir_context *ctx)
{
	struct procdir_node *node = file_inode(file)->i_private;
	struct super_block *sb = file_inode(file)->i_sb;
	struct fiber_process *process = node->process;
	char name[24];

	if (READ_ONCE(process->dead))
		return -ENOENT;
	if (!dir_emit_dots(file, ctx))
		return 0;
	for (; ctx->pos - 1 < fiber_snapshot_slots(process); ctx->pos++) {
		u64 id = fiber_snapshot_id(process, ctx->pos - 1);

		if (id && !dir_emit(ctx, name, snprintf(name, sizeof(name), "%llu", id),
				    inode_number(sb, process, id), DT_REG))
			return 0;
		cond_resched();
	}
	return 0;
}

static const struct file_operations dir_ops = {
	.owner = THIS_MODULE,
	.read = generic_read_dir,
	.iterate_shared = dir_readdir,
	.llseek = generic_file_llseek,
};

/* Who keeps the directory open may look up in it as long as in /proc/PID: see hidepid. */
static int dir_permission(FIBER_SETATTR_IDMAP, struct inode *inode, int mask)
{
	struct dentry *dir, *pid_dir;
	int err;

	if (mask & MAY_NOT_BLOCK)
		return -ECHILD;
	err = generic_permission(idmap, inode, mask);
	dir = err ? NULL : d_find_any_alias(inode);
	if (!dir)
		return err ?: -ENOENT;
	pid_dir = dget_parent(dir);
	err = inode_permission(idmap, d_inode(pid_dir), MAY_EXEC);
	dput(pid_dir);
	dput(dir);
	return err;
}

static const struct inode_operations dir_inode_ops = {
	.lookup = dir_lookup,
	.permission = dir_permission,
	.setattr = dir_setattr,
};

/*
 * The entry of the process whose /proc/PID @dir is, with a reference, or NULL.
 * The caller has passed /proc/PID, so hidepid has been honoured.
 */
static struct fiber_process *process_of_dir(struct dentry *dir)
{
	struct fiber_process *process = NULL;
	struct task_struct *task;
	u64 nr;

	if (!parse_number(&dir->d_name, &nr) || nr > INT_MAX)
		return NULL;
	/* Its signal_struct is the key only as long as the task is there. */
	rcu_read_lock();
	task = pid_task(find_pid_ns(nr, proc_pid_ns(dir->d_sb)), PIDTYPE_PID);
	if (task)
		process = fiber_process_find(task->signal);
	rcu_read_unlock();
	if (!process)
		return NULL;
	/*
	 * If the process of @dir is there now, it was the one of that number above;
	 * else the number may be another process's by now.
	 */
	if (READ_ONCE(process->shown) &&
	    !inode_permission(FIBER_NOP_IDMAP, d_inode(dir), MAY_EXEC))
		return process;
	fiber_process_put(process);
	return NULL;
}

/* The directory in /proc/PID, which @dir is; NULL: that process has none. */
struct dentry *fiber_procdir_lookup(struct inode *dir, struct dentry *dentry)
{
	struct fiber_process *process = process_of_dir(dentry->d_parent);

	return process ? instantiate(dir, dentry, process, 0) : ERR_PTR(-ENOENT);
}

/* Lists the directory in /proc/PID, which is open as @file; false: no more room. */
bool fiber_procdir_emit(struct file *file, struct dir_context *ctx)
{
	struct fiber_process *process = process_of_dir(file->f_path.dentry);
	bool room;

	if (!process)
		return true;
	room = dir_emit(ctx, FIBER_PROCDIR, strlen(FIBER_PROCDIR),
			inode_number(file_inode(file)->i_sb, process, 0), DT_DIR);
	fiber_process_put(process);
	return room;
}
