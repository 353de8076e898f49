// SPDX-License-Identifier: GPL-2.0-only
/*
 * How /proc/PID/fiber gets into /proc/PID.
 *
 * The kernel's table of /proc/PID entries is constant, so look-ups in and
 * listings of a /proc/PID directory are redirected, by ftrace, to functions
 * here that add one name and leave the rest to the original. The original is
 * found in the file's or directory's own operations: no address is resolved.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/dcache.h>
#include <linux/fs.h>
#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/rcupdate.h>

#include "compat.h"
#include "procdir.h"
#include "redirect.h"

static struct dentry *pid_lookup(struct inode *dir, struct dentry *dentry, unsigned int flags)
{
	const struct qstr *name = &dentry->d_name;
	struct dentry *result;

	if (name->len == strlen(FIBER_PROCDIR) && !memcmp(name->name, FIBER_PROCDIR, name->len))
		result = fiber_procdir_lookup(dir, dentry);
	else
		result = dir->i_op->lookup(dir, dentry, flags);
	module_put(THIS_MODULE);
	return result;
}

/* Shifts the original's entries by one position, which is the entry `fiber`. */
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
		if (!fiber_procdir_emit(file, ctx))
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
		.flags = FTRACE_OPS_FL_SAVE_REGS |				\
			 FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT,	\
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

/*
 * -EBUSY: ftrace is off (kernel.ftrace_enabled), or somebody else redirects one of
 * these functions, such as a live patch. Once redirected, ftrace stays on.
 */
int __init fiber_redirect_init(void)
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

void fiber_redirect_exit(void)
{
	if (redirected)
		redirections_remove(ARRAY_SIZE(redirections));
}
