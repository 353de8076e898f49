// SPDX-License-Identifier: GPL-2.0-only
/* /dev/fiber: a descriptor leads to the entry of the process that opened it. */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "attach.h"
#include "convert.h"
#include "device.h"
#include "fibers.h"
#include "find.h"
#include "fls.h"
#include "image.h"
#include "process.h"
#include "snapshot.h"
#include "switch.h"
#include "table.h"

static int fiber_open(struct inode *inode, struct file *file)
{
	struct fiber_process *process = fiber_process_open();

	if (IS_ERR(process))
		return PTR_ERR(process);
	file->private_data = process;
	return nonseekable_open(inode, file);
}

static int fiber_close(struct inode *inode, struct file *file)
{
	fiber_process_put(file->private_data);
	return 0;
}

/* The requests that are about the calling fiber. */
static long fiber_ioctl_self(struct fiber_process *process, unsigned int cmd, unsigned long arg)
{
	struct fiber_thread *thread = fiber_caller(process);
	void __user *user = (void __user *)arg;

	if (!thread)
		return -EPERM;

	switch (cmd) {
	case FIBER_IOC_FLS_GET:
		return fiber_fls_get(thread->running, user);
	case FIBER_IOC_FLS_SET:
		return fiber_fls_set(thread->running, user);
	case FIBER_IOC_FLS_ALLOC:
		return fiber_fls_alloc(thread->running, user);
	case FIBER_IOC_FLS_FREE:
		return fiber_fls_free(thread->running, arg);
	case FIBER_IOC_SELF:
		return put_user(thread->running->id, (u64 __user *)user);
	default:
		return -ENOTTY;
	}
}

static long fiber_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct fiber_process *process = file->private_data;
	void __user *user = (void __user *)arg;

	if (likely(cmd == FIBER_IOC_SWITCH))
		return fiber_switch(process, arg);

	switch (cmd) {
	case FIBER_IOC_FLS_GET:
	case FIBER_IOC_FLS_SET:
	case FIBER_IOC_FLS_ALLOC:
	case FIBER_IOC_FLS_FREE:
	case FIBER_IOC_SELF:
		return fiber_ioctl_self(process, cmd, arg);
	case FIBER_IOC_VERSION:
		return FIBER_ABI_VERSION;
	}

	if (!fiber_process_is_current(process))
		return -EPERM;

	switch (cmd) {
	case FIBER_IOC_CONVERT:
		return fiber_convert(process, user);
	case FIBER_IOC_CREATE:
		return fiber_create(process, user);
	case FIBER_IOC_DELETE:
		return fiber_delete(process, arg);
	case FIBER_IOC_REVERT:
		return fiber_revert(process);
	case FIBER_IOC_RETIRE:
		return fiber_retire(process);
	case FIBER_IOC_SET_NAME:
		return fiber_set_name(process, user);
	case FIBER_IOC_STAT:
		return fiber_stat(process, user);
	case FIBER_IOC_COMMIT:
		return fiber_table_commit(process, arg);
	case FIBER_IOC_ATTACH:
		return fiber_attach(process, arg);
	case FIBER_IOC_DETACH:
		return fiber_detach(process);
	default:
		return -ENOTTY;
	}
}

/* Without compat_ioctl, 32-bit programs get ENOTTY. */
static const struct file_operations fiber_device_ops = {
	.owner = THIS_MODULE,
	.open = fiber_open,
	.release = fiber_close,
	.unlocked_ioctl = fiber_ioctl,
	.mmap = fiber_table_mmap,
};

static struct miscdevice fiber_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fiber",
	/* For root; packages open it to a group. */
	.mode = 0600,
	.fops = &fiber_device_ops,
};

int __init fiber_device_init(void)
{
	return misc_register(&fiber_device);
}

void fiber_device_exit(void)
{
	misc_deregister(&fiber_device);
}
