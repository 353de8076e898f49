// SPDX-License-Identifier: GPL-2.0-only
/*
 * A live patch of a function that the module redirects, too. As long as it is in place, the
 * directories of processes are empty.
 */
#include <linux/fs.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int empty_readdir(struct file *file, struct dir_context *context)
{
	return 0;
}

static struct klp_func functions[] = {
	{ .old_name = "proc_tgid_base_readdir", .new_func = empty_readdir },
	{ }
};

static struct klp_object objects[] = {
	{ .funcs = functions },
	{ }
};

static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };

static int __init live_patch_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit live_patch_exit(void)
{
}

module_init(live_patch_init);
module_exit(live_patch_exit);
MODULE_DESCRIPTION("A live patch of proc_tgid_base_readdir, for tests");
MODULE_AUTHOR("The kfiber authors");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
