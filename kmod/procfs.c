// SPDX-License-Identifier: GPL-2.0-only
/*
 * /proc/PID/fiber, a directory with a file for every fiber.
 *
 * The kernel's table of /proc/PID entries is constant, so look-ups in and
 * listings of a /proc/PID directory are redirected, by ftrace, to functions
 * here that add one name and leave the rest to the original. The original is
 * found in the file's or directory's own operations: no address is resolved.
 *
 * Where that cannot be had, or is not wanted (parameter proc_pid), each process
 * has one file /proc/fiber/PID with a block for every fiber.
 *
 * References: an inode owns a node, which owns a process reference; a dentry
 * owns a module reference. Dentries are dropped with their last user, so the
 * module can be unloaded as soon as nobody is in a directory or file.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cred.h>
#include <linux/ctype.h>
#include <linux/dcache.h>
#include <linux/fs.h>
#include <linux/ftrace.h>
#include <linux/hash.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/proc_fs.h>
#include <linux/sched/clock.h>
#include <linux/sched/coredump.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string_helpers.h>
#include <linux/user_namespace.h>
#include <linux/xarray.h>

#include "compat.h"
#include "internal.h"

#define DIRECTORY "fiber"

/* All characters that could end the line or drive a terminal, and the escape itself. */
#define ESCAPED	"\001\002\003\004\005\006\007\010\011\012\013\014\015\016\017\020" \
		"\021\022\023\024\025\026\027\030\031\032\033\034\035\036\037\177\\"

/* What an open file may show, decided with the opener's credentials. */
struct fiber_view {
	struct fiber_process *process;
	struct pid_namespace *pid_ns;
	u64 id;
	bool addresses;
};

/*
 * Addresses of a process are for itself and for whom could debug it: as
 * ptrace_may_access() with the opener's credentials, which is not exported to
 * modules. Yama restricts attaching only, not looking.
 */
static bool may_see_addresses(struct file *file, struct fiber_process *process)
{
	const struct cred *cred = file->f_cred, *target;
	struct user_namespace *user_ns = NULL;
	bool same = false, weaker = false, capable;
	struct task_struct *task;

	if (fiber_process_is_current(process))
		return true;

	rcu_read_lock();
	task = pid_task(process->pid, PIDTYPE_TGID);
	if (task) {
		target = __task_cred(task);
		same = uid_eq(cred->fsuid, target->euid) && uid_eq(cred->fsuid, target->suid) &&
		       uid_eq(cred->fsuid, target->uid) && gid_eq(cred->fsgid, target->egid) &&
		       gid_eq(cred->fsgid, target->sgid) && gid_eq(cred->fsgid, target->gid);
		weaker = cred->user_ns == target->user_ns &&
			 cap_issubset(target->cap_permitted, cred->cap_effective);
		user_ns = get_user_ns(target->user_ns);
	}
	rcu_read_unlock();
	if (!user_ns)
		return false;

	capable = file_ns_capable(file, user_ns, CAP_SYS_PTRACE);
	put_user_ns(user_ns);
	/* Credentials are changed before dumpability is, see commit_creds(). */
	smp_rmb();
	return ((same && weaker) || capable) &&
	       (get_dumpable(process->mm) == SUID_DUMP_USER ||
		file_ns_capable(file, process->mm->user_ns, CAP_SYS_PTRACE));
}

/*
 * Under the process's lock. Returns whether the fiber is still there.
 *
 * The time of a fiber that runs is an estimate: the scheduler may book less, as
 * its clock can leave interrupts out. What was shown once does not go back.
 */
static bool fiber_look(struct fiber_process *process, struct fiber *fiber,
		       struct pid_namespace *pid_ns, struct fiber_snapshot *snapshot)
{
	u64 last_switch, now = local_clock();
	struct fiber_thread *thread;
	long owner;

	lockdep_assert_held(&process->lock);

	rcu_read_lock();
	owner = atomic_long_read_acquire(&fiber->owner);
	thread = fiber_owner_thread(owner);
	fiber_account_read(fiber, thread, &snapshot->times);
	snapshot->running = thread;
	snapshot->thread = thread ? pid_nr_ns(thread->pid, pid_ns) : 0;
	rcu_read_unlock();

	fiber->shown.exec_time = max(fiber->shown.exec_time, snapshot->times.exec_time);
	fiber->shown.longest_run = max(fiber->shown.longest_run, snapshot->times.longest_run);
	snapshot->times = fiber->shown;

	if (owner == FIBER_DELETED)
		return false;
	if (thread)
		snapshot->state = "running";
	else if (owner != FIBER_FREE)
		snapshot->state = "finished";
	else
		snapshot->state = READ_ONCE(fiber->started) ? "suspended" : "new";
	snapshot->activations = READ_ONCE(fiber->activations);
	snapshot->failed = atomic64_read(&fiber->failed);
	snapshot->ip = thread ? 0 : READ_ONCE(fiber->context.ip);
	snapshot->sp = thread ? 0 : READ_ONCE(fiber->context.sp);
	last_switch = READ_ONCE(fiber->last_switch);
	snapshot->last_switch = now > last_switch ? now - last_switch : 0;
	snapshot->entry = fiber->entry;
	snapshot->parent = pid_nr_ns(fiber->parent, pid_ns);
	snapshot->stack_start = fiber->stack_start;
	snapshot->stack_size = fiber->stack_size;
	snapshot->engine = "kernel";
	memcpy(snapshot->name, fiber->name, sizeof(snapshot->name));
	return true;
}

/* The same by id, for each engine. The process is alive. */
static bool process_look(struct fiber_process *process, u64 id, struct pid_namespace *pid_ns,
			 struct fiber_snapshot *snapshot)
{
	struct fiber *fiber;

	if (process->table)
		return fiber_table_look(process, id, pid_ns, snapshot);
	fiber = fiber_find(process, id);
	return fiber && fiber_look(process, fiber, pid_ns, snapshot);
}

/* The id of the fiber in that slot, 0 if there is none or the process has ended. */
static u64 process_slot_id(struct fiber_process *process, u32 slot)
{
	return process->table ? fiber_table_slot_id(process, slot) : fiber_slot_id(process, slot);
}

/* Slots at and above this one are empty. */
static u32 process_end(const struct fiber_process *process)
{
	return process->table ? fiber_table_slots(process) : READ_ONCE(process->end);
}

static void fiber_print(struct seq_file *m, const struct fiber_view *view,
			const struct fiber_snapshot *snapshot)
{
	u64 shown = view->addresses ? U64_MAX : 0;

	seq_printf(m, "Running: %s\n", snapshot->running ? "yes" : "no");
	seq_printf(m, "Initial entry point: 0x%016llx\n", snapshot->entry & shown);
	seq_printf(m, "Parent thread id: %d\n", snapshot->parent);
	seq_printf(m, "Number of activations: %llu\n", snapshot->activations);
	seq_printf(m, "Number of failed activations: %llu\n", snapshot->failed);
	seq_printf(m, "Total execution time: %llu ms\n",
		   div_u64(snapshot->times.exec_time, NSEC_PER_MSEC));
	seq_puts(m, "Name: ");
	seq_escape_mem(m, snapshot->name, strlen(snapshot->name), ESCAPE_OCTAL, ESCAPED);
	seq_putc(m, '\n');
	seq_printf(m, "State: %s\n", snapshot->state);
	seq_printf(m, "Thread id: %d\n", snapshot->thread);
	seq_printf(m, "CPU time ns: %llu\n", snapshot->times.exec_time);
	seq_printf(m, "Longest run ns: %llu\n", snapshot->times.longest_run);
	seq_printf(m, "Last switch ns ago: %llu\n", snapshot->last_switch);
	seq_printf(m, "Saved instruction pointer: 0x%016llx\n", snapshot->ip & shown);
	seq_printf(m, "Saved stack pointer: 0x%016llx\n", snapshot->sp & shown);
	seq_printf(m, "Stack start: 0x%016llx\n", snapshot->stack_start & shown);
	seq_printf(m, "Stack size: %llu\n", snapshot->stack_size);
	seq_printf(m, "Engine: %s\n", snapshot->engine);
}

/* One file of /proc/PID/fiber. */
static int fiber_show(struct seq_file *m, void *unused)
{
	struct fiber_view *view = m->private;
	struct fiber_process *process = view->process;
	struct fiber_snapshot snapshot;
	int err = -ESRCH;

	if (mutex_lock_killable(&process->lock))
		return -EINTR;
	if (!READ_ONCE(process->dead) &&
	    process_look(process, view->id, view->pid_ns, &snapshot)) {
		fiber_print(m, view, &snapshot);
		err = 0;
	}
	mutex_unlock(&process->lock);
	return err;
}

static struct fiber_view *fiber_view_create(struct file *file, struct fiber_process *process,
					    u64 id)
{
	struct fiber_view *view = kmalloc(sizeof(*view), GFP_KERNEL_ACCOUNT);

	if (!view)
		return NULL;
	fiber_process_get(process);
	view->process = process;
	view->pid_ns = get_pid_ns(proc_pid_ns(file_inode(file)->i_sb));
	view->id = id;
	view->addresses = may_see_addresses(file, process);
	return view;
}

static void fiber_view_destroy(struct fiber_view *view)
{
	put_pid_ns(view->pid_ns);
	fiber_process_put(view->process);
	kfree(view);
}

/* Owned by an inode: the directory, with id 0, or a file. */
struct fiber_node {
	struct fiber_process *process;
	u64 id;
};

static int fiber_file_open(struct inode *inode, struct file *file)
{
	struct fiber_node *node = inode->i_private;
	struct fiber_view *view = fiber_view_create(file, node->process, node->id);
	int err;

	if (!view)
		return -ENOMEM;
	err = single_open(file, fiber_show, view);
	if (err)
		fiber_view_destroy(view);
	return err;
}

static int fiber_file_release(struct inode *inode, struct file *file)
{
	struct seq_file *m = file->private_data;

	fiber_view_destroy(m->private);
	return single_release(inode, file);
}

static const struct file_operations fiber_file_ops = {
	.owner = THIS_MODULE,
	.open = fiber_file_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = fiber_file_release,
};

/* Like the rest of /proc/PID. */
static int fiber_setattr(FIBER_SETATTR_IDMAP, struct dentry *dentry, struct iattr *attr)
{
	return -EPERM;
}

static const struct inode_operations fiber_file_inode_ops = {
	.setattr = fiber_setattr,
};

/* Fits 32 bits, for old programs; 0 is no fiber. */
static unsigned long fiber_ino(const struct fiber_process *process, u64 id)
{
	u64 key = (u64)pid_nr(process->pid) << FIBER_SLOT_BITS | (id & FIBER_SLOT_MASK);

	return hash_64(key, 31) | BIT(31);
}

static bool fiber_exists(struct fiber_process *process, u64 id)
{
	return id && process_slot_id(process, id & FIBER_SLOT_MASK) == id;
}

static int fiber_revalidate(FIBER_REVALIDATE_DIR struct dentry *dentry, unsigned int flags)
{
	struct inode *inode, *parent_inode;
	struct fiber_node *node;
	struct dentry *parent;

	if (flags & LOOKUP_RCU)
		return -ECHILD;
	inode = d_inode(dentry);
	node = inode->i_private;
	if (node->id ? !fiber_exists(node->process, node->id) : READ_ONCE(node->process->dead))
		return 0;
	/* /proc/PID follows the credentials of its process, and we follow it. */
	parent = dget_parent(dentry);
	parent_inode = d_inode(parent);
	inode->i_uid = parent_inode->i_uid;
	inode->i_gid = parent_inode->i_gid;
	dput(parent);
	return 1;
}

static void fiber_dentry_iput(struct dentry *dentry, struct inode *inode)
{
	struct fiber_node *node = inode->i_private;

	iput(inode);
	fiber_process_put(node->process);
	kfree(node);
}

static void fiber_dentry_release(struct dentry *dentry)
{
	/* Unloading waits for tasks that are between this and the return. */
	module_put(THIS_MODULE);
}

static const struct dentry_operations fiber_dentry_ops = {
	.d_revalidate = fiber_revalidate,
	.d_delete = always_delete_dentry,
	.d_iput = fiber_dentry_iput,
	.d_release = fiber_dentry_release,
};

static const struct file_operations fiber_dir_ops;
static const struct inode_operations fiber_dir_inode_ops;

/*
 * Makes the inode of @dentry in @dir and takes over the caller's process
 * reference, also when it fails. @id 0: the directory.
 */
static struct dentry *fiber_instantiate(struct inode *dir, struct dentry *dentry,
					struct fiber_process *process, u64 id)
{
	struct fiber_node *node = kmalloc(sizeof(*node), GFP_KERNEL_ACCOUNT);
	struct inode *inode;

	if (!node)
		goto put_process;
	inode = new_inode(dir->i_sb);
	if (!inode)
		goto free_node;

	node->process = process;
	node->id = id;
	inode->i_private = node;
	inode->i_ino = fiber_ino(process, id);
	inode->i_uid = dir->i_uid;
	inode->i_gid = dir->i_gid;
	fiber_inode_init_times(inode);
	if (id) {
		inode->i_mode = S_IFREG | 0444;
		inode->i_op = &fiber_file_inode_ops;
		inode->i_fop = &fiber_file_ops;
	} else {
		inode->i_mode = S_IFDIR | 0555;
		inode->i_op = &fiber_dir_inode_ops;
		inode->i_fop = &fiber_dir_ops;
		set_nlink(inode, 2);
	}

	__module_get(THIS_MODULE);
	d_set_d_op(dentry, &fiber_dentry_ops);
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

static struct dentry *fiber_dir_lookup(struct inode *dir, struct dentry *dentry,
				       unsigned int flags)
{
	struct fiber_node *node = dir->i_private;
	u64 id;

	if (!parse_number(&dentry->d_name, &id) || !fiber_exists(node->process, id))
		return ERR_PTR(-ENOENT);
	fiber_process_get(node->process);
	return fiber_instantiate(dir, dentry, node->process, id);
}

/* Position 2 + n is slot 1 + n. */
static int fiber_dir_readdir(struct file *file, struct dir_context *ctx)
{
	struct fiber_node *node = file_inode(file)->i_private;
	struct fiber_process *process = node->process;
	char name[24];

	if (READ_ONCE(process->dead))
		return -ENOENT;
	if (!dir_emit_dots(file, ctx))
		return 0;
	for (; ctx->pos - 1 < process_end(process); ctx->pos++) {
		u64 id = process_slot_id(process, ctx->pos - 1);

		if (id && !dir_emit(ctx, name, snprintf(name, sizeof(name), "%llu", id),
				    fiber_ino(process, id), DT_REG))
			return 0;
		cond_resched();
	}
	return 0;
}

static const struct file_operations fiber_dir_ops = {
	.owner = THIS_MODULE,
	.read = generic_read_dir,
	.iterate_shared = fiber_dir_readdir,
	.llseek = generic_file_llseek,
};

static const struct inode_operations fiber_dir_inode_ops = {
	.lookup = fiber_dir_lookup,
	.setattr = fiber_setattr,
};

/*
 * The entry of the process whose /proc/PID @dir is, with a reference, or NULL.
 * Whoever comes here has passed /proc/PID, so hidepid has been honoured.
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
	if (process && !READ_ONCE(process->converted)) {
		fiber_process_put(process);
		process = NULL;
	}
	return process;
}

static struct dentry *pid_lookup(struct inode *dir, struct dentry *dentry, unsigned int flags)
{
	const struct qstr *name = &dentry->d_name;
	struct fiber_process *process = NULL;
	struct dentry *result;

	if (name->len == strlen(DIRECTORY) && !memcmp(name->name, DIRECTORY, name->len))
		process = process_of_dir(dentry->d_parent);
	if (process)
		result = fiber_instantiate(dir, dentry, process, 0);
	else
		result = dir->i_op->lookup(dir, dentry, flags);
	module_put(THIS_MODULE);
	return result;
}

/* Shifts what the original lists by the one position that is ours. */
struct pid_dir_context {
	struct dir_context ctx;
	struct dir_context *outer;
};

static bool pid_emit(struct dir_context *ctx, const char *name, int len, loff_t pos,
		     u64 ino, unsigned int type)
{
	struct dir_context *outer = container_of(ctx, struct pid_dir_context, ctx)->outer;

	outer->pos = pos + 1;
	return outer->actor(outer, name, len, pos + 1, ino, type);
}

/* Positions: 0 and 1 the dots, 2 ours whether there is one or not, then the original's. */
static int pid_readdir_ours(struct file *file, struct dir_context *ctx)
{
	struct pid_dir_context inner = { .outer = ctx };
	int err;

	if (!dir_emit_dots(file, ctx))
		return 0;
	if (ctx->pos == 2) {
		struct fiber_process *process = process_of_dir(file->f_path.dentry);
		bool room = true;

		if (process) {
			room = dir_emit(ctx, DIRECTORY, strlen(DIRECTORY),
					fiber_ino(process, 0), DT_DIR);
			fiber_process_put(process);
		}
		if (!room)
			return 0;
		ctx->pos = 3;
	}
	inner.ctx = *ctx;
	inner.ctx.actor = pid_emit;
	inner.ctx.pos = ctx->pos - 1;
	err = file->f_op->iterate_shared(file, &inner.ctx);
	ctx->pos = inner.ctx.pos + 1;
	return err;
}

static int pid_readdir(struct file *file, struct dir_context *ctx)
{
	int err = pid_readdir_ours(file, ctx);

	module_put(THIS_MODULE);
	return err;
}

/* A function of the kernel, and ours that runs in its place and calls it. */
struct redirection {
	const char *name;
	void *replacement;
	struct ftrace_ops ops;
};

/* The replacement gives the module reference back. */
static void notrace redirect(unsigned long ip, unsigned long parent_ip,
			     struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	struct redirection *redirection = container_of(ops, struct redirection, ops);

	/* Our own call of the original. */
	if (within_module(parent_ip, THIS_MODULE))
		return;
	if (!try_module_get(THIS_MODULE))
		return;
	fiber_ftrace_set_ip(fregs, (unsigned long)redirection->replacement);
}

#define REDIRECTION(_name, _replacement) {						\
	.name = _name,									\
	.replacement = _replacement,							\
	.ops = {									\
		.func = redirect,							\
		.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_IPMODIFY,		\
	},										\
}

static struct redirection redirections[] = {
	REDIRECTION("proc_tgid_base_lookup", pid_lookup),
	REDIRECTION("proc_tgid_base_readdir", pid_readdir),
};

static void redirections_remove(unsigned int nr)
{
	while (nr--) {
		unregister_ftrace_function(&redirections[nr].ops);
		ftrace_free_filter(&redirections[nr].ops);
	}
	/* Tasks that have given their module reference back but not returned yet. */
	synchronize_rcu_tasks();
}

static bool redirected;

static int __init redirections_add(void)
{
	unsigned int i;
	int err;

	for (i = 0; i < ARRAY_SIZE(redirections); i++) {
		struct redirection *r = &redirections[i];

		err = ftrace_set_filter(&r->ops, (char *)r->name, strlen(r->name), 1);
		if (!err)
			err = register_ftrace_function(&r->ops);
		if (err) {
			ftrace_free_filter(&r->ops);
			redirections_remove(i);
			return err;
		}
	}
	redirected = true;
	return 0;
}

/* The fallback: /proc/fiber, NULL where it is not in use, with a file for a process. */
static struct proc_dir_entry *fallback_dir;

/* The pids that have a file. One whose file is still being removed gets no other. */
static DEFINE_XARRAY(fallback_pids);

/* Position n is slot n + 1; empty slots are passed over. */
static void *fallback_start(struct seq_file *m, loff_t *pos)
{
	struct fiber_process *process = ((struct fiber_view *)m->private)->process;

	for (; *pos + 1 < process_end(process); ++*pos) {
		if (process_slot_id(process, *pos + 1))
			return pos;
		cond_resched();
	}
	return NULL;
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
	struct fiber_view *view = m->private;
	u64 id = process_slot_id(view->process, *(loff_t *)current_pos + 1);
	int err;

	seq_printf(m, "Fiber: %llu\n", id);
	view->id = id;
	err = fiber_show(m, NULL);
	seq_putc(m, '\n');
	return err == -ESRCH ? SEQ_SKIP : err;
}

static const struct seq_operations fallback_seq_ops = {
	.start = fallback_start,
	.next = fallback_next,
	.stop = fallback_stop,
	.show = fallback_show,
};

/* Whether /proc/PID would not be there for the opener of that view. */
static bool fallback_hidden(const struct fiber_view *view, const struct proc_fs_info *info)
{
	if (!pid_nr_ns(view->process->pid, view->pid_ns))
		return true;
	if (info->hide_pid == HIDEPID_OFF || view->addresses)
		return false;
	return info->hide_pid == HIDEPID_NOT_PTRACEABLE || !in_group_p(info->pid_gid);
}

static int fallback_open(struct inode *inode, struct file *file)
{
	struct fiber_view *view = fiber_view_create(file, pde_data(inode), 0);
	int err;

	if (!view)
		return -ENOMEM;
	err = -ENOENT;
	if (fallback_hidden(view, proc_sb_info(inode->i_sb)))
		goto destroy;
	err = seq_open(file, &fallback_seq_ops);
	if (err)
		goto destroy;
	((struct seq_file *)file->private_data)->private = view;
	return 0;

destroy:
	fiber_view_destroy(view);
	return err;
}

static int fallback_release(struct inode *inode, struct file *file)
{
	struct seq_file *m = file->private_data;

	fiber_view_destroy(m->private);
	return seq_release(inode, file);
}

static const struct proc_ops fallback_ops = {
	.proc_open = fallback_open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = fallback_release,
};

/* Makes the process's file; false where there is no memory or its pid still has another's. */
static bool fallback_add(struct fiber_process *process)
{
	char name[16];

	if (xa_insert(&fallback_pids, pid_nr(process->pid), process, GFP_KERNEL))
		return false;
	snprintf(name, sizeof(name), "%d", pid_nr(process->pid));
	process->proc = proc_create_data(name, 0444, fallback_dir, &fallback_ops, process);
	if (!process->proc)
		xa_erase(&fallback_pids, pid_nr(process->pid));
	return process->proc;
}

/* A thread of the process has been converted. What fails here is tried again with the next. */
void fiber_procfs_add(struct fiber_process *process)
{
	if (READ_ONCE(process->converted))
		return;
	mutex_lock(&process->lock);
	if (!process->converted && (!fallback_dir || fallback_add(process)))
		WRITE_ONCE(process->converted, true);
	mutex_unlock(&process->lock);
}

/* The process has ended. Waits for readers and closes what is open. */
void fiber_procfs_remove(struct fiber_process *process)
{
	if (!process->proc)
		return;
	proc_remove(process->proc);
	xa_erase(&fallback_pids, pid_nr(process->pid));
}

void __init fiber_procfs_init(void)
{
	int err = 0;

	if (fiber_proc_pid) {
		err = redirections_add();
		if (!err)
			return;
	}
	fallback_dir = proc_mkdir("fiber", NULL);
	pr_info("fibers are shown %s, not under /proc/PID/fiber: %s (%d)\n",
		fallback_dir ? "in /proc/fiber/PID" : "nowhere",
		err ? "the look-up in /proc cannot be redirected" : "proc_pid=N", err);
}

void fiber_procfs_exit(void)
{
	if (redirected)
		redirections_remove(ARRAY_SIZE(redirections));
	proc_remove(fallback_dir);
}
