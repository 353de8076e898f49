// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fiber-local storage. All of it is about the calling fiber, which its thread
 * owns, so there is nothing to lock.
 */
#include <linux/bitmap.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

#define STORAGE_FIRST	8U

/**
 * struct fiber_storage - a fiber's values
 * @size: the number of positions there is room for
 * @values: @size values, then a bitmap of the allocated positions
 */
struct fiber_storage {
	u32 size;
	u64 values[];
};

static unsigned long *storage_used(struct fiber_storage *storage)
{
	return (unsigned long *)&storage->values[storage->size];
}

/* Room for more; what was there stays. */
static int storage_grow(struct fiber *fiber)
{
	struct fiber_storage *old = fiber->fls, *new;
	u32 size = old ? min(old->size * 4, (u32)FIBER_FLS_MAX) : STORAGE_FIRST;

	new = kzalloc(struct_size(new, values, size) + BITS_TO_LONGS(size) * sizeof(long),
		      GFP_KERNEL_ACCOUNT);
	if (!new)
		return -ENOMEM;
	new->size = size;
	if (old) {
		memcpy(new->values, old->values, old->size * sizeof(u64));
		bitmap_copy(storage_used(new), storage_used(old), old->size);
	}
	fiber->fls = new;
	kfree(old);
	return 0;
}

/* Returns the place of an allocated position, else NULL. */
static u64 *storage_find(struct fiber *fiber, u64 index)
{
	struct fiber_storage *storage = fiber->fls;

	if (!storage || index >= storage->size)
		return NULL;
	index = array_index_nospec(index, storage->size);
	return test_bit(index, storage_used(storage)) ? &storage->values[index] : NULL;
}

/* FIBER_IOC_FLS_ALLOC */
long fiber_fls_alloc(struct fiber *fiber, u64 __user *user)
{
	u32 size = fiber->fls ? fiber->fls->size : 0;
	u32 index = size;
	int err;

	if (size)
		index = find_first_zero_bit(storage_used(fiber->fls), size);
	if (index == FIBER_FLS_MAX)
		return -EAGAIN;
	if (index == size) {
		err = storage_grow(fiber);
		if (err)
			return err;
	}
	if (put_user((u64)index, user))
		return -EFAULT;
	__set_bit(index, storage_used(fiber->fls));
	fiber->fls->values[index] = 0;
	return 0;
}

/* FIBER_IOC_FLS_FREE */
long fiber_fls_free(struct fiber *fiber, u64 index)
{
	if (!storage_find(fiber, index))
		return -EINVAL;
	__clear_bit(index, storage_used(fiber->fls));
	return 0;
}

/* FIBER_IOC_FLS_SET */
long fiber_fls_set(struct fiber *fiber, const struct fiber_fls __user *user)
{
	struct fiber_fls args;
	u64 *place;

	if (copy_from_user(&args, user, sizeof(args)))
		return -EFAULT;
	place = storage_find(fiber, args.index);
	if (!place)
		return -EINVAL;
	*place = args.value;
	return 0;
}

/* FIBER_IOC_FLS_GET */
long fiber_fls_get(struct fiber *fiber, struct fiber_fls __user *user)
{
	u64 index, *place;

	if (get_user(index, &user->index))
		return -EFAULT;
	place = storage_find(fiber, index);
	if (!place)
		return -EINVAL;
	return put_user(*place, &user->value);
}
