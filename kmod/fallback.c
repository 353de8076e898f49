// SPDX-License-Identifier: GPL-2.0-only
/*
 * The file /proc/fiber, for kernels whose /proc/PID cannot be redirected, and for
 * administrators who do not want that: a block for each fiber of each process
 * that the reader can see.
 *
 * The one file exists until the module is unloaded, because removing a file of
 * /proc waits for its readers, who can keep it open for ever. An open file holds
 * the module.
 */
#include <linux/cred.h>
#include <linux/dcache.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "access.h"
#include "fallback.h"
#include "process.h"
#include "show.h"
#include "snapshot.h"

#define FALLBACK_NAME	"fiber"

/* A position is a bucket of the table of processes, a pid, and a slot. */
#define PID_BITS	22

/**
 * struct fallback_view - an open file
 * @process: where the reader is, with a reference, or NULL
 * @visible: the reader can enter that /proc/PID
 * @addresses: and may see its addresses
 * @nr: its pid as the mount has it
 */
struct fallback_view {
	struct fiber_process *process;
	bool visible;
	bool addresses;
	pid_t nr;
};

static void view_leave(struct fallback_view *view)
{
	if (view->process)
		fiber_process_put(view->process);
	view->process = NULL;
}

/* Takes over the caller's reference. What may be seen is decided with the opener's credentials. */
static void view_enter(struct seq_file *m, struct fiber_process *process)
{
	struct super_block *sb = file_inode(m->file)->i_sb;
	struct fallback_view *view = m->private;
	const struct cred *before;
	struct dentry *dir;

	if (process == view->process) {
		fiber_process_put(process);
		return;
	}
	view_leave(view);
	view->process = process;
	view->visible = false;
	view->addresses = false;
	view->nr = pid_nr_ns(process->pid, proc_pid_ns(sb));
	if (!view->nr || !READ_ONCE(process->shown))
		return;
	before = override_creds(m->file->f_cred);
	dir = fiber_access_pid_dir(sb, view->nr);
	if (!IS_ERR(dir)) {
		view->visible = true;
		view->addresses = fiber_access_addresses(dir, process->pid);
		dput(dir);
	}
	revert_creds(before);
	/* A process may always see its own: not if it reads for somebody else. */
	if (before != m->file->f_cred)
		view->addresses = false;
}

static void *fallback_start(struct seq_file *m, loff_t *pos)
{
	u32 slot = *pos & FIBER_SLOT_MASK;
	pid_t nr = (*pos >> FIBER_SLOT_BITS) & (BIT(PID_BITS) - 1);
	u32 bucket = *pos >> (FIBER_SLOT_BITS + PID_BITS);
	struct fallback_view *view = m->private;
	struct fiber_process *process;

	for (;; slot = 0, nr++) {
		u32 from_bucket = bucket;
		pid_t from = nr;

		process = fiber_process_next(&bucket, &nr);
		if (!process)
			return NULL;
		if (nr != from || bucket != from_bucket)
			slot = 0;
		view_enter(m, process);
		for (; view->visible && slot < fiber_snapshot_slots(process); slot++) {
			if (fiber_snapshot_id(process, slot)) {
				*pos = (u64)bucket << (FIBER_SLOT_BITS + PID_BITS) |
				       (u64)nr << FIBER_SLOT_BITS | slot;
				return pos;
			}
			cond_resched();
		}
		if (fatal_signal_pending(current))
			return ERR_PTR(-EINTR);
		cond_resched();
	}
}

static void *fallback_next(struct seq_file *m, void *current_pos, loff_t *pos)
{
	++*pos;
	return fallback_start(m, pos);
}

static void fallback_stop(struct seq_file *m, void *current_pos)
{
}

static int fallback_show(struct seq_file *m, void *current_pos)
{
	struct pid_namespace *pid_ns = proc_pid_ns(file_inode(m->file)->i_sb);
	u32 slot = *(loff_t *)current_pos & FIBER_SLOT_MASK;
	struct fallback_view *view = m->private;
	u64 id = fiber_snapshot_id(view->process, slot);
	struct fiber_snapshot snapshot;

	if (!id || !fiber_snapshot_take(view->process, id, pid_ns, &snapshot))
		return SEQ_SKIP;
	seq_printf(m, "Process: %d\n", view->nr);
	seq_printf(m, "Fiber: %llu\n", id);
	fiber_show(m, &snapshot, view->addresses);
	seq_putc(m, '\n');
	return 0;
}

static const struct seq_operations fallback_seq_ops = {
	.start = fallback_start,
	.next = fallback_next,
	.stop = fallback_stop,
	.show = fallback_show,
};

static int fallback_open(struct inode *inode, struct file *file)
{
	int err;

	if (!try_module_get(THIS_MODULE))
		return -ENOENT;
	err = seq_open_private(file, &fallback_seq_ops, sizeof(struct fallback_view));
	if (err)
		module_put(THIS_MODULE);
	return err;
}

static int fallback_release(struct inode *inode, struct file *file)
{
	struct seq_file *m = file->private_data;

	view_leave(m->private);
	seq_release_private(inode, file);
	/* Removing the file waits for this function. */
	module_put(THIS_MODULE);
	return 0;
}

static const struct proc_ops fallback_ops = {
	.proc_open = fallback_open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = fallback_release,
};

static struct proc_dir_entry *fallback;

/* -ENOMEM. */
int __init fiber_fallback_init(void)
{
	fallback = proc_create(FALLBACK_NAME, 0444, NULL, &fallback_ops);
	return fallback ? 0 : -ENOMEM;
}

void fiber_fallback_exit(void)
{
	proc_remove(fallback);
}
