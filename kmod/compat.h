/* SPDX-License-Identifier: GPL-2.0-only */
/* The only place that knows kernel versions. */
#ifndef FIBER_COMPAT_H
#define FIBER_COMPAT_H

#include <linux/capability.h>
#include <linux/dcache.h>
#include <linux/fs.h>
#include <linux/ftrace.h>
#include <linux/mm.h>
#include <linux/namei.h>
#include <linux/sched.h>
#include <linux/version.h>
#include <asm/processor.h>
#ifdef FIBER_HAVE_CPUID_API
#include <asm/cpuid/api.h>
#endif
#ifdef CONFIG_X86_USER_SHADOW_STACK
#include <asm/prctl.h>
#endif

/* A return to another fiber would not match the thread's shadow stack. */
static inline bool fiber_has_shadow_stack(void)
{
#ifdef CONFIG_X86_USER_SHADOW_STACK
	return current->thread.features & ARCH_SHSTK_SHSTK;
#else
	return false;
#endif
}

/*
 * Where x86_task_fpu() is a function (CONFIG_X86_DEBUG_FPU) it is not exported;
 * the state lies directly behind the task there too. Before 6.16 it is a member.
 */
static inline struct fpu *fiber_task_fpu(struct task_struct *task)
{
#ifdef x86_task_fpu
	return x86_task_fpu(task);
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
	return (struct fpu *)(task + 1);
#else
	return &task->thread.fpu;
#endif
}

/* Whether the caller may read every /proc/PID/maps, without the right to trace the process. */
static inline bool fiber_may_read_all_maps(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
	return perfmon_capable();
#else
	return false;
#endif
}

static inline void fiber_inode_init_times(struct inode *inode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	simple_inode_init_ts(inode);
#else
	inode->i_mtime = current_time(inode);
	inode->i_atime = inode->i_mtime;
	inode->i_ctime = inode->i_mtime;
#endif
}

#ifdef ftrace_instruction_pointer_set
#define fiber_ftrace_set_ip	ftrace_instruction_pointer_set
#else
#define fiber_ftrace_set_ip	ftrace_regs_set_instruction_pointer
#endif

/* The parameters before the dentry of i_op->setattr, and the mapping that changes nothing. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#define FIBER_SETATTR_IDMAP	struct mnt_idmap *idmap
#define FIBER_NOP_IDMAP		(&nop_mnt_idmap)
#else
#define FIBER_SETATTR_IDMAP	struct user_namespace *idmap
#define FIBER_NOP_IDMAP		(&init_user_ns)
#endif

/* Looks a name up in a directory, with the caller's right to enter it. May sleep. */
static inline struct dentry *fiber_lookup_one(const char *name, int len, struct dentry *dir)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
	return lookup_one_unlocked(FIBER_NOP_IDMAP, &QSTR_LEN(name, len), dir);
#else
	return lookup_one_unlocked(FIBER_NOP_IDMAP, name, dir, len);
#endif
}

/*
 * The operations of a dentry that is being looked up, which have no others than
 * revalidation, deletion, and the end of inode and dentry. What does it is not
 * exported from Linux 6.17 on.
 */
static inline void fiber_set_dentry_ops(struct dentry *dentry,
					const struct dentry_operations *ops)
{
	spin_lock(&dentry->d_lock);
	dentry->d_op = ops;
	dentry->d_flags |= DCACHE_OP_REVALIDATE | DCACHE_OP_DELETE;
	spin_unlock(&dentry->d_lock);
}

/* The parameters before the dentry of d_op->d_revalidate. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
#define FIBER_REVALIDATE_DIR	struct inode *dir, const struct qstr *qname,
#else
#define FIBER_REVALIDATE_DIR
#endif

/* The parameters of tracepoint sched_process_exit after the private data. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
#define FIBER_EXIT_PROBE_ARGS	struct task_struct *task, bool group_dead
#else
#define FIBER_EXIT_PROBE_ARGS	struct task_struct *task
#endif

static inline void fiber_vm_flags(struct vm_area_struct *vma, unsigned long set,
				  unsigned long clear)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_mod(vma, set, clear);
#else
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
#endif
}

#endif /* FIBER_COMPAT_H */
