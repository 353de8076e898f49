// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fiber-local storage: a buffer of values and a bitmap of the allocated
 * positions, as in the reference report. All of it is about the calling fiber,
 * which its thread owns, so there is nothing to lock.
 */
#include <linux/bitmap.h>
#include <linux/gfp.h>
#include <linux/nospec.h>
#include <linux/slab.h>

#include "args.h"
#include "fls.h"
#include "user.h"

/**
 * struct fiber_storage - a fiber's values
 * @size: the number of positions there is room for
 * @values: @size values, then a bitmap of the allocated positions
 */
struct fiber_storage {
	u32 size;
	u64 values[];
};

/* Storage grows in these steps; each fills 96, 256, 1024, 4096 or 12288 bytes. */
static const u32 storage_sizes[] = { 10, 30, 125, 503, FIBER_FLS_MAX };

static size_t storage_bytes(u32 size)
{
	return sizeof(struct fiber_storage) + size * sizeof(u64) +
	       BITS_TO_LONGS(size) * sizeof(long);
}

/* Bytes that the storage occupies: beyond a page whole pages, not a power of two. */
static size_t storage_charge(u32 size)
{
	size_t bytes = storage_bytes(size);

	return bytes > PAGE_SIZE ? PAGE_ALIGN(bytes) : bytes;
}

static unsigned long *storage_used(struct fiber_storage *storage)
{
	return (unsigned long *)&storage->values[storage->size];
}

static struct fiber_storage *storage_alloc(u32 size)
{
	size_t bytes = storage_bytes(size);

	if (bytes > PAGE_SIZE)
		return alloc_pages_exact(bytes, GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	return kzalloc(bytes, GFP_KERNEL_ACCOUNT);
}

static void storage_free(struct fiber_storage *storage, struct fiber_user *user)
{
	u32 size;

	if (!storage)
		return;
	size = storage->size;
	if (storage_bytes(size) > PAGE_SIZE)
		free_pages_exact(storage, storage_bytes(size));
	else
		kfree(storage);
	fiber_user_uncharge(user, storage_charge(size));
}

/* Room for more; the values so far stay. -EAGAIN: there is no more. -EDQUOT, -ENOMEM. */
static int storage_grow(struct fiber *fiber)
{
	struct fiber_storage *old = fiber->storage, *new;
	unsigned int i = 0;
	int err;

	while (old && i < ARRAY_SIZE(storage_sizes) && storage_sizes[i] <= old->size)
		i++;
	if (i == ARRAY_SIZE(storage_sizes))
		return -EAGAIN;
	err = fiber_user_charge(fiber->user, storage_charge(storage_sizes[i]));
	if (err)
		return err;
	new = storage_alloc(storage_sizes[i]);
	if (!new) {
		fiber_user_uncharge(fiber->user, storage_charge(storage_sizes[i]));
		return -ENOMEM;
	}
	new->size = storage_sizes[i];
	if (old) {
		memcpy(new->values, old->values, old->size * sizeof(u64));
		bitmap_copy(storage_used(new), storage_used(old), old->size);
	}
	fiber->storage = new;
	storage_free(old, fiber->user);
	return 0;
}

/* Returns the place of an allocated position, else NULL. */
static u64 *storage_find(struct fiber *fiber, u64 index)
{
	struct fiber_storage *storage = fiber->storage;

	if (!storage || index >= storage->size)
		return NULL;
	index = array_index_nospec(index, storage->size);
	return test_bit(index, storage_used(storage)) ? &storage->values[index] : NULL;
}

/* No position is allocated any more; the memory stays. By the owner, in any context. */
void fiber_fls_reset(struct fiber *fiber)
{
	if (fiber->storage)
		bitmap_zero(storage_used(fiber->storage), fiber->storage->size);
}

void fiber_fls_destroy(struct fiber *fiber)
{
	storage_free(fiber->storage, fiber->user);
	fiber->storage = NULL;
}

/* FIBER_IOC_FLS_ALLOC; the report: FlsAlloc() */
long fiber_fls_alloc(struct fiber *fiber, u64 __user *user)
{
	u32 size = fiber->storage ? fiber->storage->size : 0;
	u32 index = size;
	int err;

	if (size)
		index = find_first_zero_bit(storage_used(fiber->storage), size);
	if (index == size) {
		err = storage_grow(fiber);
		if (err)
			return err;
	}
	if (put_user((u64)index, user))
		return -EFAULT;
	__set_bit(index, storage_used(fiber->storage));
	fiber->storage->values[index] = 0;
	return 0;
}

/* FIBER_IOC_FLS_FREE; the report: FlsFree() */
long fiber_fls_free(struct fiber *fiber, u64 index)
{
	if (!storage_find(fiber, index))
		return -EINVAL;
	__clear_bit(index, storage_used(fiber->storage));
	return 0;
}

/* The position that the request is about, or an error. */
static u64 *fls_place(struct fiber *fiber, struct fiber_fls *args,
		      const struct fiber_fls __user *user)
{
	u64 *place;
	int err;

	err = fiber_args_copy(args, sizeof(*args), user, sizeof(*args));
	if (err)
		return ERR_PTR(err);
	place = args->pad ? NULL : storage_find(fiber, args->index);
	return place ?: ERR_PTR(-EINVAL);
}

/* FIBER_IOC_FLS_SET; the report: FlsSet() */
long fiber_fls_set(struct fiber *fiber, const struct fiber_fls __user *user)
{
	struct fiber_fls args;
	u64 *place = fls_place(fiber, &args, user);

	if (IS_ERR(place))
		return PTR_ERR(place);
	*place = args.value;
	return 0;
}

/* FIBER_IOC_FLS_GET; the report: FlsGet() */
long fiber_fls_get(struct fiber *fiber, struct fiber_fls __user *user)
{
	struct fiber_fls args;
	u64 *place = fls_place(fiber, &args, user);

	if (IS_ERR(place))
		return PTR_ERR(place);
	return put_user(*place, &user->value);
}
