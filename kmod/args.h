/* SPDX-License-Identifier: GPL-2.0-only */
/* The door: structures from user space, which may be of an older or newer header. */
#ifndef FIBER_ARGS_H
#define FIBER_ARGS_H

#include <linux/mm.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include <fiber.h>

/*
 * Copies a structure that begins with its size; @first is the size of its first
 * version. -EFAULT; -EINVAL: too small; -E2BIG: larger, with something in it that
 * this module does not know.
 */
static inline int fiber_args_copy(void *args, size_t known, const void __user *user, size_t first)
{
	u32 size;

	if (get_user(size, (const u32 __user *)user))
		return -EFAULT;
	if (unlikely(size < first))
		return -EINVAL;
	if (unlikely(size > PAGE_SIZE))
		return -E2BIG;
	if (likely(size == known))
		return copy_from_user(args, user, known) ? -EFAULT : 0;
	return copy_struct_from_user(args, known, user, size);
}

static inline bool fiber_name_is_terminated(const char *name)
{
	return strnlen(name, FIBER_NAME_SIZE) < FIBER_NAME_SIZE;
}

#endif /* FIBER_ARGS_H */
